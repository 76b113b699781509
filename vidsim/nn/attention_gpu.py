"""Packed rows on GPU: a flash kernel (Pallas, Triton) that visits tiles sharing a segment only.

One program of the grid keeps a block of queries (forward, dq) or of keys (dk and dv) and walks the
run of blocks it meets, whose ends come from the segment ids (arXiv:2307.08691, with the ranges of
`attention_cpu.live_pairs`). Products accumulate in float32; float32 operands are not rounded to
TF32.

Values and gradients are proved under Pallas interpretation on CPU, and the program lowers to Triton
for CUDA without a GPU (`tests/nn/test_attention_gpu.py`). It has not run on hardware: its speed,
its block sizes and Triton's own compilation are untested.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl

from vidsim.nn.attention_cpu import LOW, SAVED, LivePairs, live_pairs

BLOCK = 64  # tokens of a tile's side
Arrays = tuple[jax.Array, ...]


def gpu_ranges(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, longest: int | None = None
) -> LivePairs:
    """Which blocks meet; `longest` is not needed, ranges have no limit."""
    return live_pairs(q_segment_RN, k_segment_RM, BLOCK, BLOCK)


def attend_gpu(
    q_RNAE: jax.Array,
    k_RMAE: jax.Array,
    v_RMAE: jax.Array,
    pairs: LivePairs,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within segments; zeros where a query has no key. Returns RNAE.

    interpret  runs the kernel's program in XLA instead of compiling it: for tests on other devices
    """
    n, width = q_RNAE.shape[1], q_RNAE.shape[3]
    q, k, v = (
        _lay(x, ids)
        for x, ids in (
            (q_RNAE, pairs.q_segment),
            (k_RMAE, pairs.k_segment),
            (v_RMAE, pairs.k_segment),
        )
    )
    out = _flash(q, k, v, pairs, width**-0.5, interpret)
    return out[:, :, :n, :width].swapaxes(1, 2)


def _lay(x_RNAE: jax.Array, ids: jax.Array) -> jax.Array:
    """[R, N, A, E] -> [R, A, blocks * block, E], tokens and width zero padded; Triton's tiles have
    powers of two of at least 16."""
    _, n, _, width = x_RNAE.shape
    wide = max(16, 2 ** math.ceil(math.log2(width)))
    pads = ((0, 0), (0, ids[0].size - n), (0, 0), (0, wide - width))
    return jnp.pad(x_RNAE, pads).swapaxes(1, 2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=exact, preferred_element_type=jnp.float32)


