"""What judges reconstructions besides the pixels: a patch discriminator and a perceptual distance.

Both take videos [B, T, H, W, 3] in [-1, 1]; an image is one frame. No weights come with them: the
discriminator is trained beside the autoencoder, the perceptual network is the user's own.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidsim.core.errors import bad, nearest
from vidsim.core.precision import compute_dtype
from vidsim.nn.conv import CausalConv, ChannelNorm, apply_mask, fold, grow_mask
from vidsim.nn.init import init_params, param_axes

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Patch discriminator (arXiv:1611.07004, section 3.2) with convolutions over time.

    width   channels of the first layer; doubled at each halving of the size
    halves  how often height and width are halved after folding; one judgement covers
            4 * 2**halves pixels squared and its surroundings
    dtype   operands of convolutions
    """

    width: int = 64
    halves: int = 2
    dtype: str = "float32"

    def __post_init__(self) -> None:
        compute_dtype(self.dtype, "CriticConfig.dtype")
        if self.width < 1 or self.halves < 0:
            raise bad("CriticConfig", f"width {self.width}, halves {self.halves}", "positive")

    @property
    def stride(self) -> int:
        """Pixels per judgement."""
        return FOLD * 2**self.halves


FOLD = 4  # a convolution over three channels at full size would cost more than all the others


class _CriticNet(nn.Module):
    cfg: CriticConfig

    @nn.compact
    def __call__(self, video_BTHWC: jax.Array, valid: jax.Array | None) -> jax.Array:
        dtype = compute_dtype(self.cfg.dtype)
        x, cin, cout = fold(video_BTHWC, (1, FOLD, FOLD)), 3 * FOLD**2, self.cfg.width
        for i in range(self.cfg.halves + 1):
            if i:
                x, cin, cout = fold(x, (1, 2, 2)), 4 * cout, 2 * cout
            mask = grow_mask(valid, 2 ** (self.cfg.halves - i))
            axes = ("patch" if i == 0 else "conv_in", "conv_out")
            x = CausalConv(cin, cout, axes=axes, dtype=dtype, name=f"conv{i}")(x, mask)
            x = nn.leaky_relu(ChannelNorm(cout, name=f"norm{i}")(x), 0.2)
        x = CausalConv(cout, 1, axes=("conv_in", None), dtype=dtype, name="judge")(x, valid)
        return x[..., 0].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Critic:
    """The discriminator of a config, as functions of its weights (a plain tree)."""

    cfg: CriticConfig

    def init(self, key: jax.Array) -> Tree:
        """Fresh weights."""
        return init_params(self._net, key, self._probe(), None)

    def param_axes(self) -> Tree:
        """Logical axis names of each weight."""
        return param_axes(self._net, self._probe(), None)

    def apply(
        self, params: Tree, video_BTHWC: jax.Array, valid_BHW: jax.Array | None = None
    ) -> jax.Array:
        """One judgement per patch and frame: float32 [B, T, H / stride, W / stride]; high = real.

        valid_BHW  bool [B, H / stride, W / stride], True where the clip is; None = everywhere
        Raises     BadInput when a side is no multiple of the stride
        """
        h, w = video_BTHWC.shape[2:4]
        if h % self.cfg.stride or w % self.cfg.stride:
            raise bad("critic", f"{h}x{w} pixels", f"multiples of {self.cfg.stride}")
        mask = None if valid_BHW is None else valid_BHW[:, None, :, :, None]
        full = grow_mask(mask, self.cfg.stride)
        return self._net.apply({"params": params}, apply_mask(video_BTHWC, full), mask)

    @functools.cached_property
    def _net(self) -> nn.Module:
        return _CriticNet(self.cfg)

    def _probe(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 1, self.cfg.stride, self.cfg.stride, 3), jnp.float32)


def hinge_critic(
    real_BThw: jax.Array, fake_BThw: jax.Array, weight_BThw: jax.Array | None = None
) -> jax.Array:
    """Loss of the discriminator: mean of relu(1 - real) + relu(1 + fake) (arXiv:1705.02894, eq. 6).

    weight_BThw  share of each judgement, e.g. 0 outside the clips; None = all alike
    """
    return _mean(nn.relu(1.0 - real_BThw) + nn.relu(1.0 + fake_BThw), weight_BThw)


