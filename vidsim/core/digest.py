"""A digest of an array that is free of sharding (a sum modulo 2^32 has no order)."""

import jax
import jax.numpy as jnp

from vidsim.core.trees import flatten


def digest(array: jax.Array) -> jax.Array:
    """uint32[] that changes with any flipped bit or swapped pair of different values.

    Each value is hashed with its logical index (not its place in memory), and the hashes are added.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)
    index, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        places = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        index = index + places * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= array.shape[axis]
    h = (bits ^ (index * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def digests(tree: object) -> dict[str, int]:
    """Digest of every leaf by slash path, computed on the device, fetched once."""
    flat = flatten(tree)
    values = digest_leaves(list(flat.values()))
    return {path: int(value) for path, value in zip(flat, jax.device_get(values), strict=True)}


@jax.jit  # at module level, so that saving again does not compile again
def digest_leaves(leaves: list[jax.Array]) -> list[jax.Array]:
    """Digest uint32[] of each array."""
    return [digest(leaf) for leaf in leaves]
