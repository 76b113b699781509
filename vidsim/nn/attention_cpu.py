"""Blockwise attention over packed rows that only visits pairs of blocks sharing a segment.

Pure JAX: two nested loops of dynamic length, an online softmax forward and a recomputing backward
(arXiv:2205.14135, arXiv:2307.08691). Work grows with the sum of squared segment lengths, memory
with the tokens. Rows lie one after another as blocks; nothing is batched over them, since a batched
loop would run the longest row's count for every row and copy all accumulators at each turn.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Name of the attention results that a remat policy may keep, so that backward does not attend anew.
SAVED = "attention_output"
# Larger than any segment id, and different for queries and keys: padding meets nothing.
PAD_QUERY, PAD_KEY = 2**30, 2**30 + 1
LOW = -1e30  # a logit below every real one whose differences stay finite


class LivePairs(NamedTuple):
    """Which blocks meet. Rows are cut in n query and m key blocks; ranges count inside the row."""

    q_segment: jax.Array  # i32[R, n, block_q] segment ids, padding replaced by PAD_QUERY
    k_segment: jax.Array  # i32[R, m, block_k] the same with PAD_KEY
    k_range: jax.Array  # i32[R, n, 2] first and last+1 key block of each query block
    q_range: jax.Array  # i32[R, m, 2] first and last+1 query block of each key block


def live_pairs(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, block_q: int, block_k: int
) -> LivePairs:
    """Ranges of blocks that share a segment.

    q_segment_RN, k_segment_RM  int, 0 = padding; sorted ids give the fewest pairs
    block_q, block_k            tokens of a block; rows need not divide into them
    """
    return meeting(
        blocks_of_ids(q_segment_RN, block_q, PAD_QUERY),
        blocks_of_ids(k_segment_RM, block_k, PAD_KEY),
    )


def meeting(q_ids: jax.Array, k_ids: jax.Array) -> LivePairs:
    """`live_pairs` of ids that `blocks_of_ids` has cut."""
    q_low, q_high = q_ids.min(-1), jnp.where(q_ids == PAD_QUERY, 0, q_ids).max(-1)
    k_low, k_high = k_ids.min(-1), jnp.where(k_ids == PAD_KEY, 0, k_ids).max(-1)
    live_Rnm = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
    return LivePairs(q_ids, k_ids, _span(live_Rnm), _span(live_Rnm.swapaxes(1, 2)))


def blocks_of_ids(segment_RN: jax.Array, block: int, pad_id: int) -> jax.Array:
    """[R, N] -> i32[R, blocks, block], padding replaced by an id that meets nothing."""
    ids = jnp.pad(segment_RN.astype(jnp.int32), ((0, 0), (0, -segment_RN.shape[1] % block)))
    return jnp.where(ids == 0, pad_id, ids).reshape(ids.shape[0], -1, block)


def _span(live: jax.Array) -> jax.Array:
    """First and last+1 true entry along the last axis; empty spans are (0, 0)."""
    first = jnp.argmax(live, -1)
    last = live.shape[-1] - jnp.argmax(live[..., ::-1], -1)
    return jnp.stack([first, jnp.where(live.any(-1), last, first)], -1).astype(jnp.int32)


def attend_blocks(
    q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, pairs: LivePairs
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within equal segments; zeros where a query has no key.

    q_RNAE, k_RMAE, v_RMAE  float of one dtype; softmax and accumulators in float32
    pairs                   of the same rows
    Returns                 RNAE, dtype of v
    """
    q, k, v = (
        cut(x, ids.shape[-1])
        for x, ids in (
            (q_RNAE, pairs.q_segment),
            (k_RMAE, pairs.k_segment),
            (v_RMAE, pairs.k_segment),
        )
    )
    return joined(_flash(q, k, v, pairs), q_RNAE.shape)


