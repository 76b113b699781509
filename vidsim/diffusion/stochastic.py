"""Solvers that draw noise: the reverse SDEs whose marginals are those of the straight-line process.

    dx = v dt - (w / 2) score dt + sqrt(w) dW, run from t = 1 to 0,    score = -eps / t

has the marginals of the process for every w(t) >= 0; w = 0 is the deterministic flow. Fresh noise
wipes out earlier errors and costs steps. `strength` scales w: 0 is the deterministic solver.

The noise of a step comes from outside, `noise(step)`, standard normal in the shape of x, so that
the caller keys it by (seed, step, request) and never by a place in the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.diffusion.solver_base import State, ratio_of, stretch_of, toward

Noise = Callable[[jax.Array], jax.Array]


class _Drawing:
    """A solver with a source of noise and a count of steps."""

    def __init__(self, noise: Noise, strength: float = 1.0) -> None:
        if not 0.0 <= strength <= 1.0:
            raise bad("solver strength", f"{strength}", "0 (no noise) to 1")
        self.noise, self.strength = noise, strength

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)


class SdeEuler(_Drawing):
    """Euler-Maruyama with w = 2 t strength (weak order 1), finite at both ends.

    In the ratio of times: the deterministic step, less a share of the noise in x, plus fresh noise.
    """

    evaluations = 1
    order = 1

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return jnp.zeros((), jnp.int32)

    def step(self, denoise, lift, x, t, t_next, state):
        now, ratio = denoise(x, t), ratio_of(t, t_next)
        moved = toward(x, now, lift(ratio))
        away = lift(self.strength * (1.0 - ratio)) * (x - lift(1.0 - t) * now)
        spread = t * jnp.sqrt(2.0 * self.strength * (1.0 - ratio))
        return moved - away + lift(spread) * self.noise(state), state + 1


class SdeDpmPlusPlus2M(_Drawing):
    """SDE-DPM-Solver++(2M) (arXiv:2211.01095 section 5 and appendix D.4), w of the process's own
    forward SDE at strength 1; strength is the eta of arXiv:2010.02502.

    The linear part and its noise are integrated exactly, also over the first step from t = 1.
    """

    evaluations = 1
    order = 2

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return jnp.zeros_like(x), t, jnp.zeros((), jnp.int32)

    def step(self, denoise, lift, x, t, t_next, state):
        previous, t_previous, count = state
        now, ratio = denoise(x, t), ratio_of(t, t_next)
        # exp(-h), h the step in log SNR: 0 for the first step from t = 1
        decay = ratio * (1.0 - t) / jnp.maximum(1.0 - t_next, 1e-6)
        kept = decay**self.strength
        estimate = now + lift(stretch_of(t_previous, t, t_next)) * (now - previous)
        moved = lift(ratio * kept) * x + lift((1.0 - t_next) * (1.0 - decay * kept)) * estimate
        spread = t_next * jnp.sqrt(jnp.maximum(1.0 - kept**2, 0.0))
        return moved + lift(spread) * self.noise(count), (now, t, count + 1)