def _forward_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, q_ids_ref: Any, k_ids_ref: Any, span_ref: Any,
    out_ref: Any, lse_ref: Any, *, scale: float,
) -> None:  # fmt: skip
    q, q_ids = q_ref[...], q_ids_ref[...]

    def visit(j: jax.Array, carry: Arrays) -> Arrays:
        sum_v, top, total = carry
        at = pl.ds(j * BLOCK, BLOCK)
        same = q_ids[:, None] == k_ids_ref[at][None, :]
        s = jnp.where(same, _dot(q, k_ref[at, :].T) * scale, LOW)
        new_top = jnp.maximum(top, s.max(1))
        p = jnp.where(same, jnp.exp(s - new_top[:, None]), 0.0)
        shrink = jnp.exp(top - new_top)
        sum_v = sum_v * shrink[:, None] + _dot(p.astype(v_ref.dtype), v_ref[at, :])
        return sum_v, new_top, total * shrink + p.sum(1)

    start = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full((BLOCK,), LOW, jnp.float32),
        jnp.zeros((BLOCK,), jnp.float32),
    )
    sum_v, top, total = jax.lax.fori_loop(span_ref[0], span_ref[1], visit, start)
    total = jnp.where(total == 0.0, 1.0, total)
    out_ref[...] = (sum_v / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = top + jnp.log(total)


def _dq_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, q_ids_ref: Any, k_ids_ref: Any, span_ref: Any,
    d_out_ref: Any, lse_ref: Any, delta_ref: Any, dq_ref: Any, *, scale: float,
) -> None:  # fmt: skip
    q, q_ids, d_out = q_ref[...], q_ids_ref[...], d_out_ref[...]
    lse, delta = lse_ref[...], delta_ref[...]

    def visit(j: jax.Array, dq: jax.Array) -> jax.Array:
        at = pl.ds(j * BLOCK, BLOCK)
        k = k_ref[at, :]
        same = q_ids[:, None] == k_ids_ref[at][None, :]
        p = jnp.where(same, jnp.exp(_dot(q, k.T) * scale - lse[:, None]), 0.0)
        ds = p * (_dot(d_out, v_ref[at, :].T) - delta[:, None]) * scale
        return dq + _dot(ds.astype(k.dtype), k)

    dq = jax.lax.fori_loop(span_ref[0], span_ref[1], visit, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = dq.astype(dq_ref.dtype)


def _dkv_kernel(
    k_ref: Any, v_ref: Any, q_ref: Any, k_ids_ref: Any, q_ids_ref: Any, span_ref: Any,
    d_out_ref: Any, lse_ref: Any, delta_ref: Any, dk_ref: Any, dv_ref: Any, *, scale: float,
) -> None:  # fmt: skip
    k, v, k_ids = k_ref[...], v_ref[...], k_ids_ref[...]

    def visit(i: jax.Array, carry: Arrays) -> Arrays:
        dk, dv = carry
        at = pl.ds(i * BLOCK, BLOCK)
        q, d_out = q_ref[at, :], d_out_ref[at, :]
        same = k_ids[:, None] == q_ids_ref[at][None, :]
        p = jnp.where(same, jnp.exp(_dot(k, q.T) * scale - lse_ref[at][None, :]), 0.0)
        ds = p * (_dot(v, d_out.T) - delta_ref[at][None, :]) * scale
        return dk + _dot(ds.astype(q.dtype), q), dv + _dot(p.astype(d_out.dtype), d_out)

    zero = jnp.zeros(k.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(span_ref[0], span_ref[1], visit, (zero, zero))
    dk_ref[...], dv_ref[...] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)


def _call(
    kernel: Any, name: str, scale: float, interpret: bool, own: Arrays, other: Arrays, ids: Arrays,
    span: jax.Array, rest: Arrays, out: tuple[str, ...], dtype: Any,
) -> Any:  # fmt: skip
    """Runs a kernel on a grid of (row, head, own block).

    own, other  arrays of which a program sees its block, or the whole row
    ids         segment ids of own blocks and of the other side
    rest        further arrays of the queries: own blocks for dq, whole rows for dk and dv
    out         "tile" and "line" results of own blocks
    """
    from jax.experimental.pallas import triton

    rows, heads, length, width = own[0].shape
    far = other[0].shape[2]
    by_block = lambda r, a, i: (r, a, i, 0)  # noqa: E731
    whole = lambda r, a, i: (r, a, 0, 0)  # noqa: E731
    tile = pl.BlockSpec((None, None, BLOCK, width), by_block)
    tile_far = pl.BlockSpec((None, None, far, width), whole)
    line = pl.BlockSpec((None, None, BLOCK), lambda r, a, i: (r, a, i))
    line_far = pl.BlockSpec((None, None, far), lambda r, a, i: (r, a, 0))
    at_rest = (tile, line) if name == "dq" else (tile_far, line_far)
    shapes = {"tile": (tile, own[0].shape, dtype), "line": (line, own[0].shape[:3], jnp.float32)}
    return pl.pallas_call(
        functools.partial(kernel, scale=scale),
        grid=(rows, heads, length // BLOCK),
        in_specs=[
            *(tile for _ in own), *(tile_far for _ in other),
            pl.BlockSpec((None, BLOCK), lambda r, a, i: (r, i)),
            pl.BlockSpec((None, far), lambda r, a, i: (r, 0)),
            pl.BlockSpec((None, None, 2), lambda r, a, i: (r, i, 0)),
            *(at_rest[0] if x.ndim == 4 else at_rest[1] for x in rest),
        ],
        out_specs=[shapes[x][0] for x in out],
        out_shape=[jax.ShapeDtypeStruct(*shapes[x][1:]) for x in out],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret, name=f"packed_attention_{name}",
    )(*own, *other, *(x.reshape(rows, -1) for x in ids), span, *rest)  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _flash(
    q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs, scale: float, interpret: bool
) -> jax.Array:
    return _forward(q, k, v, pairs, scale, interpret)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, pairs: LivePairs, scale: float, interpret: bool
) -> tuple[jax.Array, Any]:
    out, lse = _call(
        _forward_kernel, "forward", scale, interpret, (q,), (k, v),
        (pairs.q_segment, pairs.k_segment), pairs.k_range, (), ("tile", "line"), v.dtype,
    )  # fmt: skip
    out, lse = checkpoint_name(out, SAVED), checkpoint_name(lse, SAVED)
    return out, (q, k, v, pairs, out, lse)


def _backward(scale: float, interpret: bool, saved: Any, d_out: jax.Array) -> Any:
    q, k, v, pairs, out, lse = saved
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)
    rest = (d_out, lse, delta)
    (dq,) = _call(
        _dq_kernel, "dq", scale, interpret, (q,), (k, v),
        (pairs.q_segment, pairs.k_segment), pairs.k_range, rest, ("tile",), q.dtype,
    )  # fmt: skip
    dk, dv = _call(
        _dkv_kernel, "dkv", scale, interpret, (k, v), (q,),
        (pairs.k_segment, pairs.q_segment), pairs.q_range, rest, ("tile", "tile"), k.dtype,
    )  # fmt: skip
    return dq, dk, dv.astype(v.dtype), None


_flash.defvjp(_forward, _backward)
