"""Deterministic multistep solvers: second order and more at one network call a step.

Both extrapolate x linearly in the log signal-to-noise ratio from earlier predictions. A step that
starts at t = 1 is infinitely long in that ratio: it is first order, is not corrected afterwards and
is no help to the next one.
"""

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest
from vidsim.diffusion.process import log_snr
from vidsim.diffusion.solver_base import State, ratio_of, stretch_of, toward

UNIPC_WEIGHTS = ("bh1", "bh2")


class DpmPlusPlus2M:
    """DPM-Solver++(2M): arXiv:2211.01095 algorithm 2."""

    evaluations = 1
    order = 2

    def init(self, x: jax.Array, t: jax.Array) -> State:
        return jnp.zeros_like(x), t

    def step(self, denoise, lift, x, t, t_next, state):
        previous, t_previous = state
        now = denoise(x, t)
        estimate = now + lift(stretch_of(t_previous, t, t_next)) * (now - previous)
        return toward(x, estimate, lift(ratio_of(t, t_next))), (now, t)

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)


class UniPC:
    """UniPC-2 in its x-predicting form (arXiv:2302.04867 algorithms 1 to 4): a predictor of order 2
    that its corrector lifts to order 3 inside; the first and the last step keep a whole solution to
    order 2.

    Each step predicts x at the next time; the network's answer there serves twice: to correct that
    very x (UniC), then to predict from it (UniP). So the corrector costs no call, and the network
    is not asked again at the corrected x.

    weights  B(h) of the paper: "bh1" is h, "bh2" is exp(h) - 1 (with h = -step in log SNR)
    """

    evaluations = 1
    order = 3

    def __init__(self, weights: str = "bh2") -> None:
        if weights not in UNIPC_WEIGHTS:
            raise bad("UniPC", f"unknown weights {weights!r}", nearest(weights, UNIPC_WEIGHTS))
        self.weights = weights

    def init(self, x: jax.Array, t: jax.Array) -> State:
        """(x at the last time, its prediction, the one before; their times)."""
        return x, jnp.zeros_like(x), jnp.zeros_like(x), t, t

    def step(self, denoise, lift, x, t, t_next, state):
        now = denoise(x, t)
        x = self._correct(lift, x, now, t, state)
        _, previous, _, t_previous, _ = state
        # rho = 1/2 for order 2, whatever B(h): the paper's appendix F
        stretch = stretch_of(t_previous, t, t_next) * self._gain(t, t_next)
        moved = toward(x, now, lift(ratio_of(t, t_next))) + lift(stretch) * (now - previous)
        return moved, (x, now, previous, t, t_previous)

    def final(self, denoise, lift, x, t, state):
        return denoise(x, t)

    def _correct(self, lift, x, now, t, state):
        """UniC: the last step once more, with the prediction at its end; x where there was none."""
        start, first, before, t_start, t_before = state
        usable = (t_start > t) & (t_start < 1.0)
        second = usable & (t_before > t_start) & (t_before < 1.0)
        h = jnp.where(usable, log_snr(t) - log_snr(t_start), 1.0)
        width = jnp.where(second, log_snr(t_before) - log_snr(t_start), -1.0)
        moment_1, moment_2 = self._moments(h)
        share = (moment_1 - moment_2) / (1.0 - width / h)
        at_end = jnp.where(second, moment_1 - share, 0.5)
        before_start = jnp.where(second, share * h / width, 0.0)
        gain = self._gain(t_start, t)
        fixed = (
            toward(start, first, lift(ratio_of(t_start, t)))
            + lift(gain * at_end) * (now - first)
            + lift(gain * before_start) * (before - first)
        )
        return jnp.where(lift(usable.astype(x.dtype)) > 0.5, fixed, x)

    def _gain(self, t: jax.Array, t_next: jax.Array) -> jax.Array:
        """-(1 - t_next) B(h): what a correction of the prediction moves x by."""
        if self.weights == "bh2":
            return 1.0 - ratio_of(t, t_next)
        # a step from t = 1 has nothing to multiply: keep it finite
        return (1.0 - t_next) * jnp.where(t < 1.0, log_snr(t_next) - log_snr(t), 0.0)

    def _moments(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The right sides b_1, b_2 of the order conditions (eq. 9), phi functions over B(h)."""
        phi_1 = jnp.expm1(-h)
        phi_2 = phi_1 / -h - 1.0
        phi_3 = phi_2 / -h - 0.5
        weight = -h if self.weights == "bh1" else phi_1
        return phi_2 / weight, 2.0 * phi_3 / weight