def joined(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `cut` for an array of this shape [R, N, A, E]."""
    rows, n, heads, width = shape
    return blocks.swapaxes(1, 2).reshape(rows, -1, heads, width)[:, :n]


def cut(x_RNAE: jax.Array, block: int) -> jax.Array:
    """[R, N, A, E] -> [R * blocks, A, block, E], zero padded."""
    rows, n, heads, width = x_RNAE.shape
    x = jnp.pad(x_RNAE, ((0, 0), (0, -n % block), (0, 0), (0, 0)))
    return x.reshape(-1, block, heads, width).swapaxes(1, 2)


def _dot(a: jax.Array, b: jax.Array, contract_a: int, contract_b: int) -> jax.Array:
    """Batched over heads (axis 0), accumulated in float32."""
    dims = (((contract_a,), (contract_b,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


class Sums(NamedTuple):
    """What an online softmax has summed for each block of queries, in float32.

    values  [blocks, A, block, E] sums of exp(logit - top) v
    top     [blocks, A, block] the largest logit so far
    total   [blocks, A, block] sums of exp(logit - top)
    """

    values: jax.Array
    top: jax.Array
    total: jax.Array


def no_sums(shape: tuple[int, ...]) -> Sums:
    """Before the first key, for queries of this shape [..., E]."""
    one = shape[:-1]
    return Sums(jnp.zeros(shape), jnp.full(one, LOW, jnp.float32), jnp.zeros(one))


def finished(sums: Sums) -> tuple[jax.Array, jax.Array]:
    """(softmax(q k) v, logarithm of the softmax's sum), f32; zeros where a query met no key."""
    total = jnp.where(sums.total == 0.0, 1.0, sums.total)
    return sums.values / total[..., None], sums.top + jnp.log(total)


def _meet_keys(
    i: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs, sums: Sums
) -> Sums:
    """The sums of query block i after the key blocks that it meets."""
    n, m = pairs.q_segment.shape[1], pairs.k_segment.shape[1]
    ids_q, ids_k, ranges, _ = (x.reshape(-1, x.shape[-1]) for x in pairs)
    q_i, ids_i, base = q[i], ids_q[i], i // n * m

    def key_block(j: jax.Array, sums: Sums) -> Sums:
        same = (ids_i[:, None] == ids_k[base + j][None, :])[None]
        s = jnp.where(same, _dot(q_i, k[base + j], 2, 2) * q.shape[-1] ** -0.5, LOW)
        top = jnp.maximum(sums.top, s.max(-1))
        p = jnp.where(same, jnp.exp(s - top[..., None]), 0.0)
        shrink = jnp.exp(sums.top - top)
        values = sums.values * shrink[..., None] + _dot(p.astype(v.dtype), v[base + j], 2, 1)
        return Sums(values, top, sums.total * shrink + p.sum(-1))

    return jax.lax.fori_loop(ranges[i, 0], ranges[i, 1], key_block, sums)


def add_keys(q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs, sums: Sums) -> Sums:
    """The sums of all query blocks after these keys; blocks that meet none are not visited."""

    def query_block(i: jax.Array, all_sums: Sums) -> Sums:
        mine = _meet_keys(i, q, k, v, pairs, Sums(*(x[i] for x in all_sums)))
        return Sums(*(x.at[i].set(new) for x, new in zip(all_sums, mine, strict=True)))

    first, end = _visited(pairs.k_range)
    return jax.lax.fori_loop(first, end, query_block, sums)


def _visited(ranges: jax.Array) -> jax.Array:
    """First and last+1 block, counted over all rows, with a span that is not empty."""
    return _span((ranges[..., 1] > ranges[..., 0]).reshape(-1))


def add_gradients(
    saved: tuple[jax.Array, ...], pairs: LivePairs, grads: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """(dq, dk, dv) after the pairs of blocks that meet; dq in float32, pairs that do not meet are
    not visited.

    saved  q, k, v, d_out as blocks, lse of `finished`, delta of `row_dots`
    """
    q, k, v, d_out, lse, delta = saved
    n, m = pairs.q_segment.shape[1], pairs.k_segment.shape[1]
    ids_q, ids_k, _, ranges = (x.reshape(-1, x.shape[-1]) for x in pairs)
    scale = q.shape[-1] ** -0.5

    def key_block(j: jax.Array, carry: Any) -> Any:
        dq, dk, dv = carry
        k_j, v_j, ids_j, base = k[j], v[j], ids_k[j], j // m * n

        def query_block(i: jax.Array, carry: Any) -> Any:
            dq, dk_j, dv_j = carry
            at = base + i
            q_i, d_out_i = q[at], d_out[at]
            same = (ids_q[at][:, None] == ids_j[None, :])[None]
            p = jnp.where(same, jnp.exp(_dot(q_i, k_j, 2, 2) * scale - lse[at][..., None]), 0.0)
            dv_j = dv_j + _dot(p.astype(q.dtype), d_out_i, 1, 1)
            ds = p * (_dot(d_out_i, v_j, 2, 2) - delta[at][..., None]) * scale
            ds = ds.astype(q.dtype)
            return dq.at[at].add(_dot(ds, k_j, 2, 1)), dk_j + _dot(ds, q_i, 1, 1), dv_j

        before = dk[j].astype(jnp.float32), dv[j].astype(jnp.float32)
        dq, dk_j, dv_j = jax.lax.fori_loop(ranges[j, 0], ranges[j, 1], query_block, (dq, *before))
        return dq, dk.at[j].set(dk_j.astype(dk.dtype)), dv.at[j].set(dv_j.astype(dv.dtype))

    first, end = _visited(pairs.q_range)
    return jax.lax.fori_loop(first, end, key_block, grads)


def row_dots(d_out: jax.Array, out: jax.Array) -> jax.Array:
    """sum(d_out out) over the last axis, in float32."""
    return jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)


@jax.custom_vjp
def _flash(q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs) -> jax.Array:
    return _forward(q, k, v, pairs)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs) -> tuple[jax.Array, Any]:
    def query_block(i: jax.Array, carry: Any) -> Any:
        all_out, all_lse = carry
        out, lse = finished(_meet_keys(i, q, k, v, pairs, no_sums(q.shape[1:])))
        return all_out.at[i].set(out.astype(v.dtype)), all_lse.at[i].set(lse)

    empty = jnp.zeros(q.shape, v.dtype), jnp.zeros(q.shape[:-1], jnp.float32)
    out, lse = jax.lax.fori_loop(0, q.shape[0], query_block, empty)
    out, lse = checkpoint_name(out, SAVED), checkpoint_name(lse, SAVED)
    return out, (q, k, v, pairs, out, lse)


def _backward(saved: Any, d_out: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, pairs, out, lse = saved
    start = jnp.zeros(q.shape, jnp.float32), jnp.zeros_like(k), jnp.zeros_like(v)
    given = q, k, v, d_out, lse, row_dots(d_out, out)
    dq, dk, dv = add_gradients(given, pairs, start)
    return dq.astype(q.dtype), dk, dv, None


_flash.defvjp(_forward, _backward)
