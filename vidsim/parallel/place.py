"""Putting arrays on a mesh, and constraining activations at block boundaries."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidsim.parallel.rules import Rules


def constrain(x: jax.Array, axes: tuple[str | None, ...], rules: Rules | None = None) -> jax.Array:
    """Constrains an activation to its logical axes under the current mesh; identity without a mesh.

    x     activation with one logical axis name (or None) for each axis
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = (rules or Rules()).spec(axes, "activation")
    return jax.lax.with_sharding_constraint(x, spec)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows (or clips) split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """One full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a host batch on the mesh: arrays are split over their first axis, scalars copied."""
    rows, copy = row_sharding(mesh), replicated(mesh)
    return {
        k: jax.device_put(np.asarray(v), rows if np.ndim(v) else copy) for k, v in batch.items()
    }
