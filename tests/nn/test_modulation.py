"""Levels to modulation: closed forms, look-up per token and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.nn.init import init_params
from vidsim.nn.modulation import ONE_HOT_ROWS, TimeEmbedding, per_token, sinusoid, sum_per_row


def test_sinusoid_is_the_closed_form():
    """Angles up to 1000 radians in float32: 1000 * 2^-24 = 6e-5, doubled for the product."""
    x = np.linspace(0, 1000, 37)
    rates = np.array([10_000.0 ** (-i / 8) for i in range(8)])
    exact = np.concatenate([np.cos(x[:, None] * rates), np.sin(x[:, None] * rates)], -1)
    np.testing.assert_allclose(sinusoid(jnp.asarray(x), 16), exact, atol=1.2e-4)


def test_time_embedding_is_the_three_layer_formula():
    module = TimeEmbedding(16, 6)
    params = init_params(module, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.float32))
    level_RK = np.random.default_rng(0).random((2, 3)).astype(np.float32)
    time, six = module.apply({"params": params}, jnp.asarray(level_RK))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    rates = np.array([10_000.0 ** (-i / 8) for i in range(8)])
    angle = 1000.0 * level_RK.astype(np.float64)[..., None] * rates
    wave = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    exact = silu(wave @ p["in"]["w"] + p["in"]["b"]) @ p["out"]["w"] + p["out"]["b"]
    np.testing.assert_allclose(time, exact, atol=3e-4)
    exact = (silu(exact) @ p["six"]["w"] + p["six"]["b"]).reshape(2, 3, 6, 6)
    np.testing.assert_allclose(six, exact, atol=3e-4)


@pytest.mark.parametrize("count", [5, ONE_HOT_ROWS + 3], ids=["one-hot", "scatter"])
def test_looking_up_rows_and_summing_over_tokens_are_transposes(count):
    rng = np.random.default_rng(1)
    rows_RKX = rng.normal(size=(2, count, 4)).astype(np.float32)
    index_RN = rng.integers(0, count, (2, 50)).astype(np.int32)
    d_RNX = rng.normal(size=(2, 50, 4)).astype(np.float32)
    out, pull = jax.vjp(lambda rows: per_token(rows, index_RN), jnp.asarray(rows_RKX))
    np.testing.assert_array_equal(out, np.stack([rows_RKX[r][index_RN[r]] for r in range(2)]))
    sums = np.zeros((2, count, 4))
    for r in range(2):
        np.add.at(sums[r], index_RN[r], d_RNX[r])
    np.testing.assert_allclose(pull(jnp.asarray(d_RNX))[0], sums, atol=1e-5)
    np.testing.assert_allclose(
        sum_per_row(jnp.asarray(d_RNX), jnp.asarray(index_RN), count), sums, atol=1e-5
    )
