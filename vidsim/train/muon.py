"""Muon of matrices that are split over a mesh: whole layers change hands, never whole stacks.

A matrix is orthogonalised as a whole, but layers do not meet. So each device gives away its part of
every layer and takes some layers whole: one all-to-all for each axis that is split, and one back.
The iterations in between send nothing, and no device holds more than its share of a stack, rounded
up to whole layers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from optax.contrib import MuonDimensionNumbers, MuonState

from vidsim.parallel.rules import Rules

# The quintic iteration x <- a x + b (x x') x + c (x x')^2 x of K. Jordan, steepest at zero.
COEFFICIENTS, TURNS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-8

Axes = tuple[str | None, ...]


def scale_by_muon(beta: float, axes: Any, dims: Any) -> optax.GradientTransformation:
    """Nesterov momentum, orthogonalised (arXiv:2502.16982 eq. 1 and 2), with the state of
    `optax.contrib.scale_by_muon`.

    beta  of the momentum
    axes  tuples of logical axis names in the places of Muon's weights
    dims  input and output axes of their matrices likewise, the outputs last; a weight with an axis
          before them is a stack of matrices
    """

    def init(params: Any) -> MuonState:
        mu = jax.tree.map(jnp.zeros_like, params)
        return MuonState(jnp.zeros((), jnp.int32), mu, jnp.asarray(COEFFICIENTS))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta * m + (1.0 - beta) * g, state.mu, updates)
        now, next_ = 1.0 - beta**count, 1.0 - beta ** (count + 1)
        ahead = jax.tree.map(lambda m, g: beta * m / next_ + (1.0 - beta) * g / now, mu, updates)
        return jax.tree.map(orthogonalise, ahead, axes, dims), MuonState(count, mu, state.ns_coeffs)

    return optax.GradientTransformation(init, update)


def orthogonalise(x: jax.Array, axes: Axes, dims: MuonDimensionNumbers) -> jax.Array:
    """The matrices of x with singular values brought near 1; the result lies where x lies.

    Raises  BadInput when the current mesh does not divide x
    """
    stacked = 0 not in dims[0]
    stack = x if stacked else x[None]
    names: Axes = axes if stacked else (None, *axes)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        out = _iterate(stack)
    else:
        spec = Rules().sharding(mesh, names, stack.shape, "muon").spec
        out = _iterate_by_layers(stack, spec, mesh)
    return out if stacked else out[0]


def _iterate_by_layers(stack: jax.Array, spec: PartitionSpec, mesh: Any) -> jax.Array:
    """`_iterate` on devices that each hold a part of every matrix, as `spec` says."""
    split: list[tuple[int, tuple[str, ...]]] = []
    for at, entry in enumerate(spec):
        group = (entry,) if isinstance(entry, str) else tuple(entry or ())
        if math.prod(mesh.shape[name] for name in group) > 1:
            split.append((at, group))
    ways = math.prod(mesh.shape[name] for _, group in split for name in group)

    def body(parts: jax.Array) -> jax.Array:
        layers = parts.shape[0]
        x = jnp.pad(parts, [(0, -layers % ways)] + [(0, 0)] * (parts.ndim - 1))
        for at, group in split:
            x = jax.lax.all_to_all(x, group, 0, at, tiled=True)
        x = _iterate(x)
        for at, group in reversed(split):
            x = jax.lax.all_to_all(x, group, at, 0, tiled=True)
        return x[:layers]

    return jax.shard_map(body, in_specs=spec, out_specs=spec, check_vma=False)(stack)


def _iterate(stack: jax.Array) -> jax.Array:
    """Newton-Schulz on each matrix [all axes but the first and the last, the last]; zeros stay."""
    x = stack.reshape(stack.shape[0], -1, stack.shape[-1])
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + EPS)
    a, b, c = COEFFICIENTS
    for _ in range(TURNS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if tall else x).reshape(stack.shape)
