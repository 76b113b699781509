"""Putting arrays on a mesh, and constraining activations at block boundaries."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidsim.core.batch import LETTERS
from vidsim.parallel.rules import Rules

# Logical axes of the letters of a batch's arrays; letters that are not here are never split. Text
# rows are whole on every device of a row: each attends from its own tokens to all of the captions.
BATCH_AXES = {"R": "rows", "B": "clips", "N": "tokens", "H": "height"}
OTHERS = {"video": "BTHWC", "midstream": "RNP"}


def constrain(x: jax.Array, axes: tuple[str | None, ...], rules: Rules | None = None) -> jax.Array:
    """Constrains an activation to its logical axes under the current mesh; identity without a mesh.

    x       activation with one logical axis name (or None) for each axis
    Raises  BadInput for an unknown name, and for a size that the mesh does not divide
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    where = f"activation of shape {x.shape}"
    return jax.lax.with_sharding_constraint(
        x, (rules or Rules()).sharding(mesh, axes, x.shape, where)
    )


def ways(name: str) -> int:
    """Devices that an axis of this logical name is split over on the current mesh; 1 without."""
    mesh, axes = jax.sharding.get_abstract_mesh(), Rules().table[name]
    if mesh.empty or axes is None:
        return 1
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows (or clips) split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """One full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_letters(name: str) -> str:
    """The letters of an array of a host batch; rows alone for a name that nobody knows."""
    return OTHERS.get(name) or LETTERS.get(name) or "R"


def batch_axes(name: str, ndim: int) -> tuple[str | None, ...]:
    """Logical axes of an array of a host batch."""
    axes = [BATCH_AXES.get(letter) for letter in batch_letters(name)][:ndim]
    return (*axes, *(None,) * (ndim - len(axes)))


def batch_sharding(mesh: Mesh, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """Where an array of a host batch lies: rows over data and fsdp, tokens (or rows of pixels)
    over context, scalars everywhere. Raises BadInput naming the array when a size does not divide.
    """
    if not shape:
        return replicated(mesh)
    where = f"batch array {name!r}"
    return Rules().sharding(mesh, batch_axes(name, len(shape)), shape, where)


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a whole host batch on the mesh; every process passes the same."""
    arrays = {name: np.asarray(value) for name, value in batch.items()}
    return {name: put(x, batch_sharding(mesh, name, x.shape)) for name, x in arrays.items()}


def put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A whole host array on the mesh; each process hands over the parts of its own devices."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def on_host(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree as numpy, whole on every process, however they are split.

    A collective: every process of the mesh must call it.
    """
    if jax.process_count() > 1:
        with jax.set_mesh(mesh):
            tree = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(np.asarray, tree)
