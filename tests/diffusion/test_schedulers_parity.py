"""Step by step against diffusers' schedulers on the same grids (extra: parity)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.diffusion.process import Flow
from vidsim.diffusion.solvers import make_solver
from vidsim.diffusion.times import TimeConfig, shift, time_grid

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra: parity)")

FLOW = Flow()
# both compute in float32; a step divides by times down to 0.01, and errors add up over 8 steps
STEP = 2e-5


def _network(x, t):
    """A smooth stand-in for a network, the same arithmetic in numpy and torch. Predicts x."""
    return 0.6 * x + 0.3 * (1.0 - t) * x * x / (1.0 + x * x) - 0.1 * t


def _velocity(x, t):
    return (x - _network(x, t)) / t


def _ours(name, grid, noise, draws=None):
    solver, x, visited = make_solver(name, draws), jnp.asarray(noise), []
    times = [jnp.full(noise.shape, t, jnp.float32) for t in grid]
    state = solver.init(x, times[0])
    for t, t_next in zip(times[:-2], times[1:-1], strict=True):
        x, state = solver.step(_network, lambda t: t, x, t, t_next, state)
        visited.append(np.asarray(x))
    return [*visited, np.asarray(solver.final(_network, lambda t: t, x, times[-2], state))]


def _theirs(scheduler, noise, draws=None):
    """Samples after each of their calls, with the time the network was asked at."""
    x, visited = torch.from_numpy(noise.copy()), []
    scheduler.set_begin_index(0)
    for step, timestep in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[scheduler.step_index or 0])
        more = {"variance_noise": torch.from_numpy(np.array(draws(step)))} if draws else {}
        x = scheduler.step(_velocity(x, sigma), timestep, x, return_dict=False, **more)[0]
        visited.append(x.numpy().copy())
    return visited


def _compare(ours, theirs):
    assert len(ours) == len(theirs)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(a, b, atol=STEP, err_msg=f"step {step}")


@pytest.fixture
def noise():
    return np.asarray(jax.random.normal(jax.random.key(0), (64,)))


def test_euler_equals_flow_match_euler(noise):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    _compare(_ours("euler", scheduler.sigmas.numpy(), noise), _theirs(scheduler, noise))


@pytest.mark.parametrize("flow_shift", [1.0, 5.0])
def test_dpm_2m_equals_dpm_solver_multistep(noise, flow_shift):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
    )
    scheduler.set_timesteps(8)
    _compare(_ours("dpm++2m", scheduler.sigmas.numpy(), noise), _theirs(scheduler, noise))


@pytest.mark.parametrize("flow_shift", [1.0, 5.0])
def test_sde_dpm_2m_equals_dpm_solver_multistep(noise, flow_shift):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift,
        algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    scheduler.set_timesteps(8)

    def draws(step):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), step), noise.shape)

    ours = _ours("sde-dpm++2m", scheduler.sigmas.numpy(), noise, draws)
    _compare(ours, _theirs(scheduler, noise, draws))


@pytest.mark.parametrize("weights", ["bh1", "bh2"])
@pytest.mark.parametrize("flow_shift", [1.0, 5.0])
def test_unipc_equals_unipc_multistep(noise, weights, flow_shift):
    """From their start at 1 - 1e-6, which makes the first step finite in log SNR."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift,
        solver_type=weights,
    )  # fmt: skip
    scheduler.set_timesteps(8)
    noise = noise[None, :, None, None]  # theirs wants a batch of images
    name = {"bh1": "unipc-bh1", "bh2": "unipc"}[weights]
    ours = _ours(name, scheduler.sigmas.numpy(), noise)
    theirs = _theirs(scheduler, noise)
    # bh1 of theirs multiplies infinity by 0 in the step to time 0 and ends in NaN
    kept = slice(0, -1 if weights == "bh1" else None)
    _compare(ours[kept], theirs[kept])
    assert np.isfinite(ours[-1]).all()


def test_heun_equals_flow_match_heun(noise):
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(8)
    theirs = _theirs(scheduler, noise)
    # their list visits every inner time twice (guess, then correction) and the last one once
    doubled = scheduler.sigmas.numpy()
    grid = np.concatenate([doubled[:1], doubled[1:-1:2], doubled[-1:]])
    _compare(_ours("heun", grid, noise), [*theirs[1:-1:2], theirs[-1]])


def test_our_shift_makes_the_published_grids():
    """One shift, four base grids: say which grid a result used, not only which shift."""
    n, last = 4, 1.0 / 1000
    even = np.linspace(1.0, last, n + 1)[:-1]
    less = np.linspace(1.0, 0.0, n + 1)[:-1] * (1.0 - last)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    smallest = float(_shift(last, 5.0))  # theirs is shifted once in the constructor and again here
    for scheduler, base, pinned in (
        (diffusers.UniPCMultistepScheduler(**flow), even, [1.0, 0.93758, 0.83361, 0.62594]),
        (diffusers.DPMSolverMultistepScheduler(**flow), less, [0.9998, 0.93727, 0.83306, 0.62469]),
        (euler, np.linspace(1.0, smallest, n), [1.0, 0.90971, 0.71732, 0.02441]),
    ):  # fmt: skip
        scheduler.set_timesteps(n)
        theirs = scheduler.sigmas.numpy()[:n]
        np.testing.assert_allclose(theirs, pinned, atol=1e-5)
        np.testing.assert_allclose(_shift(base, 5.0), theirs, atol=2e-6)
    ours = time_grid(TimeConfig(base_shift=5.0, exponent=0.0), n, jnp.asarray(1))
    np.testing.assert_allclose(ours, [1.0, 0.9375, 0.83333, 0.625, 0.0], atol=1e-5)


def _shift(t, factor):
    return np.asarray(shift(jnp.asarray(t, jnp.float32), factor))
