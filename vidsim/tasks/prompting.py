"""Dropping captions inside packed text rows, so that one model is also its unconditional twin.

A dropped caption keeps its first token alone. For byte captions that token is BOS, which an empty
caption consists of, so dropping a caption equals training on an empty one. For captions of a frozen
encoder the first token may already know the whole text, so a learned vector takes its place.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vidsim.diffusion.segments import spread

Text = dict[str, jax.Array]


def drop_captions(
    batch: Mapping[str, jax.Array], dropped_RS: jax.Array, null_E: jax.Array | None = None
) -> Text:
    """Text rows in which the captions of some clips are reduced to one token.

    batch       packed batch; only its text arrays are read
    dropped_RS  bool[R,S]
    null_E      f32[E] stands for a dropped caption of a frozen encoder; None for byte captions
    Returns     text_ids i32[R,M] or text f32[R,M,E], with text_segment and text_position i32[R,M].
                What remains is moved together: segments stay in order, padding at the end, and a
                neighbour's tokens and positions are untouched
    """
    segment_RM, position_RM = batch["text_segment"], batch["text_position"]
    gone_RM = spread(dropped_RS, segment_RM, False)
    keep_RM = (segment_RM > 0) & (~gone_RM | (position_RM == 0))
    order_RM = jnp.argsort(~keep_RM, axis=1, stable=True)

    def together(value: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, order: row[order])(value, order_RM)

    kept_RM = together(keep_RM)
    text = {
        "text_segment": jnp.where(kept_RM, together(segment_RM), 0),
        "text_position": jnp.where(kept_RM, together(position_RM), 0),
    }
    if "text_ids" in batch:
        return text | {"text_ids": jnp.where(kept_RM, together(batch["text_ids"]), 0)}
    assert null_E is not None, "captions of a frozen encoder need a vector for the dropped ones"
    text_RME = jnp.where(
        gone_RM[..., None], null_E[None, None].astype(batch["text"].dtype), batch["text"]
    )
    return text | {"text": jnp.where(kept_RM[..., None], together(text_RME), 0)}
