"""Between the tokens of a packed row and its segments: spread a value, sum by segment.

Segment s of a row (1..S) owns column s - 1 of every [R,S] array; segment 0 is padding.
"""

import jax
import jax.numpy as jnp


def spread(value_RS: jax.Array, segment_RN: jax.Array, padding: float | int = 0) -> jax.Array:
    """Gives each token its segment's value, and padding tokens `padding`.

    value_RS    [R,S] or [R,S,rest]
    segment_RN  i32[R,N], 0..S
    Returns     [R,N] or [R,N,rest] of the dtype of value_RS
    """
    blank = jnp.full_like(value_RS[:, :1], padding)
    table_RK = jnp.concatenate([blank, value_RS], axis=1)
    return jax.vmap(lambda table, segment: table[segment])(table_RK, segment_RN)


def segment_sums(value_RN: jax.Array, segment_RN: jax.Array, segments: int) -> jax.Array:
    """Sums a float32 value over the tokens of each segment.

    A contraction with a one-hot matrix rather than a scatter: it splits over a sharded token axis
    into partial sums. Padding is dropped, and must be finite.

    value_RN   f32[R,N]
    segments   S
    Returns    f32[R,S]
    """
    owner_RNS = segment_RN[:, :, None] == jnp.arange(1, segments + 1)[None, None, :]
    return jnp.einsum(
        "rn,rns->rs",
        value_RN.astype(jnp.float32),
        owner_RNS.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
