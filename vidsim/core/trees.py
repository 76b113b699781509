"""Helpers over plain parameter trees (nested dicts of arrays)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by slash path, e.g. {"blocks/attn/q/w": array}, sorted by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_axes)[0]
    return dict(sorted(("/".join(_name(k) for k in path), leaf) for path, leaf in leaves))


def is_axes(leaf: Any) -> bool:
    """True for a tuple of logical axis names, the leaf of a tree of axes."""
    return type(leaf) is tuple and all(name is None or isinstance(name, str) for name in leaf)


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten` for trees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Applies function(path, leaf) to every leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function("/".join(_name(k) for k in path), leaf), tree
    )


def count(tree: Any) -> int:
    """Numbers in all leaves (arrays or shape structs)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def as_float32(tree: Any) -> Any:
    """Device arrays, floats of any width in float32, as weights are computed with."""

    def lifted(leaf: Any) -> jax.Array:
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float32 if floats else None)

    return jax.tree.map(lifted, tree)


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all leaves, summed in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros((), jnp.float32)


def _name(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
