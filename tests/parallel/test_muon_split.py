"""Muon over a mesh: the update of one device, with no stack of matrices whole anywhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers
from optax.contrib import scale_by_muon as other_hand

from tests.parallel.compiled import GATHERS, results
from vidsim.core.trees import flatten
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.rules import Rules
from vidsim.train.muon import orthogonalise
from vidsim.train.optim import OptimConfig, build_optimizer
from vidsim.train.state import init_state, state_shardings

# 11 layers are no multiple of the devices; a kernel and a lone matrix are orthogonalised as well
AXES = {
    "up": ("layers", "embed", "mlp"),
    "down": ("layers", "mlp", "embed"),
    "lone": ("caption", "heads"),
    "kernel": (None, "conv_in", "conv_out"),
}
SHAPES = {"up": (11, 16, 48), "down": (11, 48, 16), "lone": (16, 16), "kernel": (3, 8, 16)}
MATRIX = 16 * 48  # the largest
MESHES = {
    "fsdp": MeshConfig(data=1, fsdp=8),
    "fsdp_context_tensor": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "data_tensor": MeshConfig(data=4, tensor=2),
}
# Products of one matrix and of a batch round differently; five iterations amplify it.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


@functools.cache
def gradients():
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}


def optimizer():
    return build_optimizer(OptimConfig(name="muon", lr=1.0, clip_norm=None), AXES)


def update(grads, state, params):
    return optimizer().update(grads, state, params, share=1.0)


@functools.cache
def program(name):
    """Weights' places and the compiled update over a mesh."""
    mesh = build_mesh(MESHES[name])
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()}
    abstract = jax.eval_shape(lambda p: init_state(p, optimizer()), shapes)
    places = state_shardings(abstract, AXES, mesh, Rules())
    placed = jax.device_put(gradients(), places.params)
    state = jax.device_put(optimizer().init(gradients()), places.opt_state)
    with jax.set_mesh(mesh):
        run = jax.jit(update).lower(placed, state, placed).compile()
    return places.params, run, placed, state


@functools.cache
def on_one_device():
    state = optimizer().init(gradients())
    return flatten(jax.jit(update)(gradients(), state, gradients())[0])


@pytest.mark.parametrize("name", MESHES)
def test_the_update_is_that_of_one_device_and_lies_where_the_weight_lies(name):
    places, run, placed, state = program(name)
    got = flatten(run(placed, state, placed)[0])
    for path, want in on_one_device().items():
        np.testing.assert_allclose(got[path], want, err_msg=path, **TOLERANCE)
        assert got[path].sharding.is_equivalent_to(places[path], want.ndim), path


@pytest.mark.parametrize("name", MESHES)
def test_no_device_holds_more_than_its_layers(name):
    """Of 11 layers a device of 8 takes two, of 2 six; a stack is never whole where it is split."""
    text = program(name)[1].as_text()
    sizes = MESHES[name]
    ways = sizes.fsdp * sizes.context * sizes.tensor
    layers = math.ceil(11 / ways)
    moved = [r for r in results(text) if r.kind in GATHERS]
    assert moved and {r.kind for r in moved} == {"all-to-all"}
    assert max(r.size for r in results(text)) <= layers * MATRIX


def test_what_the_compiler_makes_of_the_plain_formula_breaks_that_law():
    """The reason for the exchange: the same update by optax gathers the stack."""
    mesh, axes = build_mesh(MESHES["fsdp"]), AXES["up"]
    place = Rules().sharding(mesh, axes, SHAPES["up"], "up")
    x = jax.ShapeDtypeStruct(SHAPES["up"], jnp.float32, sharding=place)
    plain = other_hand(weight_dimension_numbers=MuonDimensionNumbers((1,), (2,)))
    run = lambda g: plain.update(g, plain.init(g))[0]  # noqa: E731
    with jax.set_mesh(mesh):
        text = jax.jit(run, out_shardings=place).lower(x).compile().as_text()
    assert max(r.size for r in results(text)) > 2 * MATRIX


def test_values_follow_the_quintic_in_closed_form():
    """Each singular value goes through s <- a s + b s^3 + c s^5 by itself, vectors stay."""
    rng = np.random.default_rng(3)
    u, s, vt = np.linalg.svd(rng.normal(size=(3, 8, 16)), full_matrices=False)
    x = jnp.asarray((u * s[:, None]) @ vt, jnp.float32)
    got = orthogonalise(x, ("layers", "embed", "mlp"), MuonDimensionNumbers((1,), (2,)))
    s = s / np.linalg.norm(s, axis=-1, keepdims=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    np.testing.assert_allclose(got, (u * s[:, None]) @ vt, atol=2e-4, rtol=0)
