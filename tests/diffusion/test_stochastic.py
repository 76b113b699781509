"""SDE solvers: exact mean and variance on a Gaussian, no noise at strength 0, noise by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.diffusion.solvers import STOCHASTIC, check_solver, integrate, make_solver
from vidsim.diffusion.times import TimeConfig, time_grid

MEAN, STD = 0.7, 0.4
PLAIN = TimeConfig(exponent=0.0)


def _same(t):
    return t


def _even(steps, width):
    grid = time_grid(PLAIN, steps, jnp.asarray(1)).astype(jnp.float64)
    return jnp.broadcast_to(grid[:, None], (steps + 1, width))


def _affine(x_t, t):
    """The closed form of a Gaussian, of what x is made of: entry 0 is the constant, entry k the
    coefficient of the k-th independent noise. Everything a solver does is linear in these."""
    constant = (jnp.arange(x_t.shape[0]) == 0).astype(x_t.dtype)
    slope = ref.gaussian_x(jnp.ones_like(x_t), t, 0.0, STD)
    return slope * x_t + constant * ref.gaussian_x(jnp.zeros_like(x_t), t, MEAN, STD)


def _moments(name, steps, strength=1.0):
    """Exact mean and standard deviation of what a solver makes: no sample is drawn."""
    width = steps + 2

    def noise(step):
        return (jnp.arange(width) == step + 2).astype(jnp.float64)

    start = (jnp.arange(width) == 1).astype(jnp.float64)
    solver = make_solver(name, noise, strength)
    x = np.asarray(integrate(_affine, start, _even(steps, width), solver, _same))
    return x[0], np.sqrt(np.sum(x[1:] ** 2))


# measured weak orders of mean and spread, from noise to data with the last step that returns x
ORDERS = [("sde-euler", 0.8, 1.2), ("sde-dpm++2m", 1.4, 2.2)]


@pytest.mark.parametrize("name,low,high", ORDERS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_marginals_of_a_gaussian_come_out_exactly_as_steps_grow(name, low, high, strength):
    steps, error = [50, 100, 200, 400], []
    with jax.enable_x64(True):
        for n in steps:
            mean, std = _moments(name, n, strength)
            error.append(abs(mean - MEAN) + abs(std - STD))
    slope = -np.polyfit(np.log(steps), np.log(error), 1)[0]
    assert low < slope < high, f"{name}: {slope}, {error}"
    assert error[-1] < 5e-3


@pytest.mark.parametrize("name,plain", [("sde-euler", "euler"), ("sde-dpm++2m", "dpm++2m")])
def test_strength_zero_is_the_deterministic_solver(name, plain):
    noise = jnp.linspace(-2.0, 2.0, 5)
    grid = time_grid(PLAIN, 6, jnp.full(5, 1))

    def draw(step):
        return jnp.full(5, 1e6)

    def network(x, t):
        return 0.6 * x + 0.3 * (1.0 - t) * x * x / (1.0 + x * x) - 0.1 * t

    made = integrate(network, noise, grid, make_solver(name, draw, 0.0), _same)
    np.testing.assert_allclose(
        made, integrate(network, noise, grid, make_solver(plain), _same), atol=1e-6
    )


@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_step_asks_for_its_own_noise_and_padding_stays_finite(name):
    asked = []

    def draw(step):
        asked.append(int(step))
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (2, 3))

    grid = jnp.concatenate([time_grid(PLAIN, 5, jnp.asarray([1])), jnp.zeros((6, 1))], 1)
    x = integrate(
        lambda x, t: ref.gaussian_x(x, t[:, None], MEAN, STD), jnp.ones((2, 3)), grid,
        make_solver(name, draw), lambda t: t[:, None], progress=lambda i, n: None,
    )  # fmt: skip
    assert asked == [0, 1, 2, 3]
    assert np.isfinite(np.asarray(x)).all()


def test_a_stochastic_solver_without_noise_is_refused():
    with pytest.raises(BadInput, match="solver: 'sde-euler' draws noise"):
        make_solver("sde-euler")
    with pytest.raises(BadInput, match="solver strength: 1.5"):
        check_solver("sde-euler", 1.5)
    with pytest.raises(BadInput, match="did you mean 'sde-euler'"):
        check_solver("sde-eluer")
