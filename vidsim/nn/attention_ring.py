"""Attention in a ring over the mesh axis `context` (arXiv:2310.01889).

A row's tokens stay on their devices. Keys, values and their segment ids go round the ring, and
every device adds those that it holds to the sums of its own queries (online softmax in float32);
backward sends keys and values round once more, with their gradients, which come home after the last
hop. No device ever holds more than two shards of keys and values, and heads need not divide. Pairs
of blocks that share no segment are not computed; all shards travel the whole ring all the same,
since devices of other rows may need what these do not.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vidsim.nn.attention_cpu import (
    PAD_KEY,
    PAD_QUERY,
    SAVED,
    add_gradients,
    add_keys,
    blocks_of_ids,
    cut,
    finished,
    joined,
    meeting,
    no_sums,
    row_dots,
)


def attend_ring(
    q_RNAE: jax.Array,
    k_RMAE: jax.Array,
    v_RMAE: jax.Array,
    segments: tuple[jax.Array, jax.Array],
    *,
    axis: str,
    block_q: int,
    block_k: int,
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within equal segments of rows split over `axis`; to be called on
    every device of it, with its share of the tokens.

    segments          q_segment i32[R, N] and k_segment i32[R, M] of these tokens, 0 = padding
    block_q, block_k  tokens of a block
    Returns           RNAE, dtype of v; zeros where a query has no key
    """
    q_ids = blocks_of_ids(segments[0], block_q, PAD_QUERY)
    k_ids = blocks_of_ids(segments[1], block_k, PAD_KEY)
    q, k, v = (cut(x, b) for x, b in ((q_RNAE, block_q), (k_RMAE, block_k), (v_RMAE, block_k)))
    return joined(_ring(axis, q, k, v, q_ids, k_ids), q_RNAE.shape)


def _pass_on(axis: str, tree: Any) -> Any:
    """Every device's arrays to the next one of the ring."""
    ways = jax.lax.axis_size(axis)
    hop = [(i, (i + 1) % ways) for i in range(ways)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, hop), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(
    axis: str, q: jax.Array, k: jax.Array, v: jax.Array, q_ids: jax.Array, k_ids: jax.Array
) -> jax.Array:
    return _ring_forward(axis, q, k, v, q_ids, k_ids)[0]


def _ring_forward(
    axis: str, q: jax.Array, k: jax.Array, v: jax.Array, q_ids: jax.Array, k_ids: jax.Array
) -> tuple[jax.Array, Any]:
    def meet(held: Any, sums: Any) -> Any:
        k, v, ids = held
        return add_keys(q, k, v, meeting(q_ids, ids), sums)

    def hop(_: jax.Array, carry: Any) -> Any:
        held, sums = carry
        return _pass_on(axis, held), meet(held, sums)  # neither waits for the other

    start = (k, v, k_ids), no_sums(q.shape)
    held, sums = jax.lax.fori_loop(0, jax.lax.axis_size(axis) - 1, hop, start)
    out, lse = finished(meet(held, sums))
    out, lse = checkpoint_name(out.astype(v.dtype), SAVED), checkpoint_name(lse, SAVED)
    return out, (q, k, v, q_ids, k_ids, out, lse)


def _ring_backward(axis: str, saved: Any, d_out: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, q_ids, k_ids, out, lse = saved
    delta = row_dots(d_out, out)

    def meet(held: Any, dq: jax.Array, towed: Any) -> tuple[jax.Array, Any]:
        k, v, ids = held
        given = q, k, v, d_out, lse, delta
        dq, dk, dv = add_gradients(given, meeting(q_ids, ids), (dq, *towed))
        return dq, (dk, dv)

    def hop(_: jax.Array, carry: Any) -> Any:
        held, dq, towed = carry
        dq, towed = meet(held, dq, towed)
        return _pass_on(axis, held), dq, _pass_on(axis, towed)

    towed = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    start = (k, v, k_ids), jnp.zeros(q.shape, jnp.float32), towed
    held, dq, towed = jax.lax.fori_loop(0, jax.lax.axis_size(axis) - 1, hop, start)
    dq, towed = meet(held, dq, towed)
    dk, dv = _pass_on(axis, towed)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_ring.defvjp(_ring_forward, _ring_backward)
