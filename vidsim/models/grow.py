"""More latent channels for an autoencoder and its denoiser, a larger network for the latter, with
what they know kept.

The old channels stay what they were, number for number; further ones follow them. So an autoencoder
that turned out too narrow is widened without training its denoiser anew, and a denoiser that has
stopped getting better goes on as a larger one.
"""

from typing import Any

import jax
import numpy as np

from vidsim.core.trees import flatten, unflatten
from vidsim.models.latents import LatentConfig, channel_weights
from vidsim.models.vae import Tree, Vae
from vidsim.models.vae_linear import START_LOGVAR, BlockMoments

PROBE_SEED = 0
ALIKE = 1e-3  # of latents of unit variance; the same products in another order differ by 1e-6
SPEAKS = ("blocks/self/out/", "blocks/cross/out/", "blocks/down/")  # all that a block adds


def grown_vae(moments: BlockMoments, old: Tree, fresh: Tree, motion: float = 1.0) -> Tree:
    """An autoencoder's weights with further channels: the principal components of what its linear
    map leaves over. At first they pass by the decoder's convolutions, which do as before.

    moments  of the data's blocks, gathered with the wider autoencoder
    old      weights of the narrower one, alike in everything else
    fresh    new weights of the wider one: what its convolutions make of the further channels
    motion   as in `BlockMoments.components`
    """
    was = {path: np.asarray(value) for path, value in flatten(old).items()}
    new = {path: np.asarray(value) for path, value in flatten(fresh).items()}
    pixels, few = was["decoder/linear/w"].shape[-1], was["decoder/linear/w"].shape[-2]
    many = new["decoder/linear/w"].shape[-2]
    kept = np.r_[0:few, many : many + few]  # of the encoder's means and log variances
    mean, std, axes = moments.components(
        many - few, was["decoder/linear/w"].reshape(few, -1), motion
    )
    first, last = slice(0, few), slice(few, many)

    def placed(path: str, *places: Any, base: np.ndarray | None = None) -> np.ndarray:
        out = np.zeros_like(new[path]) if base is None else base.copy()
        out[(..., *places)] = was[path]
        return out

    encode = np.zeros((pixels, 2 * many), np.float32)
    encode[:, last] = axes / std
    encode_b = np.r_[np.zeros(many), np.full(many, START_LOGVAR)].astype(np.float32)
    encode_b[last] = -(mean @ axes) / std
    decode = np.zeros_like(new["decoder/linear/w"])
    decode[..., last, :] = (axes * std).T
    changed = {
        "encoder/conv_out/w": placed("encoder/conv_out/w", kept),
        "encoder/conv_out/b": placed("encoder/conv_out/b", kept),
        "encoder/moments/w": placed("encoder/moments/w", kept[:, None], kept),
        "encoder/moments/b": placed("encoder/moments/b", kept),
        "encoder/linear/w": placed("encoder/linear/w", kept, base=encode[None, None, None]),
        "encoder/linear/b": placed("encoder/linear/b", kept, base=encode_b),
        "decoder/unmoments/w": placed("decoder/unmoments/w", first, first),
        "decoder/unmoments/b": placed("decoder/unmoments/b", first),
        "decoder/conv_in/w": placed(
            "decoder/conv_in/w", first, slice(None), base=new["decoder/conv_in/w"]
        ),
        "decoder/linear/w": placed("decoder/linear/w", first, slice(None), base=decode),
    }
    return unflatten(was | changed)


def same_latents(old: Vae, old_params: Tree, new: Vae, new_params: Tree) -> bool:
    """Whether the new autoencoder's first channels are all of the old one's, on random pixels."""
    few, many = old.cfg.latent_channels, new.cfg.latent_channels
    strides = [(v.cfg.time_stride, v.cfg.space_stride) for v in (old, new)]
    if few > many or strides[0] != strides[1]:
        return False
    frames, side = 1 + 2 * old.cfg.time_stride, 2 * old.cfg.space_stride
    pixels = np.random.default_rng(PROBE_SEED).uniform(-1, 1, (1, frames, side, side, 3))
    ours, theirs = (
        np.asarray(jax.jit(vae.encode)(params, pixels.astype(np.float32))[0])
        for vae, params in ((old, old_params), (new, new_params))
    )
    return bool(np.abs(ours - theirs[..., :few]).max() <= ALIKE * max(1.0, np.abs(ours).max()))


def continues(old: LatentConfig, new: LatentConfig) -> bool:
    """Whether the statistics of the new latents begin with those of the old ones."""
    few = len(old.mean)
    heads = [(x.patch, x.mean[:few], x.std[:few], x.gain[:few]) for x in (old, new)]
    return heads[0] == heads[1] and len(new.mean) >= few


def grown_patches(
    dit: Tree, old: LatentConfig, new: LatentConfig, exponents: tuple[float, float]
) -> Tree:
    """A denoiser's weights for patches of more channels (or as many): it sees and says of the old
    ones what it did, and nothing of the further ones.

    exponents  `channel_weight` of the old and of the new configuration, which scale what it sees
    """
    flat = {path: np.asarray(value) for path, value in flatten(dit).items()}
    few, many, cells = len(old.mean), len(new.mean), int(np.prod(new.patch))
    weights = [
        np.asarray(channel_weights(latent, len(latent.mean), exponent))
        for latent, exponent in zip((old, new), exponents, strict=True)
    ]
    scale = np.sqrt(weights[0] / weights[1][:few])

    def wider(x: np.ndarray, axis: int) -> np.ndarray:
        split = np.moveaxis(x, axis, -1)
        split = split.reshape(*split.shape[:-1], cells, few)
        room = [(0, 0)] * (split.ndim - 1) + [(0, many - few)]
        out = np.pad(split, room).reshape(*split.shape[:-2], cells * many)
        return np.moveaxis(out, -1, axis)

    rows = np.tile(scale, cells).astype(np.float32)
    seen = [path for path in ("inputs/patch/w", "inputs/estimate/w") if path in flat]
    return unflatten(flat | {path: wider(flat[path] * rows[:, None], -2) for path in seen} | {
        "head/out/w": wider(flat["head/out/w"], -1),
        "head/out/b": wider(flat["head/out/b"], -1),
    })  # fmt: skip


def grown_network(old: Tree, fresh: Tree) -> Tree:
    """A denoiser's weights with further blocks behind its own, further hidden units in each, and
    the reading of what was said before (`self_condition`): what is new adds nothing at first, so
    the network is the same function (as arXiv:1511.05641's).

    fresh  new weights of the larger network: what the further blocks and units read
    """
    was = {path: np.asarray(value) for path, value in flatten(old).items()}
    grown = {}
    for path, value in flatten(fresh).items():
        out = np.array(value)
        if path.startswith(SPEAKS) or path not in was:
            out[...] = 0.0
        if path in was:
            out[tuple(slice(size) for size in was[path].shape)] = was[path]
        grown[path] = out
    return unflatten(grown)


def grown_facts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Latent statistics of a wider autoencoder: the old channels', then what was measured of the
    further ones. Of an old autoencoder without gains none are stated."""
    few = len(old["mean"])
    known: list[str] = [name for name in ("mean", "std", "gain") if name in old]
    tails = {name: old[name] + new[name][few:] for name in known}
    return {**old, **tails}
