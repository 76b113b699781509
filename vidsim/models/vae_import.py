"""Weights of diffusers' AutoencoderKLWan (Wan 2.1 and 2.2) to our tree and back; numpy only.

One table pairs the names; both directions read it. Kernels change from [out, in, t, h, w] to
[t, h, w, in, out], and the channels of folded pixels from (colour, column, row) to (row, column,
colour).
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.trees import flatten, unflatten
from vidsim.models.vae_config import VaeConfig

WAN_DEFAULTS: dict[str, Any] = {
    "base_dim": 96, "decoder_base_dim": None, "z_dim": 16, "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2, "attn_scales": (), "temperal_downsample": (False, True, True),
    "is_residual": False, "in_channels": 3, "out_channels": 3, "patch_size": None,
}  # fmt: skip


class Pair(NamedTuple):
    """Our path, their name, and how the array is laid out."""

    ours: str
    theirs: str
    kind: str  # conv3, conv2, linear, gain or bias
    pixels: str = ""  # which side counts folded pixels: "in", "out" or neither


def config_from_wan(config: Mapping[str, Any]) -> VaeConfig:
    """Our config for the config.json of an AutoencoderKLWan (missing keys as in diffusers).

    Raises  BadInput for shapes that we do not have
    """
    known = {key: config.get(key, default) for key, default in WAN_DEFAULTS.items()}
    patch = known["patch_size"] or 1
    for side in ("in_channels", "out_channels"):
        if known[side] != 3 * patch * patch:
            raise bad("wan config", f"{side} {known[side]}", f"{3 * patch * patch}: RGB, folded")
    if len(known["attn_scales"]):
        raise bad("wan config", f"attn_scales {known['attn_scales']}", "none")
    return VaeConfig(
        latent_channels=known["z_dim"],
        base_dim=known["base_dim"],
        decoder_dim=known["decoder_base_dim"],
        dim_mult=tuple(known["dim_mult"]),
        num_res_blocks=known["num_res_blocks"],
        decoder_res_blocks=known["num_res_blocks"] + 1,
        space_down=(True,) * (len(known["dim_mult"]) - 1),
        time_down=tuple(known["temperal_downsample"]),
        patch=(1, patch, patch),
        residual=known["is_residual"],
        norm_eps=1e-12,
    )


def config_to_wan(cfg: VaeConfig) -> dict[str, Any]:
    """The config.json of the AutoencoderKLWan with our shape. Raises BadInput if there is none."""
    _check_wan(cfg)
    patch = cfg.patch[1]
    return {
        "base_dim": cfg.base_dim,
        "decoder_base_dim": cfg.decoder_dim,
        "z_dim": cfg.latent_channels,
        "dim_mult": list(cfg.dim_mult),
        "num_res_blocks": cfg.num_res_blocks,
        "temperal_downsample": list(cfg.time_down),
        "is_residual": cfg.residual,
        "in_channels": cfg.pixel_channels,
        "out_channels": cfg.pixel_channels,
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": cfg.time_stride,
        "scale_factor_spatial": cfg.space_stride,
    }


def from_wan(state: Mapping[str, np.ndarray], cfg: VaeConfig) -> dict[str, Any]:
    """Our weights from a state dict.

    state   arrays by diffusers name; every one must be used
    Raises  BadInput naming the first array that is missing, superfluous or of another shape
    """
    pairs = list(_pairs(cfg))
    names = {pair.theirs for pair in pairs}
    for name in sorted(names ^ set(state)):
        what = "is missing" if name in names else "belongs to no layer"
        raise bad("wan weights", f"{name!r} {what}", "the weights of this config")
    out = {p.ours: _to_ours(p, np.asarray(state[p.theirs], np.float32), cfg) for p in pairs}
    return unflatten(out)


def to_wan(params: Mapping[str, Any], cfg: VaeConfig) -> dict[str, np.ndarray]:
    """The state dict of an AutoencoderKLWan from our weights; the inverse of `from_wan`."""
    _check_wan(cfg)
    flat = flatten(params)
    return {p.theirs: _to_theirs(p, np.asarray(flat[p.ours], np.float32), cfg) for p in _pairs(cfg)}


def _check_wan(cfg: VaeConfig) -> None:
    wrong = {
        "decoder_res_blocks": cfg.decoder_res_blocks != cfg.num_res_blocks + 1,
        "mid_attention": not cfg.mid_attention,
        "patch": cfg.patch[0] > 1,
        "space_down": not all(cfg.space_down),
    }
    for name, differs in wrong.items():
        if differs:
            raise bad("wan export", f"{name} {getattr(cfg, name)}", "a shape that Wan has")


def _pairs(cfg: VaeConfig) -> Iterator[Pair]:
    yield from _encoder(cfg)
    yield from _conv("encoder/moments", "quant_conv")
    yield from _conv("decoder/unmoments", "post_quant_conv")
    yield from _decoder(cfg)


def _conv(ours: str, theirs: str, kind: str = "conv3", pixels: str = "") -> Iterator[Pair]:
    bias_pixels = pixels if pixels == "out" else ""
    yield Pair(f"{ours}/w", f"{theirs}.weight", kind, pixels)
    yield Pair(f"{ours}/b", f"{theirs}.bias", "bias", bias_pixels)


def _res(ours: str, theirs: str, cin: int, cout: int) -> Iterator[Pair]:
    for i in (1, 2):
        yield Pair(f"{ours}/norm{i}/g", f"{theirs}.norm{i}.gamma", "gain3")
        yield from _conv(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    if cin != cout:
        yield from _conv(f"{ours}/short", f"{theirs}.conv_shortcut")


def _middle(ours: str, theirs: str, width: int) -> Iterator[Pair]:
    for i in (0, 1):
        yield from _res(f"{ours}/res{i}", f"{theirs}.resnets.{i}", width, width)
    attention = f"{theirs}.attentions.0"
    yield Pair(f"{ours}/attention/norm/g", f"{attention}.norm.gamma", "gain2")
    yield from _conv(f"{ours}/attention/qkv", f"{attention}.to_qkv", "linear")
    yield from _conv(f"{ours}/attention/proj", f"{attention}.proj", "linear")


def _encoder(cfg: VaeConfig) -> Iterator[Pair]:
    widths = cfg.encoder_widths
    yield from _conv("encoder/conv_in", "encoder.conv_in", pixels="in")
    layer = 0  # Wan 2.1 counts all layers of all stages in one list
    for i, cout in enumerate(widths[1:]):
        ours, last, cin = f"encoder/stage{i}", i == len(widths) - 2, widths[i]
        block = f"encoder.down_blocks.{i}"
        for j in range(cfg.num_res_blocks):
            name = f"{block}.resnets.{j}" if cfg.residual else f"encoder.down_blocks.{layer}"
            yield from _res(f"{ours}/res{j}", name, cin if j == 0 else cout, cout)
            layer += 1
        if last:
            continue
        down = f"{block}.downsampler" if cfg.residual else f"encoder.down_blocks.{layer}"
        layer += 1
        yield from _conv(f"{ours}/space", f"{down}.resample.1", "conv2")
        if cfg.time_down[i]:
            yield from _conv(f"{ours}/time", f"{down}.time_conv")
    yield from _middle("encoder/middle", "encoder.mid_block", widths[-1])
    yield Pair("encoder/norm_out/g", "encoder.norm_out.gamma", "gain3")
    yield from _conv("encoder/conv_out", "encoder.conv_out")


def _decoder(cfg: VaeConfig) -> Iterator[Pair]:
    widths = cfg.decoder_widths
    yield from _conv("decoder/conv_in", "decoder.conv_in")
    yield from _middle("decoder/middle", "decoder.mid_block", widths[0])
    cin = widths[0]
    for i, cout in enumerate(widths[1:]):
        ours, block = f"decoder/stage{i}", f"decoder.up_blocks.{i}"
        for j in range(cfg.decoder_res_blocks):
            yield from _res(f"{ours}/res{j}", f"{block}.resnets.{j}", cin if j == 0 else cout, cout)
        cin = cout
        if i < len(widths) - 2:
            up = f"{block}.upsampler" if cfg.residual else f"{block}.upsamplers.0"
            yield from _conv(f"{ours}/space/conv", f"{up}.resample.1", "conv2")
            if cfg.time_down[::-1][i]:
                yield from _conv(f"{ours}/time", f"{up}.time_conv")
            cin = cout if cfg.residual else cout // 2
    yield Pair("decoder/norm_out/g", "decoder.norm_out.gamma", "gain3")
    yield from _conv("decoder/conv_out", "decoder.conv_out", pixels="out")


_AXES = {"conv3": (2, 3, 4, 1, 0), "conv2": (2, 3, 1, 0), "linear": (2, 3, 1, 0)}
_RANK = {"conv3": 5, "conv2": 4, "linear": 4, "gain3": 4, "gain2": 3, "bias": 1}


def _to_ours(pair: Pair, array: np.ndarray, cfg: VaeConfig) -> np.ndarray:
    if array.ndim != _RANK[pair.kind]:
        raise bad("wan weights", f"{pair.theirs!r} has shape {array.shape}", f"for {pair.kind}")
    if pair.kind in _AXES:
        array = array.transpose(_AXES[pair.kind])
    if pair.kind == "linear":
        array = array[0, 0]
    elif pair.kind == "conv2":
        array = array[None]
    elif pair.kind.startswith("gain"):
        array = array.reshape(-1)
    return _reorder(array, pair.pixels, _pixel_order(cfg))


def _to_theirs(pair: Pair, array: np.ndarray, cfg: VaeConfig) -> np.ndarray:
    array = _reorder(array, pair.pixels, np.argsort(_pixel_order(cfg)))
    if pair.kind == "linear":
        array = array[None, None]
    elif pair.kind == "conv2":
        array = array[0]
    elif pair.kind.startswith("gain"):
        array = array.reshape(-1, *(1,) * (_RANK[pair.kind] - 1))
    if pair.kind in _AXES:
        array = array.transpose(np.argsort(_AXES[pair.kind]))
    return np.ascontiguousarray(array)


def _pixel_order(cfg: VaeConfig) -> np.ndarray:
    """Their index of each of our folded channels: ours (row, column, colour), theirs reversed."""
    _, rows, cols = cfg.patch
    return np.arange(3 * rows * cols).reshape(3, cols, rows).transpose(2, 1, 0).reshape(-1)


def _reorder(array: np.ndarray, side: str, order: np.ndarray) -> np.ndarray:
    if not side:
        return array
    return np.take(array, order, axis=array.ndim - (2 if side == "in" else 1))
