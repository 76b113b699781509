"""Hand-written backward passes against autodiff of the plain formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.nn import pointwise

EPS, D, K = 1e-3, 12, 3
INDEX = np.array([[0, 1, 1, 2, 0], [2, 2, 2, 0, 1]], np.int32)


def plain_unit(x):
    z = x - x.mean(-1, keepdims=True)
    return z / jnp.sqrt((z * z).mean(-1, keepdims=True) + EPS)


def token(rows):
    return jnp.stack([rows[r][INDEX[r]] for r in range(2)])


row = lambda g: g[None, None]  # noqa: E731
CASES = {
    "rms_norm": (
        ["x", "g"],
        lambda x, g: pointwise.rms_norm(x, g, EPS),
        lambda x, g: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPS) * row(g),
    ),
    "layer_norm": (
        ["x", "g", "g"],
        lambda x, g, b: pointwise.layer_norm(x, g, b, EPS),
        lambda x, g, b: plain_unit(x) * row(g) + row(b),
    ),
    "modulated_norm": (
        ["x", "k", "k"],
        lambda x, shift, scale: pointwise.modulated_norm(x, shift, scale, INDEX, EPS),
        lambda x, shift, scale: plain_unit(x) * (1 + token(scale)) + token(shift),
    ),
    "gated_add": (
        ["x", "x", "k"],
        lambda x, h, gate: pointwise.gated_add(x, h, gate, INDEX),
        lambda x, h, gate: x + h * token(gate),
    ),
    "gelu": (
        ["x"],
        pointwise.gelu,
        lambda u: u / 2 * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (u + 0.044715 * u**3))),
    ),
}
SHAPES = {"x": (2, 5, D), "g": (D,), "k": (2, K, D)}


def value_and_gradients(function, arrays, d_out):
    out, pull = jax.vjp(function, *arrays)
    return out, *pull(d_out.astype(out.dtype))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name):
    kinds, ours, plain = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [3 * rng.normal(size=SHAPES[kind]) for kind in kinds]
    d_out = rng.normal(size=SHAPES["x"])
    with jax.enable_x64(True):
        exact = value_and_gradients(plain, [jnp.asarray(a) for a in arrays], jnp.asarray(d_out))
        exact = [np.asarray(e) for e in exact]
    got = value_and_gradients(ours, [jnp.float32(a) for a in arrays], jnp.float32(d_out))
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)  # float32 sums of tens of terms


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_in_is_float32_inside(name):
    """The result is that of float32 on the same rounded input, rounded once."""
    kinds, ours, _ = CASES[name]
    rng = np.random.default_rng(1)
    arrays = [jnp.asarray(rng.normal(size=SHAPES[kind]), jnp.float32) for kind in kinds]
    halves = [a.astype(jnp.bfloat16) if k == "x" else a for a, k in zip(arrays, kinds, strict=True)]
    out = ours(*halves)
    assert out.dtype == jnp.bfloat16
    exact = ours(*(a.astype(jnp.float32) for a in halves))
    np.testing.assert_allclose(np.float32(out), exact, rtol=2**-8)


def test_gradients_leave_in_the_dtype_of_their_input():
    for kinds, ours, _ in CASES.values():
        arrays = [jnp.ones(SHAPES[k], jnp.bfloat16 if k == "x" else jnp.float32) for k in kinds]
        gradients = value_and_gradients(ours, arrays, jnp.ones(SHAPES["x"]))[1:]
        assert [g.dtype for g in gradients] == [a.dtype for a in arrays]
