"""Steps from noise to data along the process, given a network that predicts x.

    denoise(x, t) -> prediction of the clean x
    lift(t)       -> t, broadcastable to the shape of x

Times stay as small as the caller has them (one for each segment of a packed row); only `lift` knows
how they reach the numbers of x, so each clip of a row follows its own grid. Every solver is
`init, step, final` with a state of its own choice, so that multistep methods and methods that draw
noise fit the same loop. `final` returns the network's x: the last step of every solver.

All steps are written with the ratio t_next / t instead of the velocity (x_t - x) / t wherever they
can be: nothing is divided by a small time, and a step to t = 0 returns x exactly.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest
from vidsim.diffusion.process import log_snr

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
Lift = Callable[[jax.Array], jax.Array]
State = Any

# Divisor of a time that is 0 (padding, empty slots): any positive number keeps these tokens finite.
TINY = 1e-6


class Solver(Protocol):
    """One way to move from time t to a smaller time.

    evaluations  network calls a step
    order        global order of convergence in the step size
    """

    evaluations: int
    order: int

    def init(self, x: jax.Array, t: jax.Array) -> State:
        """The state before the first step, in the shapes it will keep; x is the sample at t."""
        ...

    def step(
        self,
        denoise: Denoise,
        lift: Lift,
        x: jax.Array,
        t: jax.Array,
        t_next: jax.Array,
        state: State,
    ) -> tuple[jax.Array, State]:
        """x at time t to x at time t_next, 0 < t_next <= t."""
        ...

    def final(
        self, denoise: Denoise, lift: Lift, x: jax.Array, t: jax.Array, state: State
    ) -> jax.Array:
        """x at the last positive time t to x at time 0."""
        ...


def toward(x_t: jax.Array, x: jax.Array, ratio: jax.Array) -> jax.Array:
    """Moves x_t along the straight line to x: time t becomes ratio * t. Exactly x at ratio 0."""
    return ratio * x_t + (1.0 - ratio) * x


def ratio_of(t: jax.Array, t_next: jax.Array) -> jax.Array:
    """t_next / t, and 0 where t is 0."""
    return t_next / jnp.maximum(t, TINY)


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


class DpmPlusPlus2M:
    """DPM-Solver++(2M): second order with one call a step (arXiv:2211.01095 algorithm 2).

    Extrapolates x linearly in the log signal-to-noise ratio from the previous step's prediction.
    The first step has no predecessor, and a step that started at t = 1 (infinitely far in that
    ratio) is no help to the next one: these two are first order.
    """

    evaluations = 1
    order = 2

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return jnp.zeros_like(x), t

    def step(self, denoise, lift, x, t, t_next, state):
        previous, t_previous = state
        now = denoise(x, t)
        width, width_next = log_snr(t) - log_snr(t_previous), log_snr(t_next) - log_snr(t)
        usable = (t_previous > t) & (t_previous < 1.0)
        stretch = jnp.where(usable, 0.5 * width_next / jnp.where(usable, width, 1.0), 0.0)
        estimate = now + lift(stretch) * (now - previous)
        return toward(x, estimate, lift(ratio_of(t, t_next))), (now, t)

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)


SOLVERS: dict[str, type] = {"euler": Euler, "heun": Heun, "dpm++2m": DpmPlusPlus2M}


def make_solver(name: str) -> Solver:
    """The solver of that name. Raises BadInput naming the nearest known one."""
    if name not in SOLVERS:
        raise bad("solver", f"unknown name {name!r}", nearest(name, SOLVERS))
    return SOLVERS[name]()


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
