"""The noise process: a straight line from data (time 0) to noise (time 1), and its targets.

    x_t = (1 - t) x + t eps          v = d x_t / dt = eps - x

Given x_t and t, any one of x, eps and v determines the other two. Every conversion goes through v,
because both ways out of v are free of division; nothing else in the package rearranges these
equations. Source: rectified flow, arXiv:2209.03003 eq. 1, with data and noise exchanged.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest

TARGETS = ("x", "eps", "v")


def lift(t: jax.Array, like: jax.Array) -> jax.Array:
    """Adds trailing axes to t [...] until it has the rank of `like` [..., rest]."""
    t = jnp.asarray(t)
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


@dataclasses.dataclass(frozen=True)
class Flow:
    """The straight-line process.

    floor   smallest divisor of a conversion: max(t, floor) where it divides by t (out of x) and
            max(1 - t, floor) where it divides by 1 - t (out of eps). Conversions are exact inverses
            of each other for floor <= t <= 1 - floor, and finite for every t in 0..1.
    """

    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not 0.0 < self.floor < 0.5:
            raise bad("Flow.floor", f"{self.floor}", "a number between 0 and 0.5")

    def mix(self, x: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        """The noisy sample x_t. x, eps [..., rest]; t [...]. Equals x at t = 0, eps at t = 1."""
        t = lift(t, x)
        return (1.0 - t) * x + t * eps

    def targets(self, x: jax.Array, eps: jax.Array) -> dict[str, jax.Array]:
        """Everything a network may be asked to predict, by name."""
        return {"x": x, "eps": eps, "v": eps - x}

    def convert(
        self, value: jax.Array, source: str, target: str, x_t: jax.Array, t: jax.Array
    ) -> jax.Array:
        """Turns a prediction of `source` into the prediction of `target` that it implies.

        value, x_t  [..., rest]
        t           [...], the time of x_t
        Returns     [..., rest]; `value` itself when source equals target
        Raises      BadInput for an unknown name
        """
        for name in (source, target):
            if name not in TARGETS:
                raise bad("Flow.convert", f"unknown target {name!r}", nearest(name, TARGETS))
        if source == target:
            return value
        t = lift(t, x_t)
        to_v = {
            "x": lambda x: (x_t - x) / jnp.maximum(t, self.floor),
            "eps": lambda eps: (eps - x_t) / jnp.maximum(1.0 - t, self.floor),
            "v": lambda v: v,
        }
        from_v = {
            "x": lambda v: x_t - t * v,
            "eps": lambda v: x_t + (1.0 - t) * v,
            "v": lambda v: v,
        }
        return from_v[target](to_v[source](value))


def log_snr(t: jax.Array, edge: float = 1e-6) -> jax.Array:
    """log((1 - t) / t), with t held inside [edge, 1 - edge] so that both ends stay finite.

    t        [...] in 0..1
    Returns  [...], half the log of signal over noise power; strictly decreasing inside the edges
    """
    t = jnp.clip(t, edge, 1.0 - edge)
    return jnp.log1p(-t) - jnp.log(t)
