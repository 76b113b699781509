"""Attention on a mesh: rows and heads on their own devices, tokens of a row over `context`.

Where a row's tokens are split, all-to-all exchanges change tokens for heads (DeepSpeed Ulysses,
arXiv:2309.14509): each device attends over whole rows with a share of the heads and hands the
result back, so a kernel sees whole rows and segments may cross the borders of shards. An
implementation with a ring leaves tokens where they are and sends keys and values round instead:
heads need not divide, and no device holds a whole row. Against keys that every device has (text)
queries stay where they are, either way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vidsim.core.errors import bad
from vidsim.parallel.rules import Rules

Run = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]

WHOLE, HEADS, QUERIES = "whole rows", "heads for tokens", "queries where they are"
RING = "keys in a ring"
CONTEXT = "context"


def current_mesh() -> Any:
    """The abstract mesh of the context, or None where there is none or it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def exchange_for(q_axis: str | None, k_axis: str | None, split: str = HEADS) -> str:
    """How queries and keys with these logical token axes attend under the current mesh.

    split   how where both are split over tokens: HEADS or RING
    Raises  BadInput when keys are split and queries are not
    """
    mesh = current_mesh()
    if mesh is None or mesh.shape.get(CONTEXT, 1) == 1 or (q_axis is None and k_axis is None):
        return WHOLE
    if q_axis is None:
        raise bad("attention", "keys are split over tokens and queries are not", "both, or queries")
    return QUERIES if k_axis is None else split


def prepare_slices(
    prepare: Callable[..., Any], q_segment_RN: jax.Array, k_segment_RM: jax.Array
) -> Any:
    """Arrays [R, context, ...]: those of each slice of a row's queries with all of its keys.

    Raises BadInput when the slices do not divide the row
    """
    ways, (rows, n) = current_mesh().shape[CONTEXT], q_segment_RN.shape
    Rules().sharding(current_mesh(), ("rows", "tokens"), q_segment_RN.shape, "attention")
    slices = q_segment_RN.reshape(rows * ways, n // ways)
    arrays = prepare(slices, jnp.repeat(k_segment_RM, ways, axis=0), None)
    return jax.tree.map(lambda x: x.reshape(rows, ways, *x.shape[1:]), arrays)


def attend_on_mesh(
    run: Run, exchange: str, q_RNAE: jax.Array, k_RMAE: jax.Array, v_RMAE: jax.Array, arrays: Any
) -> jax.Array:
    """`run` on every device of the current mesh with its rows and heads; see `exchange_for`.

    arrays  each with rows first; for QUERIES and RING the split of tokens second

    Raises BadInput when the mesh does not divide rows, tokens or heads.
    """
    mesh = current_mesh()
    q_tokens = None if exchange == WHOLE else "tokens"
    k_tokens = "tokens" if exchange in (HEADS, RING) else None
    q_spec = _spec(("rows", q_tokens, "heads", None), q_RNAE.shape)
    k_spec = _spec(("rows", k_tokens, "heads", None), k_RMAE.shape)
    lead = PartitionSpec(*(q_spec[:2] if exchange in (QUERIES, RING) else q_spec[:1]))
    bodies = {WHOLE: run, HEADS: _heads_for_tokens(run), QUERIES: _of_slice(run), RING: run}
    body = bodies[exchange]
    if exchange == HEADS:
        _check_heads(mesh, q_RNAE.shape[2])
    mapped = jax.shard_map(
        body, in_specs=(q_spec, k_spec, k_spec, jax.tree.map(lambda _: lead, arrays)),
        out_specs=q_spec, check_vma=False,
    )  # fmt: skip
    return mapped(q_RNAE, k_RMAE, v_RMAE, arrays)


def _spec(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    return Rules().sharding(current_mesh(), axes, shape, "attention").spec


def _check_heads(mesh: Any, heads: int) -> None:
    ways = mesh.shape["tensor"] * mesh.shape[CONTEXT]
    if heads % ways:
        raise bad(
            "attention", f"{heads} heads over tensor x context = {ways} devices", "must divide",
            "lower mesh.context, change the number of heads, or attend by 'ring_blocks', which "
            "leaves the heads where they are",
        )  # fmt: skip


def _heads_for_tokens(run: Run) -> Run:
    def body(q: jax.Array, k: jax.Array, v: jax.Array, arrays: Any) -> jax.Array:
        q, k, v = (jax.lax.all_to_all(x, CONTEXT, 2, 1, tiled=True) for x in (q, k, v))
        return jax.lax.all_to_all(run(q, k, v, arrays), CONTEXT, 1, 2, tiled=True)

    return body


def _of_slice(run: Run) -> Run:
    def body(q: jax.Array, k: jax.Array, v: jax.Array, arrays: Any) -> jax.Array:
        return run(q, k, v, jax.tree.map(lambda x: x.squeeze(1), arrays))

    return body
