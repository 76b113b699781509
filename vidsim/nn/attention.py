"""Attention within the segments of packed rows, by named implementations.

A plan holds what depends on the segments alone; a model makes it once a step, outside its blocks,
and every block attends with it. Padding (segment 0) gives zeros and receives zero gradients.
Neighbouring segments change nothing as long as they are finite.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vidsim.core.errors import bad, nearest
from vidsim.nn.attention_cpu import LOW, SAVED, LivePairs, attend_blocks, live_pairs
from vidsim.parallel.rules import Rules


class Implementation(NamedTuple):
    """How to attend.

    prepare  (q_segment_RN, k_segment_RM, platform) -> arrays, each with rows first
    run      (q_RNAE, k_RMAE, v_RMAE, arrays) -> out_RNAE
    local    run must see whole rows on one device
    """

    prepare: Callable[..., Any]
    run: Callable[..., jax.Array]
    local: bool


@dataclasses.dataclass(frozen=True)
class AttentionPlan:
    """What one step's segments mean for one implementation."""

    implementation: str
    arrays: Any


jax.tree_util.register_dataclass(AttentionPlan, ["arrays"], ["implementation"])


def implementation_for(platform: str, n: int = 2**30, m: int = 2**30) -> str:
    """The implementation that "auto" means on a platform, for rows of n queries and m keys.

    Tiny rows go to "dense": the blocks' loop costs more than the masked products save. Processor
    time of forward and backward in ms (R rows of N = M tokens, A heads of E, segments of `len`):

    | R x N, A x E, len        | float32 dense, blocks of 64, 128, 256 | bfloat16 the same |
    |--------------------------|---------------------------------------|-------------------|
    | 8 x 128, 4 x 32, 9-100   | 2, 4, 4, 12                           | 2, 4, 6, 12       |
    | 8 x 256, 4 x 32, 9-200   | 10, 9, 8, 14                          | 12, 7, 10, 16     |
    | 8 x 512, 4 x 64, 9-200   | 105, 34, 45, 75                       | 117, 35, 44, 67   |
    | 8 x 512, 4 x 64, 64-200  | 106, 33, 44, 70                       | 116, 31, 45, 69   |
    | 8 x 512, 4 x 64, 500-512 | 105, 70, 62, 69                       | 111, 69, 62, 69   |
    | 2 x 2048, 4 x 64, 64-400 | 377, 67, 60, 100                      | 427, 70, 57, 90   |

    Blocks of 256 keep two threads busy where those of 64 keep one, so long rows take them.
    Raises BadInput for an unknown platform.
    """
    if platform not in ("cpu", "gpu", "cuda", "rocm", "tpu"):
        raise bad("attention", f"platform {platform!r}", "cpu, gpu or tpu")
    return "dense" if n * m <= 128 * 128 else "cpu_blocks"


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
) -> AttentionPlan:
    """Everything that depends on segments alone.

    q_segment_RN, k_segment_RM  int, 0 = padding, otherwise ids 1.. in row order
    implementation              a key of IMPLEMENTATIONS or "auto" (see `implementation_for`)
    Raises                      BadInput for an unknown implementation
    """
    platform = current_platform()
    name = implementation
    if name == "auto":
        name = implementation_for(platform, q_segment_RN.shape[1], k_segment_RM.shape[1])
    if name not in IMPLEMENTATIONS:
        raise bad(
            "attention", f"implementation {name!r}", nearest(name, (*IMPLEMENTATIONS, "auto"))
        )
    arrays = IMPLEMENTATIONS[name].prepare(q_segment_RN, k_segment_RM, platform)
    return AttentionPlan(name, arrays)


def attend_planned(
    q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, plan: AttentionPlan
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within segments; softmax in float32; returns RNAE, dtype of v.

    Raises BadInput when the implementation is local and the mesh does not divide rows or heads.
    """
    how = IMPLEMENTATIONS[plan.implementation]
    mesh = jax.sharding.get_abstract_mesh()
    if not how.local or mesh.empty or mesh.size == 1:
        return how.run(q_RNAE, k_RMAE, v_RMAE, plan.arrays)
    spec = Rules().spec(("rows", None, "heads", None), "attention")
    Rules().sharding(mesh, ("rows", None, "heads", None), q_RNAE.shape, "attention")
    rows_only = jax.tree.map(lambda _: jax.sharding.PartitionSpec(spec[0]), plan.arrays)
    run = jax.shard_map(
        how.run, in_specs=(spec, spec, spec, rows_only), out_specs=spec, check_vma=False
    )
    return run(q_RNAE, k_RMAE, v_RMAE, plan.arrays)


def attend(
    q_RNAE: jax.Array,
    k_RMAE: jax.Array,
    v_RMAE: jax.Array,
    q_segment_RN: jax.Array,
    k_segment_RM: jax.Array,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """`plan_attention` and `attend_planned` in one call, for a single use of the segments."""
    plan = plan_attention(q_segment_RN, k_segment_RM, implementation=implementation)
    return attend_planned(q_RNAE, k_RMAE, v_RMAE, plan)


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
    """On CPU small bfloat16 products are slower than float32 ones, so the blocks are float32."""
    dtype = jnp.float32 if current_platform() == "cpu" else v_RMAE.dtype
    q_RNAE, k_RMAE, v = (x.astype(dtype) for x in (q_RNAE, k_RMAE, v_RMAE))
    return attend_blocks(q_RNAE, k_RMAE, v, pairs).astype(v_RMAE.dtype)


def _dense_segments(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, platform: str
) -> tuple[jax.Array, jax.Array]:
    return q_segment_RN, k_segment_RM


def _blocks_segments(q_segment_RN: jax.Array, k_segment_RM: jax.Array, platform: str) -> Any:
    """Block sizes by static shape: see the table of `implementation_for`."""
    longest = max(q_segment_RN.shape[1], k_segment_RM.shape[1])
    block = 512 if platform != "cpu" else 256 if longest > 2048 else 64
    return live_pairs(q_segment_RN, k_segment_RM, block, block)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "dense": Implementation(_dense_segments, _dense, local=False),
    "cpu_blocks": Implementation(_blocks_segments, _blocks, local=True),
}
