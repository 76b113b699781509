"""Clips that begin mid-stream, and given frames that do not stand at the start of their clip.

A window of a long video has no latent of a lone first frame: `drop_heads` leaves the first latents
of a clip out of a packed row, or all of them but the very first, which then stands before the
others as a reference. Frames given in the middle or at the end of a clip are known alone,
without what came before them: `given_midstream` puts the latents that
`models.codec.encode_midstream` made of them in the place of those that the encoder made on its way
through the whole clip. Samplers take theirs from the same function.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vidsim.core.batch import REFERENCE_TIME
from vidsim.diffusion.segments import spread
from vidsim.tasks.base import Batch

_TOKENS = ("patches", "midstream", "patch_segment", "patch_position", "action")


def drop_heads(
    batch: Batch, count_RS: jax.Array, reference_RS: jax.Array | None = None
) -> dict[str, Any]:
    """The batch without the first `count` latent frames of each clip.

    What remains is moved together: segments stay in order, padding at the end. A clip that loses
    any begins at position 1 in time, as a sampler's window does; `grid` counts the frames that
    remain. A clip must keep at least one.

    reference_RS  bool: these clips, which lose some, keep frame 0, at REFERENCE_TIME, and lose the
                  `count` after it; None for no clip
    """
    segment_RN, frame_RN = batch["patch_segment"], batch["patch_position"][..., 0]
    if reference_RS is None:
        reference_RS = jnp.zeros(count_RS.shape, bool)
    first_RS = count_RS + reference_RS  # the frame that comes to stand at position 1
    shown_RN = spread(reference_RS, segment_RN) & (frame_RN == 0)
    keep_RN = (segment_RN > 0) & ((frame_RN >= spread(first_RS, segment_RN)) | shown_RN)
    order_RN = jnp.argsort(~keep_RN, axis=1, stable=True)
    kept_RN = jnp.take_along_axis(keep_RN, order_RN, 1)

    def together(value: jax.Array) -> jax.Array:
        more = (1,) * (value.ndim - 2)
        moved = jnp.take_along_axis(value, order_RN.reshape(*order_RN.shape, *more), 1)
        return jnp.where(kept_RN.reshape(*kept_RN.shape, *more), moved, 0)

    moved = {name: together(batch[name]) for name in _TOKENS if name in batch}
    late_RN = spread(jnp.maximum(first_RS - 1, 0), moved["patch_segment"])
    time_RN = jnp.where(
        jnp.take_along_axis(shown_RN, order_RN, 1) & kept_RN,
        REFERENCE_TIME,
        moved["patch_position"][..., 0] - late_RN,
    )
    moved["patch_position"] = moved["patch_position"].at[..., 0].set(time_RN)
    grid_RS3 = batch["grid"].at[..., 0].add(-count_RS)
    return {**batch, **moved, "grid": grid_RS3}


def given_midstream(
    batch: Batch, condition_RN: jax.Array, head_RS: jax.Array, frame_RN: jax.Array
) -> dict[str, Any]:
    """The batch with mid-stream latents wherever a token is given but not part of its clip's head.

    head_RS   given latent frames at the start, which continue from the clip's own start
    frame_RN  latent frame of each token, counted from the first that the clip still has
    Returns   the batch itself when its cache holds no mid-stream latents
    """
    if "midstream" not in batch:
        return dict(batch)
    late_RN = condition_RN & (frame_RN >= spread(head_RS, batch["patch_segment"]))
    patches = jnp.where(late_RN[..., None], batch["midstream"], batch["patches"])
    return {**batch, "patches": patches}
