"""Weights of diffusers' WanTransformer3DModel to our tree and back, as numpy arrays.

One table pairs the names; both directions read it. Matrices are transposed, the patch convolution
becomes a matrix over (pt, ph, pw, c), and the self-attention's query and key columns change from
pairs side by side to halves (see `vidsim.nn.rope`). Blocks are stacked on a leading axis.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.trees import flatten, unflatten
from vidsim.models.dit import DiT
from vidsim.models.dit_config import DiTConfig
from vidsim.nn.rope import pair_order

Patch = tuple[int, int, int]


class Pair(NamedTuple):
    """Our path, their name, and how the array is laid out."""

    ours: str
    theirs: str
    kind: str  # matrix, vector, table, patch; turned_matrix and turned_vector carry rotated columns


def config_from_wan(config: Mapping[str, Any]) -> tuple[DiTConfig, Patch]:
    """Our shape and patch size for the config.json of a WanTransformer3DModel.

    Raises BadInput for variants that we do not have (image embeddings, norms per head)
    """
    for key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
        if config.get(key) is not None:
            raise bad("wan transformer", f"{key} {config[key]}", "none: text-to-video weights")
    if config.get("qk_norm") not in ("rms_norm_across_heads", None):
        raise bad("wan transformer", f"qk_norm {config['qk_norm']!r}", "rms_norm_across_heads")
    pt, ph, pw = config["patch_size"]
    if config.get("out_channels") not in (None, config["in_channels"]):
        what = f"{config['in_channels']} channels in, {config['out_channels']} out"
        raise bad("wan transformer", what, "equal numbers: text-to-video weights")
    heads = config["num_attention_heads"]
    cfg = DiTConfig(
        patch_width=config["in_channels"] * pt * ph * pw,
        text_width=config["text_dim"],
        width=heads * config["attention_head_dim"],
        heads=heads,
        mlp_width=config["ffn_dim"],
        layers=config["num_layers"],
        freq_width=config["freq_dim"],
        cross_norm=config["cross_attn_norm"],
        eps=config["eps"],
        clip_embedding=False,
    )
    return cfg, (pt, ph, pw)


def from_wan(
    state: Mapping[str, np.ndarray], cfg: DiTConfig, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Our weights from a state dict.

    state   arrays by diffusers name; every one must be used
    extra   a tree of ours, say `DiT.init`'s, whose clip and action embeddings are taken: Wan has
            none, and as they start from zero they change nothing
    Raises  BadInput naming the first array that is missing, superfluous or of another shape
    """
    pairs = list(_pairs(cfg))
    names = {name for pair in pairs for name in _names(pair, cfg)}
    for name in sorted(names ^ set(state)):
        what = "is missing" if name in names else "belongs to no layer"
        raise bad("wan weights", f"{name!r} {what}", "the weights of this config")
    flat = {k: np.asarray(v, np.float32) for k, v in flatten(dict(extra or {})).items()}
    for pair in pairs:
        made = [_to_ours(pair, state[name], cfg) for name in _names(pair, cfg)]
        flat[pair.ours] = np.stack(made) if "{}" in pair.theirs else made[0]
    wanted = flatten(jax.eval_shape(DiT(cfg).init, jax.random.key(0)))
    for path in sorted(wanted.keys() | flat.keys()):
        if path not in flat:
            raise bad("wan weights", f"none for {path!r}", change="give extra, or leave it out")
        if path not in wanted or flat[path].shape != wanted[path].shape:
            expected = f"expected {wanted[path].shape}" if path in wanted else "not in the config"
            raise bad("wan weights", f"{path!r} has shape {flat[path].shape}", expected)
    return unflatten(flat)


