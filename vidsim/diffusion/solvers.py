"""Steps from noise to data along the process, given a network that predicts x.

    denoise(x, t) -> prediction of the clean x
    lift(t)       -> t, broadcastable to the shape of x

Times stay as small as the caller has them (one for each segment of a packed row); only `lift` knows
how they reach the numbers of x, so each clip of a row follows its own grid. Every solver is
`init, step, final` with a state of its own choice, so that multistep methods and methods that draw
noise fit the same loop. `final` returns the network's x: the last step of every solver.

All steps are written with the ratio t_next / t instead of the velocity (x_t - x) / t wherever they
can be: nothing is divided by a small time, and a step to t = 0 returns x exactly.

Published schedulers take the same steps on other times. Before the shift, `steps` points are
1..1/steps here (`times.time_grid`); diffusers' UniPC spaces 1..1/1000 and drops that end, its
DPM-Solver++ spaces 0.999..0 and drops that end, its FlowMatchEuler spaces 1..1/1000 and keeps both.
All append 0. diffusers' UniPC starts at 1 - 1e-6 and so corrects its first step and reuses it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest
from vidsim.diffusion.multistep import DpmPlusPlus2M, UniPC
from vidsim.diffusion.solver_base import TINY, Denoise, Lift, Solver, State, ratio_of, toward
from vidsim.diffusion.stochastic import Noise, SdeDpmPlusPlus2M, SdeEuler


class Euler:
    """First order, one call a step. On this process it is DDIM (arXiv:2010.02502) as well."""

    evaluations = 1
    order = 1

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return ()

    def step(self, denoise, lift, x, t, t_next, state):
        return toward(x, denoise(x, t), lift(ratio_of(t, t_next))), state

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)


class Heun:
    """Second order, two calls a step and one for the last (arXiv:2206.00364 algorithm 1)."""

    evaluations = 2
    order = 2

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return ()

    def step(self, denoise, lift, x, t, t_next, state):
        first = denoise(x, t)
        guess = toward(x, first, lift(ratio_of(t, t_next)))
        second = denoise(guess, t_next)
        slope = (x - first) / lift(jnp.maximum(t, TINY))
        slope_next = (guess - second) / lift(jnp.maximum(t_next, TINY))
        return x + lift(0.5 * (t_next - t)) * (slope + slope_next), state

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)


SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler": Euler,
    "heun": Heun,
    "dpm++2m": DpmPlusPlus2M,
    "unipc": UniPC,
    "unipc-bh1": lambda: UniPC("bh1"),
}
# These draw noise at every step.
STOCHASTIC: dict[str, Callable[[Noise, float], Solver]] = {
    "sde-euler": SdeEuler,
    "sde-dpm++2m": SdeDpmPlusPlus2M,
}
NAMES = (*SOLVERS, *STOCHASTIC)


def check_solver(name: str, strength: float = 1.0) -> None:
    """Raises BadInput for an unknown name (with the nearest) or a strength outside 0..1."""
    if name not in NAMES:
        raise bad("solver", f"unknown name {name!r}", nearest(name, NAMES))
    if not 0.0 <= strength <= 1.0:
        raise bad("solver strength", f"{strength}", "0 (no noise) to 1")


def make_solver(name: str, noise: Noise | None = None, strength: float = 1.0) -> Solver:
    """The solver of that name.

    noise     step i32[] -> standard normal in the shape of x; only drawn from by STOCHASTIC ones
    strength  of that noise: 0 is the deterministic solver, 1 the full SDE
    Raises    BadInput for an unknown name, or a solver that lacks its noise
    """
    check_solver(name, strength)
    if name in SOLVERS:
        return SOLVERS[name]()
    if noise is None:
        raise bad("solver", f"{name!r} draws noise at every step and was given none",
                  f"one of {', '.join(SOLVERS)}", "or pass noise")  # fmt: skip
    return STOCHASTIC[name](noise, strength)


def hold(denoise: Denoise, given: jax.Array, condition: jax.Array) -> Denoise:
    """A denoiser that is told, and answers, what is given: conditioning for any solver.

    given      clean x where `condition` is True; anything finite elsewhere
    condition  bool, of the shape of x or broadcastable
    """

    def held(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(condition, given, denoise(jnp.where(condition, given, x), t))

    return held


def integrate(
    denoise: Denoise,
    noise: jax.Array,
    grid: jax.Array,
    solver: Solver,
    lift: Lift,
    progress: Callable[[int, int], None] | None = None,
) -> jax.Array:
    """Solves from noise to data.

    noise     standard normal, x at time grid[0]; for a start below 1 (editing), the noised sample
    grid      [steps + 1, ...] decreasing times, the last one 0; other axes as `denoise` takes
    progress  None: one `lax.scan`, for use inside jit. Else a Python loop that calls
              progress(steps done, steps) after each step; `denoise` should then be jitted
    Returns   x, which is the network's prediction at the last positive time
    """
    steps = grid.shape[0] - 1
    state = solver.init(noise, grid[0])

    def advance(carry, times):
        x, state = solver.step(denoise, lift, carry[0], times[0], times[1], carry[1])
        return (x, state), None

    carry = (noise, state)
    if progress is None:
        carry, _ = jax.lax.scan(advance, carry, (grid[:-2], grid[1:-1]))
    else:
        for done in range(steps - 1):
            carry, _ = advance(carry, (grid[done], grid[done + 1]))
            progress(done + 1, steps)
    x = solver.final(denoise, lift, carry[0], grid[-2], carry[1])
    if progress is not None:
        progress(steps, steps)
    return x
