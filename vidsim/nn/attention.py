"""Attention within the segments of packed rows, by named implementations.

A plan holds what depends on the segments alone; a model makes it once a step, outside its blocks,
and every block attends with it. Which implementation runs follows from the platform of the mesh's
devices and stands in the plan by name; a platform without one is an error. Padding (segment 0)
gives zeros and receives zero gradients. Neighbouring segments change nothing while they are finite.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from vidsim.core.errors import bad, nearest
from vidsim.nn.attention_context import (
    CONTEXT,
    HEADS,
    QUERIES,
    RING,
    WHOLE,
    attend_on_mesh,
    current_mesh,
    exchange_for,
    prepare_slices,
)
from vidsim.nn.attention_cpu import LOW, SAVED, LivePairs, attend_blocks, live_pairs
from vidsim.nn.attention_gpu import attend_gpu, gpu_ranges
from vidsim.nn.attention_ring import attend_ring
from vidsim.nn.attention_tpu import attend_splash, splash_tables

TPU, GPU = ("tpu",), ("gpu", "cuda", "rocm")
EVERYWHERE = ("cpu", *TPU, *GPU)


class Implementation(NamedTuple):
    """How to attend.

    prepare    (q_segment_RN, k_segment_RM, longest) -> arrays, each with rows first
    run        (q_RNAE, k_RMAE, v_RMAE, arrays) -> out_RNAE
    local      run must see whole rows on one device
    platforms  where it runs
    ring       how to attend where tokens of a row are split over `context`, from the segments
               (q_segment_RN, k_segment_RM) of each device's tokens; None: by exchanging tokens for
               heads, so that `run` sees whole rows
    """

    prepare: Callable[..., Any]
    run: Callable[..., jax.Array]
    local: bool
    platforms: tuple[str, ...] = EVERYWHERE
    ring: Callable[..., jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class AttentionPlan:
    """What one step's segments mean for one implementation, and how tokens meet on the mesh."""

    implementation: str
    exchange: str
    arrays: Any


jax.tree_util.register_dataclass(AttentionPlan, ["arrays"], ["implementation", "exchange"])


def implementation_for(platform: str, n: int = 2**30, m: int = 2**30) -> str:
    """The implementation that "auto" means on a platform, for rows of n queries and m keys.

    On CPU tiny rows go to "dense": the blocks' loop costs more than the masked products save.
    Processor time of forward and backward in ms (R rows of N = M tokens, A heads of E, segments of
    `len`):

    | R x N, A x E, len        | float32 dense, blocks of 64, 128, 256 | bfloat16 the same |
    |--------------------------|---------------------------------------|-------------------|
    | 8 x 128, 4 x 32, 9-100   | 2, 4, 4, 12                           | 2, 4, 6, 12       |
    | 8 x 256, 4 x 32, 9-200   | 10, 9, 8, 14                          | 12, 7, 10, 16     |
    | 8 x 512, 4 x 64, 9-200   | 105, 34, 45, 75                       | 117, 35, 44, 67   |
    | 8 x 512, 4 x 64, 64-200  | 106, 33, 44, 70                       | 116, 31, 45, 69   |
    | 8 x 512, 4 x 64, 500-512 | 105, 70, 62, 69                       | 111, 69, 62, 69   |
    | 2 x 2048, 4 x 64, 64-400 | 377, 67, 60, 100                      | 427, 70, 57, 90   |

    Blocks of 256 keep two threads busy where those of 64 keep one, so long rows take them.
    Raises BadInput for a platform without an implementation.
    """
    if platform == "cpu":
        return "dense" if n * m <= 128 * 128 else "cpu_blocks"
    if platform in TPU:
        return "tpu_splash"
    if platform in GPU:
        return "gpu_flash"
    raise bad("attention", f"no implementation for platform {platform!r}", "cpu, gpu or tpu")


