"""Which noise times are trained and which are sampled; one shift by clip size serves both.

Longer and larger clips are more redundant: the same noise hides less of them. `shift` moves a time
towards noise by a factor that grows with the clip's token count. Training draws times through it
and samplers space their steps through it, so the two cannot disagree.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad


@dataclasses.dataclass(frozen=True)
class TimeConfig:
    """Distribution of noise times.

    A share of clips draws its time uniformly on 0..1, whatever its size, so that no time is ever
    unseen. The others draw logit-normally and are shifted by their token count.

    mean, std      of logit(t) before the shift, dimensionless
    uniform_share  probability of the uniform draw
    base_tokens    token count at which the shift factor is `base_shift`
    base_shift     factor at base_tokens; 1 shifts nothing, above 1 towards noise
    exponent       the factor grows with tokens to this power (0.5: arXiv:2403.03206 eq. 23)
    min_shift, max_shift  limits of the factor
    min_time, max_time    drawn times are clipped to these (sampling always starts at 1)
    """

    mean: float = 0.0
    std: float = 1.0
    uniform_share: float = 0.1
    base_tokens: int = 1024
    base_shift: float = 1.0
    exponent: float = 0.5
    min_shift: float = 0.5
    max_shift: float = 12.0
    min_time: float = 0.001
    max_time: float = 1.0

    def __post_init__(self) -> None:
        where = "TimeConfig"
        if self.std <= 0.0:
            raise bad(f"{where}.std", f"{self.std}", "a positive number")
        if not 0.0 <= self.uniform_share <= 1.0:
            raise bad(f"{where}.uniform_share", f"{self.uniform_share}", "a share from 0 to 1")
        if self.base_tokens < 1:
            raise bad(f"{where}.base_tokens", f"{self.base_tokens}", "at least 1")
        if not 0.0 < self.min_shift <= self.max_shift:
            raise bad(
                f"{where}.min_shift",
                f"{self.min_shift} with max_shift {self.max_shift}",
                "0 < min_shift <= max_shift",
            )
        if self.base_shift <= 0.0:
            raise bad(f"{where}.base_shift", f"{self.base_shift}", "a positive number")
        if not 0.0 <= self.min_time < self.max_time <= 1.0:
            raise bad(
                f"{where}.min_time",
                f"{self.min_time} with max_time {self.max_time}",
                "0 <= min_time < max_time <= 1",
            )


def shift(t: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves times towards noise: logit(t) becomes logit(t) + log(factor). Keeps 0 and 1.

    Shifts compose by multiplication: shift(shift(t, a), b) = shift(t, a b).

    t, factor   of one shape, or factor a number; t in 0..1, factor > 0
    Source      arXiv:2403.03206 eq. 23
    """
    return factor * t / (1.0 + (factor - 1.0) * t)


def shift_factor(cfg: TimeConfig, tokens: jax.Array) -> jax.Array:
    """The shift factor of a clip. tokens [...] > 0, patch tokens of the clip; returns f32[...]."""
    ratio = jnp.maximum(jnp.asarray(tokens, jnp.float32), 1.0) / cfg.base_tokens
    return jnp.clip(cfg.base_shift * ratio**cfg.exponent, cfg.min_shift, cfg.max_shift)


def sample_times(cfg: TimeConfig, key_RS: jax.Array, tokens_RS: jax.Array) -> jax.Array:
    """One noise time a clip, each a function of its own key and token count alone.

    key_RS     key[...], one for each clip
    tokens_RS  i32[...], patch tokens of the clip (0 for an empty slot)
    Returns    f32[...] in min_time..max_time
    """

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        which, level, normal = jax.random.split(key, 3)
        return (
            jax.random.uniform(which),
            jax.random.uniform(level),
            jax.random.normal(normal),
        )

    which, uniform, normal = jax.vmap(one)(key_RS.reshape(-1))
    shape = tokens_RS.shape
    middle = shift(
        jax.nn.sigmoid(cfg.mean + cfg.std * normal.reshape(shape)), shift_factor(cfg, tokens_RS)
    )
    t = jnp.where(which.reshape(shape) < cfg.uniform_share, uniform.reshape(shape), middle)
    return jnp.clip(t, cfg.min_time, cfg.max_time)


def time_grid(
    cfg: TimeConfig, steps: int, tokens: jax.Array, start: jax.Array | float = 1.0
) -> jax.Array:
    """The times a sampler visits: `steps` equal parts of 1..0, shifted by the clip's token count.

    steps    number of steps >= 1
    tokens   i32[...], patch tokens of each clip
    start    first time of each clip, 0..1; below 1 the steps share out what is left of the way
    Returns  f32[steps + 1, ...], strictly decreasing from exactly `start` to exactly 0
    Raises   BadInput for steps < 1
    """
    if steps < 1:
        raise bad("time_grid", f"steps={steps}", "at least 1")
    tokens = jnp.asarray(tokens)
    even = jnp.linspace(1.0, 0.0, steps + 1, dtype=jnp.float32)
    even = jnp.broadcast_to(even.reshape((-1,) + (1,) * tokens.ndim), (steps + 1, *tokens.shape))
    factor = jnp.broadcast_to(shift_factor(cfg, tokens)[None], even.shape)
    begin = jnp.broadcast_to(jnp.asarray(start, jnp.float32), tokens.shape)[None]
    # a / (1 + (a - 1)) may round to one unit below 1, and the sampler starts from pure noise
    return shift(even * shift(begin, 1.0 / factor[:1]), factor).at[0].set(begin[0])
