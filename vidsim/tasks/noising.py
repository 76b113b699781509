"""The noise of a packed batch, and what it leaves open of the data."""

import jax
import jax.numpy as jnp

from vidsim.core.keys import token_normal
from vidsim.diffusion.segments import spread
from vidsim.tasks.base import Batch


def residual_scales(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(skip, scale) of x = skip x_t + scale output, for data of zero mean and unit variance.

    skip x_t is E[x | x_t] of a unit Gaussian and scale the deviation of x from it, so the output
    has unit variance at every time and a network narrower than a patch need not copy its input.
    Source: arXiv:2206.00364 eq. 7 and appendix B.6, for the straight-line process.
    """
    power = jnp.square(1.0 - t) + jnp.square(t)
    return (1.0 - t) / power, t * jax.lax.rsqrt(power)


def batch_noise(key: jax.Array, batch: Batch) -> jax.Array:
    """Standard normal f32[R,N,P], each token's keyed by its clip key and its index in the clip.

    The same clip key gives the same noise in any row, beside any neighbours. Padding gets noise too
    and is at time 0 wherever it is used.
    """
    segment_RN, position_RN3 = batch["patch_segment"], batch["patch_position"]
    grid_RN3 = spread(batch["grid"], segment_RN)
    t, y, x = (position_RN3[..., i] for i in range(3))
    index_RN = (t * grid_RN3[..., 1] + y) * grid_RN3[..., 2] + x
    owner_RN = spread(batch["clip_key"], segment_RN)
    return token_normal(key, owner_RN, index_RN, batch["patches"].shape[-1])