def current_platform() -> str:
    """Platform of the current mesh (whose devices may not exist here), else the default backend."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def plan_attention(
    q_segment_RN: jax.Array,
    k_segment_RM: jax.Array,
    *,
    implementation: str = "auto",
    platform: str | None = None,
    longest: int | None = None,
    q_axis: str | None = "tokens",
    k_axis: str | None = "tokens",
) -> AttentionPlan:
    """Everything that depends on segments alone.

    q_segment_RN, k_segment_RM  int, 0 = padding, otherwise ids 1.. in row order
    implementation              a key of IMPLEMENTATIONS or "auto" (see `implementation_for`)
    platform                    of the devices that will attend; None: the current mesh's. Under
                                ahead-of-time compilation that is not the default backend's.
    longest                     most tokens of a segment where queries and keys are the same tokens,
                                None for no limit; kernels with tables cover no more than that, so
                                check rows on the host with `refuse_bad_rows`
    q_axis, k_axis              logical axes of the two: "tokens", which the mesh may split, or None
                                for rows that are whole on every device (text)
    Raises                      BadInput for an unknown implementation, one that does not run on the
                                platform, and a platform without any
    """
    platform = current_platform() if platform is None else platform
    name = implementation
    if name == "auto":
        name = implementation_for(platform, q_segment_RN.shape[1], k_segment_RM.shape[1])
    if name not in IMPLEMENTATIONS:
        raise bad(
            "attention", f"implementation {name!r}", nearest(name, (*IMPLEMENTATIONS, "auto"))
        )
    how = IMPLEMENTATIONS[name]
    if platform not in how.platforms:
        allowed = f"{name} runs on {', '.join(how.platforms)}"
        raise bad("attention", f"{name!r} on platform {platform!r}", allowed, "choose 'auto'")
    split = HEADS if how.ring is None else RING
    exchange = exchange_for(q_axis, k_axis, split) if how.local else WHOLE
    if exchange == RING:
        arrays = q_segment_RN.astype(jnp.int32), k_segment_RM.astype(jnp.int32)
    elif exchange == QUERIES:
        arrays = prepare_slices(how.prepare, q_segment_RN, k_segment_RM)
    else:
        arrays = how.prepare(q_segment_RN, k_segment_RM, longest)
    return AttentionPlan(name, exchange, arrays)


def refuse_bad_rows(
    segment_RN: np.ndarray, longest: int | None = None, where: str = "patch_segment"
) -> None:
    """Host check of what the kernels take for granted and would get silently wrong.

    Raises BadInput unless ids ascend from 1, zeros stand at the end only, and no segment has more
    than `longest` tokens.
    """
    ids = np.asarray(segment_RN, np.int64)
    jump = np.diff(ids, axis=1, prepend=0)
    row, at = np.nonzero(((jump < 0) | (jump > 1)) & (ids > 0))
    zero_row, zero_at = np.nonzero((ids[:, :-1] == 0) & (ids[:, 1:] > 0))
    for r, n in (*zip(row, at, strict=True), *zip(zero_row, zero_at + 1, strict=True)):
        raise bad(
            where, f"id {ids[r, n]} follows {ids[r, n - 1] if n else 0} in row {r} at token {n}",
            "ids ascend by one from 1, and 0 only at the end",
        )  # fmt: skip
    if longest is None:
        return
    for r, line in enumerate(ids):
        most = int(np.bincount(line)[1:].max(initial=0))
        if most > longest:
            raise bad(
                where, f"a clip of {most:,} tokens in row {r}", f"at most {longest:,}",
                "raise the longest clip that attention is told of",
            )  # fmt: skip


def attend_planned(
    q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, plan: AttentionPlan
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within segments; softmax in float32; returns RNAE, dtype of v.

    Raises BadInput when the implementation is local and the mesh does not divide its rows, tokens
    or heads.
    """
    how = IMPLEMENTATIONS[plan.implementation]
    if not how.local or current_mesh() is None:
        return how.run(q_RNAE, k_RMAE, v_RMAE, plan.arrays)
    run = how.ring if plan.exchange == RING and how.ring is not None else how.run
    return attend_on_mesh(run, plan.exchange, q_RNAE, k_RMAE, v_RMAE, plan.arrays)