def to_wan(params: Mapping[str, Any], cfg: DiTConfig, patch: Patch) -> dict[str, np.ndarray]:
    """The state dict of a WanTransformer3DModel from our weights; clip and action embeddings are
    left behind, so it is the inverse of `from_wan` only where these are zero."""
    flat, state = flatten(dict(params)), {}
    for pair in _pairs(cfg):
        array = np.asarray(flat[pair.ours], np.float32)
        layers = array if "{}" in pair.theirs else array[None]
        for name, one in zip(_names(pair, cfg), layers, strict=True):
            state[name] = np.ascontiguousarray(_to_theirs(pair, one, cfg, patch))
    return state


def _pairs(cfg: DiTConfig) -> Iterator[Pair]:
    def linear(ours: str, theirs: str, kind: str = "") -> Iterator[Pair]:
        yield Pair(f"{ours}/w", f"{theirs}.weight", f"{kind}matrix")
        yield Pair(f"{ours}/b", f"{theirs}.bias", f"{kind}vector")

    yield Pair("inputs/patch/w", "patch_embedding.weight", "patch")
    yield Pair("inputs/patch/b", "patch_embedding.bias", "vector")
    embed = "condition_embedder"
    yield from linear("inputs/time/in", f"{embed}.time_embedder.linear_1")
    yield from linear("inputs/time/out", f"{embed}.time_embedder.linear_2")
    yield from linear("inputs/time/six", f"{embed}.time_proj")
    yield from linear("inputs/text_in", f"{embed}.text_embedder.linear_1")
    yield from linear("inputs/text_out", f"{embed}.text_embedder.linear_2")
    for ours, theirs, turned in (("self", "attn1", "turned_"), ("cross", "attn2", "")):
        for name in ("q", "k"):
            path = f"blocks/{ours}/{name}"
            yield from linear(path, f"blocks.{{}}.{theirs}.to_{name}", turned)
            if cfg.qk_norm:
                norm = f"blocks.{{}}.{theirs}.norm_{name}.weight"
                yield Pair(f"{path}_norm", norm, f"{turned}vector")
        yield from linear(f"blocks/{ours}/v", f"blocks.{{}}.{theirs}.to_v")
        yield from linear(f"blocks/{ours}/out", f"blocks.{{}}.{theirs}.to_out.0")
    if cfg.cross_norm:
        yield Pair("blocks/norm_g", "blocks.{}.norm2.weight", "vector")
        yield Pair("blocks/norm_b", "blocks.{}.norm2.bias", "vector")
    yield from linear("blocks/up", "blocks.{}.ffn.net.0.proj")
    yield from linear("blocks/down", "blocks.{}.ffn.net.2")
    yield Pair("blocks/table", "blocks.{}.scale_shift_table", "table")
    yield from linear("head/out", "proj_out")
    yield Pair("head/table", "scale_shift_table", "table")


def _names(pair: Pair, cfg: DiTConfig) -> list[str]:
    return [pair.theirs.format(i) for i in range(cfg.layers if "{}" in pair.theirs else 1)]


_RANK = {"patch": 5, "table": 3, "matrix": 2, "turned_matrix": 2, "vector": 1, "turned_vector": 1}


def _to_ours(pair: Pair, array: np.ndarray, cfg: DiTConfig) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.ndim != _RANK[pair.kind]:
        raise bad("wan weights", f"{pair.theirs!r} has shape {array.shape}", f"for {pair.kind}")
    if pair.kind == "patch":
        return array.transpose(2, 3, 4, 1, 0).reshape(-1, array.shape[0])
    if pair.kind == "table":
        return array[0]
    array = array.T if pair.kind.endswith("matrix") else array
    turned = pair.kind.startswith("turned")
    return array[..., pair_order(cfg.head_width, cfg.heads)] if turned else array


def _to_theirs(pair: Pair, array: np.ndarray, cfg: DiTConfig, patch: Patch) -> np.ndarray:
    if pair.kind == "patch":
        return array.reshape(*patch, -1, cfg.width).transpose(4, 3, 0, 1, 2)
    if pair.kind == "table":
        return array[None]
    if pair.kind.startswith("turned"):
        array = array[..., np.argsort(pair_order(cfg.head_width, cfg.heads))]
    return array.T if pair.kind.endswith("matrix") else array
