"""Solvers: measured order, the exact posterior of a Gaussian, conditions, published schedulers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.diffusion.solvers import SOLVERS, Euler, hold, integrate, make_solver
from vidsim.diffusion.times import TimeConfig, time_grid

MEAN, STD = 0.7, 0.4
PLAIN = TimeConfig(exponent=0.0)


def _same(t):
    return t


def _gaussian(x_t, t):
    return ref.gaussian_x(x_t, t, MEAN, STD)


def _even(steps, like):
    return jnp.broadcast_to(time_grid(PLAIN, steps, jnp.asarray(1))[:, None], (steps + 1, *like))


def _solve(name, steps, noise):
    return integrate(_gaussian, noise, _even(steps, noise.shape), make_solver(name), _same)


def _advance(solver, x, grid, steps):
    """x after the first `steps` steps of the grid, without the final one."""
    carry, _ = jax.lax.scan(
        lambda c, t: (solver.step(_gaussian, _same, c[0], t[0], t[1], c[1]), None),
        (x, solver.init(x, grid[0])),
        (grid[:steps], grid[1 : steps + 1]),
    )
    return carry[0]


def _slope(steps, error):
    return -np.polyfit(np.log(steps), np.log(error), 1)[0]


@pytest.mark.parametrize("name", SOLVERS)
def test_measured_order_inside(name):
    """Between two times away from both ends the error falls with the claimed power of the step."""
    steps, error = [40, 80, 160], []
    with jax.enable_x64(True):
        start = jnp.linspace(-2.0, 2.0, 9, dtype=jnp.float64)
        x_1 = (np.asarray(start) - 0.1 * MEAN) / np.sqrt(0.1**2 * STD**2 + 0.9**2)
        exact = ref.gaussian_flow(x_1, 0.1, MEAN, STD)
        for n in steps:
            grid = jnp.broadcast_to(jnp.linspace(0.9, 0.1, n + 1)[:, None], (n + 1, 9))
            x = _advance(make_solver(name), start, grid, n)
            error.append(np.abs(np.asarray(x) - exact).max())
    order = make_solver(name).order
    assert abs(_slope(steps, error) - order) < 0.1, f"{name}: {_slope(steps, error)}, {error}"


@pytest.mark.parametrize(
    "name,low,high",
    [("euler", 0.9, 1.1), ("heun", 1.9, 2.1), ("dpm++2m", 1.5, 2.1), ("unipc", 1.5, 2.1),
     ("unipc-bh1", 1.5, 2.1)],
)  # fmt: skip
def test_measured_order_from_noise_to_data(name, low, high):
    """The whole road, with the last step that returns x. Multistep solvers count their steps in log
    SNR, which is infinite at both ends of an even grid in t: they near order 2 only slowly."""
    steps = [40, 80, 160, 320]
    with jax.enable_x64(True):
        noise = jnp.linspace(-2.0, 2.0, 9, dtype=jnp.float64)
        exact = ref.gaussian_flow(np.asarray(noise), 0.0, MEAN, STD)
        error = [np.abs(np.asarray(_solve(name, n, noise)) - exact).max() for n in steps]
    assert low < _slope(steps, error) < high, f"{name}: {_slope(steps, error)}, {error}"


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_of_a_gaussian_have_its_mean_and_variance(name):
    steps = {"euler": 512, "heun": 32}.get(name, 64)
    noise = jax.random.normal(jax.random.key(0), (20_000,))
    x = np.asarray(_solve(name, steps, noise), float)
    # against the noise's own moments: what is left is the solver's error, not sampling error
    z = np.asarray(noise, float)
    assert abs(x.mean() - (MEAN + STD * z.mean())) < 2e-3
    assert abs(x.std() / (STD * z.std()) - 1.0) < 5e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_the_path_between_is_the_closed_form(name):
    noise = jnp.linspace(-2.0, 2.0, 9)
    grid = _even(400, noise.shape)
    x = _advance(make_solver(name), noise, grid, 200)
    exact = ref.gaussian_flow(np.asarray(noise), float(grid[200, 0]), MEAN, STD)
    np.testing.assert_allclose(x, exact, atol=3e-3 if name == "euler" else 3e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_given_entries_lead_to_the_exact_conditional_posterior(name):
    """The free entries of a joint Gaussian get their conditional mean and covariance."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    cov, mean = root @ root.T / 4 + 0.3 * np.eye(4), rng.normal(size=4)
    given = np.array([True, False, True, False])
    value = rng.normal(size=4)
    steps = {"euler": 1600, "heun": 100}.get(name, 200)

    def denoise(x_BN, t_B):
        # the closed form is linear in x: build it once for this time, in jax
        t = t_B[0]
        scale = jnp.where(given, 1.0, 1.0 - t)
        observed = scale[:, None] * cov * scale[None, :] + jnp.diag(jnp.where(given, 1e-9, t**2))
        gain = (cov * scale[None, :]) @ jnp.linalg.inv(observed)
        return mean[None] + (x_BN - (scale * mean)[None]) @ gain.T

    with jax.enable_x64(True):
        noise = jnp.asarray(rng.normal(size=(4000, 4)))
        x_t = jnp.where(given, value, 0.3 * noise)
        check = ref.joint_gaussian_x(np.asarray(x_t[0]), 0.4, mean, cov, given)
        np.testing.assert_allclose(denoise(x_t, jnp.full(1, 0.4))[0], check, atol=1e-6)
        held = hold(denoise, jnp.asarray(value)[None], jnp.asarray(given)[None])
        grid = jnp.broadcast_to(
            time_grid(PLAIN, steps, jnp.asarray(1))[:, None].astype(jnp.float64), (steps + 1, 4000)
        )
        x = np.asarray(integrate(held, noise, grid, make_solver(name), lambda t: t[:, None]))
    np.testing.assert_array_equal(x[:, given], np.broadcast_to(value[given], (4000, 2)))
    want_mean, want_cov = ref.conditional_gaussian(mean, cov, given, value[given])
    free = np.asarray(noise)[:, ~given]
    # the flow is affine in the noise: x = m + A z with A A^T the covariance, whatever z was drawn
    design = np.concatenate([np.ones((4000, 1)), free], 1)
    fit = np.linalg.lstsq(design, x[:, ~given], rcond=None)[0]
    np.testing.assert_allclose(fit[0], want_mean, atol=5e-3)
    np.testing.assert_allclose(fit[1:].T @ fit[1:], want_cov, atol=5e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_last_step_returns_x_and_one_step_is_one_prediction(name):
    noise = jax.random.normal(jax.random.key(1), (3, 4))
    guess = jax.random.normal(jax.random.key(2), (3, 4))
    for steps in (1, 5):
        grid = jnp.broadcast_to(time_grid(PLAIN, steps, jnp.asarray(1))[:, None], (steps + 1, 3))
        x = integrate(lambda x, t: guess, noise, grid, make_solver(name), lambda t: t[:, None])
        np.testing.assert_array_equal(x, guess)


@pytest.mark.parametrize("name", SOLVERS)
def test_each_entry_follows_its_own_grid(name):
    """Two clips with different shifts end where each ends alone; padding stays finite."""
    cfg = TimeConfig(base_tokens=64, base_shift=2.0)
    tokens = jnp.asarray([16, 700])
    noise = jnp.asarray([[0.5, -1.0, 2.0], [1.5, 0.1, -0.3]])
    grid = time_grid(cfg, 6, tokens)
    empty = jnp.zeros((7, 1))
    rows = jnp.concatenate([noise, jnp.ones((1, 3))])

    def run(noise, grid):
        return integrate(
            lambda x, t: ref.gaussian_x(x, t[:, None], MEAN, STD),
            noise, grid, make_solver(name), lambda t: t[:, None],
        )  # fmt: skip

    together = run(rows, jnp.concatenate([grid, empty], 1))
    assert np.isfinite(np.asarray(together)).all()
    for clip in range(2):
        alone = run(noise[clip : clip + 1], grid[:, clip : clip + 1])
        np.testing.assert_allclose(together[clip], alone[0], rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_scan_and_python_loop_agree_and_progress_counts(name):
    noise = jax.random.normal(jax.random.key(3), (5,))
    grid, seen = _even(7, (5,)), []
    scanned = jax.jit(lambda n: integrate(_gaussian, n, grid, make_solver(name), _same))(noise)
    looped = integrate(
        _gaussian, noise, grid, make_solver(name), _same, progress=lambda i, n: seen.append((i, n))
    )
    np.testing.assert_allclose(scanned, looped, atol=1e-6)
    assert seen == [(i, 7) for i in range(1, 8)]


def test_number_of_network_calls_is_as_stated():
    for name, solver in SOLVERS.items():
        calls = []

        def denoise(x, t, calls=calls):
            calls.append(1)
            return x

        noise = jnp.ones((2,))
        integrate(denoise, noise, _even(5, (2,)), solver(), _same, progress=lambda i, n: None)
        assert len(calls) == 4 * make_solver(name).evaluations + 1


def test_euler_step_is_the_velocity_step():
    x, guess = jax.random.normal(jax.random.key(4), (2, 6))
    t, t_next = jnp.full(6, 0.8), jnp.full(6, 0.55)
    made, _ = Euler().step(lambda x, t: guess, _same, x, t, t_next, ())
    np.testing.assert_allclose(made, x + (0.55 - 0.8) * (x - guess) / 0.8, atol=1e-6)


def test_unknown_solver_is_refused():
    with pytest.raises(BadInput, match="solver: unknown name 'huen'; did you mean 'heun'"):
        make_solver("huen")
