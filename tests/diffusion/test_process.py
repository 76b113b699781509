"""The process: a straight line, all targets, conversions that are inverses of each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.diffusion.process import TARGETS, Flow, log_snr

FLOW = Flow()
# A conversion divides by t or 1 - t >= 0.02 here: float32 rounding (1e-7) grows 50-fold, twice.
CYCLE = 5e-4


def _sample(times):
    x, eps = jax.random.normal(jax.random.key(0), (2, len(times), 5, 3))
    return x, eps, jnp.asarray(times, jnp.float32)


def test_ends_are_exactly_data_and_noise():
    x, eps, t = _sample([0.0, 1.0])
    x_t = np.asarray(FLOW.mix(x, eps, t))
    np.testing.assert_array_equal(x_t[0], x[0])
    np.testing.assert_array_equal(x_t[1], eps[1])


def test_velocity_is_the_time_derivative():
    x, eps, _ = _sample([0.3])
    _, slope = jax.jvp(lambda t: FLOW.mix(x, eps, t), (jnp.asarray(0.3),), (jnp.asarray(1.0),))
    np.testing.assert_allclose(FLOW.targets(x, eps)["v"], slope, atol=1e-6)


@pytest.mark.parametrize("source,target", list(itertools.product(TARGETS, TARGETS)))
def test_conversion_gives_the_true_target(source, target):
    x, eps, t = _sample([0.02, 0.2, 0.5, 0.9, 0.98])
    truth = FLOW.targets(x, eps)
    made = FLOW.convert(truth[source], source, target, FLOW.mix(x, eps, t), t)
    np.testing.assert_allclose(made, truth[target], atol=CYCLE)


@pytest.mark.parametrize("a,b,c", list(itertools.permutations(TARGETS)))
def test_every_cycle_is_the_identity(a, b, c):
    x, eps, t = _sample([0.02, 0.5, 0.98])
    x_t = FLOW.mix(x, eps, t)
    start = jax.random.normal(jax.random.key(3), x.shape)  # any prediction, not only the true one
    two = FLOW.convert(FLOW.convert(start, a, b, x_t, t), b, a, x_t, t)
    three = start
    for source, target in ((a, b), (b, c), (c, a)):
        three = FLOW.convert(three, source, target, x_t, t)
    np.testing.assert_allclose(two, start, atol=CYCLE)
    np.testing.assert_allclose(three, start, atol=CYCLE)


@pytest.mark.parametrize("source,target", list(itertools.product(TARGETS, TARGETS)))
def test_conversions_are_finite_at_both_ends(source, target):
    x, eps, t = _sample([0.0, 1.0])
    made = FLOW.convert(x, source, target, FLOW.mix(x, eps, t), t)
    assert np.isfinite(np.asarray(made)).all()


def test_time_may_differ_per_token():
    x, eps = jax.random.normal(jax.random.key(1), (2, 2, 4, 3))
    t = jnp.linspace(0.1, 0.9, 8).reshape(2, 4)
    whole = FLOW.mix(x, eps, t)
    for row, token in itertools.product(range(2), range(4)):
        alone = FLOW.mix(x[row, token], eps[row, token], t[row, token])
        np.testing.assert_array_equal(whole[row, token], alone)


def test_log_snr_falls_and_is_finite():
    t = jnp.linspace(0.0, 1.0, 2001)
    value = np.asarray(log_snr(t))
    assert np.isfinite(value).all() and (np.diff(value) < 0.0).all()
    inner = np.linspace(0.01, 0.99, 99)
    exact = np.log((1.0 - inner) / inner)
    np.testing.assert_allclose(log_snr(jnp.asarray(inner, jnp.float32)), exact, atol=1e-5)


def test_bad_names_and_floors_are_refused():
    x, eps, t = _sample([0.5])
    with pytest.raises(BadInput, match="Flow.convert: unknown target 'epx'; did you mean 'eps'"):
        FLOW.convert(x, "x", "epx", x, t)
    with pytest.raises(BadInput, match="Flow.floor"):
        Flow(floor=0.0)
