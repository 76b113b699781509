"""Classifier-free guidance on predictions of x.

x, eps and v are affine in each other at fixed x_t and t, with coefficients that add up to one, so
guiding x is guiding the velocity. Source: arXiv:2207.12598 eq. 6, with scale 1 = conditional.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.diffusion.segments import segment_sums, spread


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """How strongly a prompt is followed.

    scale      1 is the conditional model itself (and costs half); above 1 exaggerates the prompt
    low, high  guide only at times low <= t <= high (arXiv:2404.07724); elsewhere scale 1
    rescale    0..1, how far each clip's spread is pulled back to that of the conditional
               prediction, against over-saturation (arXiv:2305.08891 eq. 15 and 16, applied to x)
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale >= 0.0:
            raise bad("GuidanceConfig.scale", f"{self.scale}", "0 or more", "1 switches it off")
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise bad(
                "GuidanceConfig", f"low {self.low}, high {self.high}", "0 <= low <= high <= 1"
            )
        if not 0.0 <= self.rescale <= 1.0:
            raise bad("GuidanceConfig.rescale", f"{self.rescale}", "a share from 0 to 1")

    @property
    def needed(self) -> bool:
        """False when the conditional prediction is the answer and no second one has to be made."""
        return self.scale != 1.0


def guide(
    cfg: GuidanceConfig,
    with_text_RNP: jax.Array,
    without_text_RNP: jax.Array,
    t_RS: jax.Array,
    segment_RN: jax.Array,
) -> jax.Array:
    """Guided prediction of x, each clip by its own time. Returns f32[R,N,P].

    with_text_RNP, without_text_RNP   predictions with the prompt and with the empty prompt
    t_RS                              current time of each clip
    """
    inside_RS = (t_RS >= cfg.low) & (t_RS <= cfg.high)
    extra_RN1 = spread(jnp.where(inside_RS, cfg.scale - 1.0, 0.0), segment_RN)[..., None]
    # with + (scale - 1)(with - without) rather than the usual order: exactly `with` at scale 1
    guided_RNP = with_text_RNP + extra_RN1 * (with_text_RNP - without_text_RNP)
    if cfg.rescale == 0.0:
        return guided_RNP
    segments = t_RS.shape[1]
    ratio_RS = clip_spread(with_text_RNP, segment_RN, segments) / jnp.maximum(
        clip_spread(guided_RNP, segment_RN, segments), 1e-6
    )
    factor_RS = jnp.where(inside_RS, cfg.rescale * ratio_RS + (1.0 - cfg.rescale), 1.0)
    return guided_RNP * spread(factor_RS, segment_RN, 1)[..., None]


def clip_spread(x_RNP: jax.Array, segment_RN: jax.Array, segments: int) -> jax.Array:
    """Standard deviation over all numbers of each clip, f32[R,S]; 0 for an empty slot."""
    count_RS = jnp.maximum(segment_sums(jnp.ones_like(x_RNP[..., 0]), segment_RN, segments), 1.0)
    mean_RS = segment_sums(x_RNP.mean(-1), segment_RN, segments) / count_RS
    off_RNP = x_RNP - spread(mean_RS, segment_RN)[..., None]
    return jnp.sqrt(segment_sums(jnp.square(off_RNP).mean(-1), segment_RN, segments) / count_RS)
