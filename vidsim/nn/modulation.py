"""Noise levels to modulation: few levels a row, looked up per token inside a block.

A row holds K distinct levels (at most one or two per clip), so the time MLP runs on [R, K] and its
output is shared by all blocks, which add a learned table each (arXiv:2503.20314; arXiv:2310.00426
sec. 2.3). The expansion to tokens happens inside a block: [N, 6, D] never exists outside.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidsim.nn.layers import Linear
from vidsim.parallel.place import constrain

ROWS = ("rows", None, None)  # few numbers a row, on every device of the row
ONE_HOT_ROWS = 128  # largest table whose gradient is a product with a one-hot matrix


def sinusoid(x: jax.Array, width: int) -> jax.Array:
    """[cos, sin](x * 10000^(-2i/width)), f32[..., width]. Source: arXiv:1706.03762 sec. 3.5."""
    rates = 10_000.0 ** (-np.arange(width // 2, dtype=np.float64) / (width // 2))
    shape = (1,) * x.ndim + (-1,)
    angle = x.astype(jnp.float32)[..., None] * rates.astype(np.float32).reshape(shape)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


class TimeEmbedding(nn.Module):
    """Noise level to a vector of the model's width and to six modulation vectors, in float32."""

    freq_width: int
    width: int

    @nn.compact
    def __call__(self, level_RK: jax.Array) -> tuple[jax.Array, jax.Array]:
        """level_RK in [0, 1], 0 = data. Returns f32 (RKD, RK6D)."""
        wave = sinusoid(level_RK * 1000.0, self.freq_width)
        hidden = Linear(self.freq_width, self.width, ("time", "embed"), name="in")(wave)
        hidden = nn.silu(constrain(hidden, ROWS))
        time_RKD = Linear(self.width, self.width, ("embed", "time"), name="out")(hidden)
        time_RKD = constrain(time_RKD, ROWS)
        six = Linear(self.width, 6 * self.width, ("embed", "time"), name="six")(nn.silu(time_RKD))
        six = constrain(six, ROWS)
        return time_RKD, six.reshape(*six.shape[:-1], 6, self.width)


@jax.custom_vjp
def per_token(rows_RKX: jax.Array, index_RN: jax.Array) -> jax.Array:
    """rows_RKX[r, index_RN[r, n]]: the row of each token's level, clip or action."""
    return jnp.take_along_axis(rows_RKX, index_RN[:, :, None], axis=1, mode="clip")


def sum_per_row(d_RNX: jax.Array, index_RN: jax.Array, count: int) -> jax.Array:
    """[R, count, X]: sums of the tokens of each row of a table, the transpose of `per_token`.

    A product with a one-hot matrix where the count is small: scatters are serial on CPU and slow
    on TPU.
    """
    if count <= ONE_HOT_ROWS:
        hot_RNK = jax.nn.one_hot(index_RN, count, dtype=d_RNX.dtype)
        return jnp.einsum("rnk,rnx->rkx", hot_RNK, d_RNX, precision="highest")
    zero = jnp.zeros((d_RNX.shape[0], count, d_RNX.shape[2]), d_RNX.dtype)
    return jax.vmap(lambda z, i, d: z.at[i].add(d))(zero, index_RN, d_RNX)


per_token.defvjp(
    lambda rows_RKX, index_RN: (per_token(rows_RKX, index_RN), (rows_RKX.shape[1], index_RN)),
    lambda saved, d_RNX: (sum_per_row(d_RNX, saved[1], saved[0]), None),
)
