"""Which tokens of a clip are given (clean, a condition) and which are to be generated.

One kind is drawn for each clip in training; samplers build the same `FrameMask` from what the user
gives. A frame here is a latent frame, the first of the three token coordinates. Whatever is drawn,
at least one frame of a clip stays noisy, and a clip of one frame (an image) is never a condition.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.core.keys import clip_uniform, per_clip, token_normal
from vidsim.diffusion.segments import spread

KINDS = ("none", "first", "prefix", "suffix", "first_last", "random", "join")


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Relative weights of the condition kinds, and the noise put on given frames.

    none        nothing is given
    first       the first frame
    prefix      the first k frames, k uniform in 1..frames - 1
    suffix      the last k frames
    first_last  the first and the last frame; clips of two frames draw "none" instead
    random      one frame, and each further frame with a probability that is itself uniform
    join        the first k and the last m frames, k and m at least 1; clips of two frames draw
                "none" instead
    headless    share of clips, whatever their kind, that begin mid-stream: their first j frames, j
                uniform in 1..frames - 2, are left out, as in windows after the first of a long
                video. Not a weight
    reference   share of the headless clips that keep their first frame, given, as a reference: it
                stands at REFERENCE_TIME, and two frames or more follow it
    noise       given tokens are noised to a time uniform in 0..noise, one for each clip, while the
                network is told that they are clean; robust to what it generated itself
    join_given  fewest frames on each side of a join, in clips of more than three times as many
    """

    none: float = 0.5
    first: float = 0.1
    prefix: float = 0.1
    suffix: float = 0.1
    first_last: float = 0.1
    random: float = 0.1
    join: float = 0.0
    headless: float = 0.0
    reference: float = 0.0
    noise: float = 0.0
    join_given: int = 1

    def __post_init__(self) -> None:
        for kind in KINDS:
            if getattr(self, kind) < 0.0:
                raise bad(f"MaskConfig.{kind}", f"{getattr(self, kind)}", "a weight of 0 or more")
        if sum(self.weights) <= 0.0:
            raise bad("MaskConfig", "all weights are 0", f"one of {', '.join(KINDS)} above 0")
        for share in ("headless", "reference"):
            if not 0.0 <= getattr(self, share) <= 1.0:
                value = getattr(self, share)
                raise bad(f"MaskConfig.{share}", f"{value}", "a share from 0 to 1")
        if not 0.0 <= self.noise < 1.0:
            raise bad("MaskConfig.noise", f"{self.noise}", "a time from 0 to below 1")
        if self.join_given < 1:
            raise bad("MaskConfig.join_given", f"{self.join_given}", "1 frame or more")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights in the order of KINDS."""
        return tuple(getattr(self, kind) for kind in KINDS)


class FrameMask(NamedTuple):
    """Given frames of each clip; all arrays [R,S].

    head   i32 frames given at the start
    tail   i32 frames given at the end
    given  i32 one further given frame, -1 for none
    share  f32 probability that any other frame is given
    kept   i32 a frame that `share` never touches, -1 for none
    """

    head: jax.Array
    tail: jax.Array
    given: jax.Array
    share: jax.Array
    kept: jax.Array


def ends(head_RS: jax.Array, tail_RS: jax.Array) -> FrameMask:
    """The mask that gives `head` frames at the start and `tail` frames at the end of each clip."""
    never = jnp.full(head_RS.shape, -1, jnp.int32)
    return FrameMask(head_RS, tail_RS, never, jnp.zeros(head_RS.shape, jnp.float32), never)


def draw_kinds(cfg: MaskConfig, key_RS: jax.Array, frames_RS: jax.Array) -> jax.Array:
    """The kind of each clip, an index into KINDS, i32[...]; "none" where the clip is too short."""
    *reached, total = itertools.accumulate(cfg.weights)
    edges = [weight / total for weight in reached]
    draw = jax.vmap(jax.random.uniform)(key_RS.reshape(-1)).reshape(frames_RS.shape)
    kind = jnp.searchsorted(jnp.asarray(edges, jnp.float32), draw, side="right").astype(jnp.int32)
    needs = jnp.asarray([1, 2, 2, 2, 3, 2, 3], jnp.int32)
    return jnp.where(frames_RS >= needs[kind], kind, 0)


def draw_masks(
    cfg: MaskConfig, key: jax.Array, clip_key_RS: jax.Array, frames_RS: jax.Array
) -> FrameMask:
    """Draws what is given in each clip, from the clip's key and its number of frames alone.

    clip_key_RS  u32[R,S]
    frames_RS    i32[R,S] latent frames of the clip (0 for an empty slot)
    """
    keys = jax.vmap(lambda k: jax.random.split(k, 4))(per_clip(key, clip_key_RS).reshape(-1))
    keys = keys.reshape(*clip_key_RS.shape, 4)
    kind = draw_kinds(cfg, keys[..., 0], frames_RS)
    uniform = jax.vmap(jax.random.uniform)(keys[..., 1:].reshape(-1)).reshape(*kind.shape, 3)
    last = jnp.maximum(frames_RS - 1, 1)

    def below(column: int, limit: jax.Array) -> jax.Array:
        return jnp.minimum((uniform[..., column] * limit).astype(jnp.int32), limit - 1)

    length = 1 + below(0, last)
    least = jnp.clip(last // 3, 1, cfg.join_given)  # on each side of a join
    before = least + below(0, jnp.maximum(last - 2 * least + 1, 1))
    after = least + below(1, jnp.maximum(last - before - least + 1, 1))
    kept = below(0, last + 1)
    given = jnp.mod(kept + 1 + below(1, last), last + 1)

    def pick(cases: dict[str, jax.Array | int]) -> jax.Array:
        value = jnp.zeros(kind.shape, jnp.int32)
        for name, case in cases.items():
            value = jnp.where(kind == KINDS.index(name), case, value)
        return value

    random = kind == KINDS.index("random")
    return FrameMask(
        head=pick({"first": 1, "prefix": length, "first_last": 1, "join": before}),
        tail=pick({"suffix": length, "first_last": 1, "join": after}),
        given=jnp.where(random, given, -1),
        share=jnp.where(random, uniform[..., 2], 0.0),
        kept=jnp.where(random, kept, -1),
    )


def draw_heads(
    cfg: MaskConfig, key: jax.Array, clip_key_RS: jax.Array, frames_RS: jax.Array
) -> jax.Array:
    """How many of its first frames each clip leaves out, i32[R,S]: 0 unless it begins mid-stream.

    At least two frames remain; clips of fewer than three keep theirs.
    """
    keys = jax.vmap(jax.random.split)(per_clip(key, clip_key_RS).reshape(-1))
    keys = keys.reshape(*clip_key_RS.shape, 2)
    uniform = jax.vmap(jax.random.uniform)(keys.reshape(-1)).reshape(keys.shape)
    most = jnp.maximum(frames_RS - 2, 0)
    count = jnp.minimum(1 + (uniform[..., 1] * most).astype(jnp.int32), most)
    return jnp.where(uniform[..., 0] < cfg.headless, count, 0)


def draw_references(
    cfg: MaskConfig,
    key: jax.Array,
    clip_key_RS: jax.Array,
    frames_RS: jax.Array,
    gone_RS: jax.Array,
) -> jax.Array:
    """Which of the clips that `draw_heads` lets begin mid-stream keep a reference, bool[R,S]: as
    many frames are left out, but from the second on, so two must remain behind those.
    """
    draw_RS = clip_uniform(key, clip_key_RS)
    return (gone_RS > 0) & (frames_RS - gone_RS >= 3) & (draw_RS < cfg.reference)


def condition_tokens(
    mask: FrameMask,
    key: jax.Array,
    clip_key_RS: jax.Array,
    segment_RN: jax.Array,
    frame_RN: jax.Array,
    frames_RS: jax.Array,
) -> jax.Array:
    """True for every token that is given.

    key          draws which frames `mask.share` takes; each by (clip key, frame)
    segment_RN   i32[R,N], 0 = padding, never given
    frame_RN     i32[R,N] latent frame of the token inside its clip
    frames_RS    i32[R,S] latent frames of the clip
    Returns      bool[R,N]
    """
    owner_RN = spread(clip_key_RS, segment_RN)
    normal_RN = token_normal(key, owner_RN, frame_RN, 1)[..., 0]
    head, tail, given, share, kept, frames = (
        spread(value_RS, segment_RN) for value_RS in (*mask, frames_RS)
    )
    drawn = (jax.scipy.stats.norm.cdf(normal_RN) < share) & (frame_RN != kept)
    inside = (frame_RN < head) | (frame_RN >= frames - tail) | (frame_RN == given) | drawn
    return inside & (segment_RN > 0)
