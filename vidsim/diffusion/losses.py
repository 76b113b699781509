"""How a prediction's error becomes the loss of a step.

Per token: squared error of x, mean over the patch, weighted so that it equals the squared error of
the velocity. Per clip: only noisy tokens count. Per step: divided by numbers that the plan knows
for the whole step, so that any split into micro-batches adds up to the loss of one big batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest
from vidsim.diffusion.segments import segment_sums

WEIGHTINGS = ("clip", "token")


class ClipLoss(NamedTuple):
    """Sums over the noisy tokens of each segment; zero for an empty slot.

    total_RS   f32[R,S] sum of the tokens' weighted errors
    tokens_RS  f32[R,S] number of noisy tokens
    """

    total_RS: jax.Array
    tokens_RS: jax.Array

    @property
    def mean_RS(self) -> jax.Array:
        """Mean over the clip's noisy tokens; 0 where there are none."""
        return self.total_RS / jnp.maximum(self.tokens_RS, 1.0)


def velocity_weight(t: jax.Array, floor: float) -> jax.Array:
    """What turns a squared error of x into one of v at time t: 1 / max(t, floor)^2.

    v = (x_t - x) / t, hence v_hat - v = (x - x_hat) / t. The floor bounds the weight near clean
    data, where x is known anyway and the weight would go to infinity.
    """
    return 1.0 / jnp.square(jnp.maximum(t, floor))


def token_errors(
    predicted_RNP: jax.Array, target_RNP: jax.Array, weight_P: jax.Array | None = None
) -> jax.Array:
    """Squared error of each token, (weighted) mean over its P numbers, in float32; f32[R,N]."""
    error = predicted_RNP.astype(jnp.float32) - target_RNP.astype(jnp.float32)
    square = jnp.square(error)
    return jnp.mean(square if weight_P is None else square * weight_P[None, None], axis=-1)


def clip_losses(
    error_RN: jax.Array, noisy_RN: jax.Array, segment_RN: jax.Array, segments: int
) -> ClipLoss:
    """Collects weighted token errors by clip, over noisy tokens alone.

    error_RN   f32[R,N] weighted errors
    noisy_RN   bool[R,N] False for condition tokens and padding: they carry no loss
    segments   S, segments a row
    """
    kept_RN = jnp.where(noisy_RN, error_RN, 0.0)
    return ClipLoss(
        segment_sums(kept_RN, segment_RN, segments),
        segment_sums(noisy_RN.astype(jnp.float32), segment_RN, segments),
    )


def step_loss(
    loss: ClipLoss, weighting: str, num_clips: jax.Array, num_tokens: jax.Array
) -> jax.Array:
    """The part of the step's loss that these rows contribute.

    weighting   "clip": the mean over a clip's noisy tokens, summed over clips, over `num_clips`;
                every clip counts the same, a 60 s video as much as an image.
                "token": the sum over noisy tokens, over `num_tokens`; every noisy token counts the
                same. `num_tokens` includes condition tokens (the plan cannot know which are drawn),
                so the value is lower by their share.
    num_clips, num_tokens   f32[] of the whole optimiser step, from the plan
    Returns     f32[]; adding it over the micro-batches of a step gives the step's loss
    """
    if weighting == "clip":
        return jnp.sum(loss.mean_RS) / jnp.maximum(num_clips, 1.0)
    if weighting == "token":
        return jnp.sum(loss.total_RS) / jnp.maximum(num_tokens, 1.0)
    raise bad("loss weighting", f"{weighting!r}", nearest(weighting, WEIGHTINGS))
