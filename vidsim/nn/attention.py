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

    prepare  (q_segment_RN, k_segment_RM, platform, dtype) -> arrays, each with rows first
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


def implementation_for(
    platform: str, n: int = 2**30, m: int = 2**30, dtype: Any = jnp.float32
) -> str:
    """The implementation that "auto" means on a platform, for rows of n queries and m keys.

    Tiny rows go to "dense": the blocks' loop costs more than the masked products save. Forward and
    backward in ms (CPU, R rows of N = M tokens, A heads of E, segments of `len` tokens):

    | R x N, A x E, len         | float32 dense, blocks of 64, 128, 256 | bfloat16 the same   |
    |---------------------------|---------------------------------------|---------------------|
    | 8 x 64, 4 x 32, 9-64      | 0.5, 1.0, 2.6, 8.5                    | 0.7, 1.4, 4.1, 9.0  |
    | 8 x 128, 4 x 32, 9-100    | 1.3, 3.0, 2.5, 8.5                    | 2.0, 5.9, 5.3, 14.7 |
    | 8 x 256, 4 x 32, 9-200    | 5.6, 7.0, 8.7, 11.4                   | 8.1, 19, 18, 8.8    |
    | 8 x 512, 4 x 64, 64-200   | 56, 30, 37, 39                        | 69, 37, 34, 40      |
    | 8 x 512, 4 x 64, 500-512  | 58, 61, 57, 56                        | 69, 70, 55, 66      |
    | 2 x 4096, 6 x 64, 256-1024| 1458, 280, 354, 266                   | 1772, 344, 412, 251 |

    Raises BadInput for an unknown platform.
    """
    if platform not in ("cpu", "gpu", "cuda", "rocm", "tpu"):
        raise bad("attention", f"platform {platform!r}", "cpu, gpu or tpu")
    tiny = 128**2 if jnp.dtype(dtype).itemsize == 4 else 256**2
    return "dense" if n * m <= tiny else "cpu_blocks"


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
    dtype: Any = jnp.float32,
) -> AttentionPlan:
    """Everything that depends on segments alone.

    q_segment_RN, k_segment_RM  int, 0 = padding, otherwise ids 1.. in row order
    implementation              a key of IMPLEMENTATIONS or "auto" (see `implementation_for`)
    dtype                       of the queries, keys and values to come
    Raises                      BadInput for an unknown implementation
    """
    platform = current_platform()
    name = implementation
    if name == "auto":
        name = implementation_for(platform, q_segment_RN.shape[1], k_segment_RM.shape[1], dtype)
    if name not in IMPLEMENTATIONS:
        raise bad(
            "attention", f"implementation {name!r}", nearest(name, (*IMPLEMENTATIONS, "auto"))
        )
    arrays = IMPLEMENTATIONS[name].prepare(q_segment_RN, k_segment_RM, platform, dtype)
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
    plan = plan_attention(
        q_segment_RN, k_segment_RM, implementation=implementation, dtype=q_RNAE.dtype
    )
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
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, platform: str, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    return q_segment_RN, k_segment_RM


def _blocks_segments(
    q_segment_RN: jax.Array, k_segment_RM: jax.Array, platform: str, dtype: Any
) -> Any:
    """Block sizes by static shape: see the table of `implementation_for`."""
    longest = max(q_segment_RN.shape[1], k_segment_RM.shape[1])
    if platform != "cpu":
        block = 512
    elif longest > 2048:
        block = 256
    else:
        block = 64 if jnp.dtype(dtype).itemsize == 4 else 128
    return live_pairs(q_segment_RN, k_segment_RM, block, block)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "dense": Implementation(_dense_segments, _dense, local=False),
    "cpu_blocks": Implementation(_blocks_segments, _blocks, local=True),
}