def hinge_generator(fake_BThw: jax.Array, weight_BThw: jax.Array | None = None) -> jax.Array:
    """Loss of the autoencoder against the discriminator: minus the mean judgement."""
    return -_mean(fake_BThw, weight_BThw)


@dataclasses.dataclass(frozen=True)
class PerceptualSpec:
    """A plain stack of convolutions, as a JSON file beside the weights describes it.

    mean, std  of RGB in [0, 1], taken off before the first layer
    layers     in order: "conv NAME" (stride 1, same size; weights NAME.weight [out, in, k, k] and
               NAME.bias), "relu", "pool" (2x2 maximum), "tap" or "tap FACTOR" (compare here)
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        for layer in self.layers:
            words = layer.split()
            if not words or words[0] not in ("conv", "relu", "pool", "tap"):
                what = f"layer {layer!r}"
                raise bad("perceptual", what, nearest(layer, ("conv", "relu", "pool", "tap")))
            if words[0] == "conv" and len(words) != 2:
                raise bad("perceptual", f"layer {layer!r}", "conv NAME")
        if not any(layer.startswith("tap") for layer in self.layers):
            raise bad("perceptual", "no tap among the layers", "at least one")


def perceptual_distance(
    spec: PerceptualSpec,
    weights: Mapping[str, jax.Array],
    a_BTHWC: jax.Array,
    b_BTHWC: jax.Array,
    valid_BHW: jax.Array | None = None,
) -> jax.Array:
    """Mean over taps of the squared distance of unit-length features (arXiv:1801.03924, eq. 1).

    a, b       videos in [-1, 1], compared frame by frame
    valid_BHW  bool, pixels that count; None = all
    Returns    float32 [B]
    Raises     BadInput naming a weight that is missing
    """
    batch, frames = a_BTHWC.shape[:2]
    pair = jnp.concatenate([a_BTHWC, b_BTHWC]).astype(jnp.float32)
    x = pair.reshape(-1, *pair.shape[2:]) * 0.5 + 0.5
    x = (x - jnp.asarray(spec.mean).reshape(1, 1, 1, 3)) / jnp.asarray(spec.std).reshape(1, 1, 1, 3)
    keep = jnp.ones(a_BTHWC[:, 0, :, :, :1].shape) if valid_BHW is None else valid_BHW[..., None]
    keep = jnp.repeat(keep.astype(jnp.float32), frames, axis=0)
    x, total = x * jnp.concatenate([keep, keep]), jnp.zeros((batch,))
    for layer in spec.layers:
        kind, *words = layer.split()
        if kind == "conv":
            x = _conv2d(x, weights, words[0])
        elif kind == "relu":
            x = nn.relu(x)
        elif kind == "pool":
            x, keep = _pool(x), _pool(keep)
        else:
            factor = float(words[0]) if words else 1.0
            total = total + factor * _tap(x, keep, batch)
    return total


def _conv2d(x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
    for part in (f"{name}.weight", f"{name}.bias"):
        if part not in weights:
            raise bad("perceptual", f"weight {part!r} missing", nearest(part, weights))
    w = jnp.asarray(weights[f"{name}.weight"], jnp.float32).transpose(2, 3, 1, 0)
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + jnp.asarray(weights[f"{name}.bias"], jnp.float32).reshape(1, 1, 1, -1)


def _pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _tap(x: jax.Array, keep: jax.Array, batch: int) -> jax.Array:
    unit = x * lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-10)
    a, b = jnp.split(unit, 2)
    distance = jnp.sum(jnp.square(a - b), -1, keepdims=True) * keep
    seen = jnp.sum(keep.reshape(batch, -1), axis=1)
    return jnp.sum(distance.reshape(batch, -1), axis=1) / jnp.maximum(seen, 1.0)


def _mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    if weight is None:
        return jnp.mean(x)
    weight = weight.astype(jnp.float32)
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)