def attend(
    q_RNAE: jax.Array,
    k_RMAE: jax.Array,
    v_RMAE: jax.Array,
    q_segment_RN: jax.Array,
    k_segment_RM: jax.Array,
    **choice: Any,
) -> jax.Array:
    """`plan_attention` (which takes `choice`) and `attend_planned`, for one use of the segments."""
    return attend_planned(
        q_RNAE, k_RMAE, v_RMAE, plan_attention(q_segment_RN, k_segment_RM, **choice)
    )


def _dense(
    q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, segments: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """The plain masked formula; cost and memory N x M whatever the segments."""
    q_segment_RN, k_segment_RM = segments
    same = q_segment_RN[:, :, None] == k_segment_RM[:, None, :]
    same_R1NM = (same & (q_segment_RN > 0)[:, :, None])[:, None]
    scale = q_RNAE.shape[-1] ** -0.5
    s = jnp.einsum("rnae,rmae->ranm", q_RNAE, k_RMAE, preferred_element_type=jnp.float32) * scale
    s = jnp.where(same_R1NM, s, LOW)
    p = jnp.where(same_R1NM, jnp.exp(s - jax.lax.stop_gradient(s.max(-1, keepdims=True))), 0.0)
    total = p.sum(-1, keepdims=True)
    p = (p / jnp.where(total == 0.0, 1.0, total)).astype(v_RMAE.dtype)
    out = jnp.einsum("ranm,rmae->rnae", p, v_RMAE, preferred_element_type=jnp.float32)
    return checkpoint_name(out.astype(v_RMAE.dtype), SAVED)


def _blocks(q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, pairs: LivePairs) -> jax.Array:
    q, k, v = _operands(q_RNAE, k_RMAE, v_RMAE)
    return attend_blocks(q, k, v, pairs).astype(v_RMAE.dtype)


def _operands(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """On CPU small bfloat16 products are slower than float32 ones, so the blocks are float32."""
    if current_platform() != "cpu":
        return arrays
    return tuple(x.astype(jnp.float32) for x in arrays)


def _dense_segments(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, longest: int | None
) -> tuple[jax.Array, jax.Array]:
    return q_segment_RN, k_segment_RM


def _blocks_segments(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, longest: int | None
) -> LivePairs:
    block_q, block_k = (_block_for(x.shape[1]) for x in (q_segment_RN, k_segment_RM))
    return live_pairs(q_segment_RN, k_segment_RM, block_q, block_k)


def _block_for(tokens: int) -> int:
    """Block size by static shape: see the table of `implementation_for`."""
    return 256 if tokens > 2048 else 64


def _ring_blocks(
    q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, segments: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """`_blocks` on the tokens of each device, in a ring."""
    q, k, v = _operands(q_RNAE, k_RMAE, v_RMAE)
    block_q, block_k = _block_for(q.shape[1]), _block_for(k.shape[1])
    out = attend_ring(q, k, v, segments, axis=CONTEXT, block_q=block_q, block_k=block_k)
    return out.astype(v_RMAE.dtype)


# "dense" and the blocks are plain JAX and run everywhere, where they are asked for by name.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "dense": Implementation(_dense_segments, _dense, local=False),
    "cpu_blocks": Implementation(_blocks_segments, _blocks, local=True),
    "ring_blocks": Implementation(_blocks_segments, _blocks, local=True, ring=_ring_blocks),
    "tpu_splash": Implementation(splash_tables, attend_splash, local=True, platforms=TPU),
    "tpu_splash_interpreted": Implementation(
        splash_tables, functools.partial(attend_splash, interpret=True), local=True
    ),
    "gpu_flash": Implementation(gpu_ranges, attend_gpu, local=True, platforms=GPU),
    "gpu_flash_interpreted": Implementation(
        gpu_ranges, functools.partial(attend_gpu, interpret=True), local=True
    ),
}
