"""Every weight of the project is made here, with the names of its logical axes.

Axis names: embed (width of the denoiser), caption (width of the text encoder), mlp, heads,
kv_heads, layers, vocab, patch, text, time, conv_in, conv_out, latent, table, and None for an axis
that is never sharded. `vidsim.parallel.rules` maps names to mesh axes; `vidsim.train.optim` picks
the optimiser by them.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidsim.parallel.place import constrain

Axes = tuple[str | None, ...]
Init = Callable[..., jax.Array]


def fan_in_normal(scale: float = 1.0, fan_axes: tuple[int, ...] = (-2,)) -> Init:
    """Truncated normal with variance scale / fan_in; fan_in is the product over `fan_axes`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        fan = 1
        for axis in fan_axes:
            fan *= shape[axis]
        std = (scale / max(fan, 1)) ** 0.5 / 0.87962566  # std of a normal cut at two sigma
        return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


INITS: dict[str, Init] = {
    "fan_in": fan_in_normal(),
    "zero": nn.initializers.zeros,
    "one": nn.initializers.ones,
    "small": nn.initializers.normal(0.02),
}


def param(
    module: nn.Module, name: str, init: Init | str, shape: tuple[int, ...], axes: Axes
) -> jax.Array:
    """Declares a float32 weight with logical axes; returns the plain array."""
    if len(axes) != len(shape):
        raise ValueError(f"{name}: {len(axes)} axis names {axes} for shape {shape}")
    make = INITS[init] if isinstance(init, str) else init
    return module.param(name, nn.with_partitioning(make, axes), shape, jnp.float32)


class Linear(nn.Module):
    """y = x w + b over the last axis; weight [din, dout] in float32, product in `dtype`."""

    din: int
    dout: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True
    init: str | Init = "fan_in"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = param(self, "w", self.init, (self.din, self.dout), self.axes)
        y = jnp.matmul(x.astype(self.dtype), w.astype(self.dtype))
        if self.use_bias:
            b = param(self, "b", "zero", (self.dout,), (self.axes[1],)).astype(self.dtype)
            y = y + b.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class Embed(nn.Module):
    """Row lookup: ids int[...] -> [..., width], table [rows, width] in float32."""

    rows: int
    width: int
    axes: tuple[str | None, str | None] = ("vocab", "embed")
    init: str | Init = "small"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = param(self, "table", self.init, (self.rows, self.width), self.axes)
        table = constrain(table, (None, None))  # rows are looked up where their ids are
        return jnp.take(table, ids, axis=0).astype(self.dtype)


class RmsNorm(nn.Module):
    """x / rms(x) * g over the last axis, in float32; keeps the dtype of x. arXiv:1910.07467."""

    width: int
    eps: float = 1e-6
    axes: Axes = (None,)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g = param(self, "g", "one", (self.width,), self.axes)
        z = x.astype(jnp.float32)
        z = z * jax.lax.rsqrt(jnp.mean(jnp.square(z), -1, keepdims=True) + self.eps)
        return (z * g.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std over the last axis, in float32, with optional scale and shift."""

    width: int
    eps: float = 1e-6
    affine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        z = x.astype(jnp.float32)
        z = z - jnp.mean(z, -1, keepdims=True)
        z = z * jax.lax.rsqrt(jnp.mean(jnp.square(z), -1, keepdims=True) + self.eps)
        if self.affine:
            shape = (1,) * (x.ndim - 1) + (-1,)
            z = z * param(self, "g", "one", (self.width,), (None,)).reshape(shape)
            z = z + param(self, "b", "zero", (self.width,), (None,)).reshape(shape)
        return z.astype(x.dtype)
