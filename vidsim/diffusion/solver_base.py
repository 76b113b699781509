"""What every solver is, and the one movement that all of them are written with.

Times stay as small as the caller has them (one for each segment of a packed row); only `lift` knows
how they reach the numbers of x, so each clip of a row follows its own grid.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vidsim.diffusion.process import log_snr

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
Lift = Callable[[jax.Array], jax.Array]
State = Any

# Divisor of a time that is 0 (padding, empty slots): any positive number keeps these tokens finite.
TINY = 1e-6


class Solver(Protocol):
    """One way to move from time t to a smaller time.

    evaluations  network calls a step
    order        global order of convergence in the step size; of the law of x (weak) where the
                 solver draws noise
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


def stretch_of(t_previous: jax.Array, t: jax.Array, t_next: jax.Array) -> jax.Array:
    """How far a second-order multistep extrapolates: half the next step over the last one.

    Both measured in log signal-to-noise. 0 (first order) where there is no last step, and where it
    started at t = 1, which is infinitely far away.
    """
    usable = (t_previous > t) & (t_previous < 1.0)
    width, width_next = log_snr(t) - log_snr(t_previous), log_snr(t_next) - log_snr(t)
    return jnp.where(usable, 0.5 * width_next / jnp.where(usable, width, 1.0), 0.0)
