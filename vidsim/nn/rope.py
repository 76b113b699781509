"""Rotary positions from coordinates given per token: nothing is inferred from an array's shape.

Source: arXiv:2104.09864 eq. 34; axes share a head's width as in Wan 2.1 (arXiv:2503.20314). The
two numbers of a rotated pair lie E/2 apart, not side by side: halves are contiguous, which every
backend likes. A fixed permutation of the query and key columns turns one convention into the other
(`pair_order`), and attention does not see a permutation common to both.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """Numbers of a head given to t, y, x: two thirds go to y and x, t takes the rest (as Wan).

    Raises BadInput for an odd width, which leaves a number without a partner.
    """
    if head_width < 6 or head_width % 2:
        raise bad("rotary positions", f"head width {head_width}", "an even number, 6 or more")
    space = 2 * (head_width // 6)
    return head_width - 2 * space, space, space


def rotation(
    position_RNX: jax.Array, widths: tuple[int, ...], theta: float = 10_000.0
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every pair's angle, position * theta^(-2i/width) on its axis.

    position_RNX  coordinates in tokens, int or float, one per axis
    widths        numbers of a head given to each of the X axes, even
    Returns       two f32[R, N, 1, E/2]; pairs in the order of the axes
    """
    angles = []
    for axis, width in enumerate(widths):
        rates = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        where_RN1 = position_RNX[:, :, axis, None].astype(jnp.float32)
        angles.append(where_RN1 * rates.astype(np.float32)[None, None])
    angle_RNE = jnp.concatenate(angles, -1)[:, :, None]
    # the barrier keeps the compiler from computing sines anew inside every consumer
    return jax.lax.optimization_barrier((jnp.cos(angle_RNE), jnp.sin(angle_RNE)))


def rotate(x_RNAE: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns every pair (i, i + E/2) of every head by its angle, in float32; keeps the dtype."""
    cos, sin = turn
    first, second = jnp.split(x_RNAE.astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.astype(x_RNAE.dtype)


def pair_order(head_width: int, heads: int) -> np.ndarray:
    """Column order that brings side-by-side pairs (2i, 2i+1) to the halves used here.

    For a matrix whose output columns are heads x head_width: ours = theirs[..., pair_order(...)].
    """
    one = np.concatenate([np.arange(0, head_width, 2), np.arange(1, head_width, 2)])
    return (np.arange(heads)[:, None] * head_width + one[None]).reshape(-1)
