"""A stack of blocks: one loop or another, one remat policy or another, the same numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vidsim.core.errors import BadInput
from vidsim.nn.attention import attend_planned, plan_attention
from vidsim.nn.init import init_params
from vidsim.nn.layers import Linear
from vidsim.nn.stack import LOOPS, REMAT, init_stack, run_stack, stack_axes

D, LAYERS = 8, 3
SEGMENT = np.repeat([1, 2, 0], [9, 5, 2])[None].astype(np.int32)


class TinyBlock(nn.Module):
    @nn.compact
    def __call__(self, x, plan):
        h = Linear(D, D, ("embed", "heads"), name="in")(x)[:, :, None]
        h = attend_planned(h, jnp.tanh(h), h, plan)[:, :, 0]
        return x + jnp.tanh(Linear(D, D, ("heads", "embed"), name="out")(h))


def plan():
    ids = jnp.asarray(SEGMENT)
    return plan_attention(ids, ids, implementation="cpu_blocks")


EXAMPLE = jax.ShapeDtypeStruct((1, 16, D), jnp.float32)
X = np.random.default_rng(0).normal(size=(1, 16, D)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return init_stack(TinyBlock(), LAYERS, jax.random.key(0), EXAMPLE, plan())


def loss(params, x, remat, loop):
    block = lambda p, x, plan: TinyBlock().apply({"params": p}, x, plan)  # noqa: E731
    return jnp.sum(run_stack(block, params, x, plan(), remat=remat, loop=loop) ** 2)


@pytest.fixture(scope="module")
def exact(params):
    """The loss and its gradients by a plain loop."""

    def plain(params, x):
        for layer in range(LAYERS):
            one = jax.tree.map(lambda p, i=layer: p[i], params)
            x = TinyBlock().apply({"params": one}, x, plan())
        return jnp.sum(x**2)

    return jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(params, X)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("remat", REMAT)
def test_scanned_is_unrolled_and_remat_changes_nothing(params, exact, remat, loop):
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=(2, 3))
    got = run(params, X, remat, loop)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)  # float32, other order of sums


def count(jaxpr, name):
    """Equations of that primitive, inner programs included, a scan's body times its length."""
    total = 0
    for eqn in jaxpr.eqns:
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += eqn.primitive.name == name
        for inner in jaxprs_in_params(eqn.params):
            total += times * count(inner, name)
    return total


@pytest.mark.parametrize("loop", LOOPS)
def test_save_attention_attends_no_more_often_than_without_remat(params, loop):
    loops = {}
    for remat in REMAT:
        traced = jax.jit(jax.grad(loss), static_argnums=(2, 3)).trace(params, X, remat, loop)
        loops[remat] = count(traced.jaxpr.jaxpr, "while")
    assert loops["none"] == loops["save_attention"] < loops["full"]


def test_layers_are_independent_and_named(params):
    w = params["in"]["w"]
    assert w.shape == (LAYERS, D, D) and not np.allclose(w[0], w[1])
    one = init_params(TinyBlock(), jax.random.key(1), EXAMPLE, plan())
    assert abs(float(jnp.std(w)) / float(jnp.std(one["in"]["w"])) - 1) < 0.3
    axes = stack_axes(TinyBlock(), EXAMPLE, plan())
    assert axes["in"]["w"] == ("layers", "embed", "heads")
    assert axes["out"]["b"] == ("layers", "embed")


def test_unknown_policies_are_refused(params):
    with pytest.raises(BadInput, match="remat: policy 'ful'.*'full'"):
        loss(params, X, "ful", "scan")
    with pytest.raises(BadInput, match="loop: kind 'while'"):
        loss(params, X, "none", "while")
