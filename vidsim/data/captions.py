"""Which caption of a clip is used in an epoch, and what is cut from it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import hash_uniform
from vidsim.data.index import ClipIndex

NO_CAPTION = -1
_ORDINAL = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """How often each kind of caption is used, among the kinds that a clip has.

    weights  (kind, weight) pairs; weights of several captions of one kind are shared
    other    weight of a kind that is not named
    """

    weights: tuple[tuple[str, float], ...] = (("descriptive", 0.95), ("short", 0.05))
    other: float = 1.0

    def __post_init__(self) -> None:
        for kind, weight in (*self.weights, ("other", self.other)):
            if not (math.isfinite(weight) and weight >= 0):
                raise bad("CaptionConfig", f"weight of {kind!r} is {weight}", "0 or more")
        if len(dict(self.weights)) != len(self.weights):
            raise bad("CaptionConfig", f"a kind comes twice in {self.weights}", "each kind once")


class CaptionColumns(Protocol):
    """The columns of an index (or of what was made from one) that a draw reads; see ClipIndex."""

    caption_start: np.ndarray
    caption_kind: np.ndarray
    text_tokens: np.ndarray
    kinds: tuple[str, ...]

    @property
    def clip_id(self) -> Sequence[str]: ...

    @property
    def clip_hash(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class CaptionDraw:
    """One caption for each of n clips.

    number  int64 [n], the caption's number in the index, NO_CAPTION for a clip without captions
    tokens  int32 [n], its tokens after cutting, start token included (1 without a caption)
    cut     captions that were cut;  cut_tokens  tokens lost by it
    """

    number: np.ndarray
    tokens: np.ndarray
    cut: int
    cut_tokens: int


def draw_captions(
    index: CaptionColumns,
    config: CaptionConfig,
    seed: int,
    epoch: int,
    max_tokens: int,
    rows: np.ndarray | None = None,
) -> CaptionDraw:
    """Chooses a caption for each clip by (seed, epoch, clip).

    Each caption runs an exponential race at a rate of its weight; the first wins. So a clip's
    choice depends on nothing but its own captions.

    max_tokens  tokens that a caption may take
    rows        clips, or None for all
    Raises      BadInput when all captions of a clip have weight 0
    """
    rows = np.arange(len(index.clip_id)) if rows is None else np.asarray(rows, np.int64)
    first, length = index.caption_start[rows], np.diff(index.caption_start)[rows]
    slot = np.repeat(np.arange(len(rows)), length)
    ends = np.cumsum(length)
    ordinal = np.arange(len(slot)) - np.repeat(ends - length, length)
    caption = np.repeat(first, length) + ordinal
    kind = index.caption_kind[caption].astype(np.int64)

    kinds = max(len(index.kinds), 1)
    named = dict(config.weights)
    weight_of_kind = np.array([named.get(k, config.other) for k in index.kinds] or [0.0])
    cell = slot * kinds + kind
    weight = weight_of_kind[kind] / np.bincount(cell, minlength=len(rows) * kinds)[cell]
    ids = index.clip_hash[rows][slot] + ordinal.astype(np.uint64) * _ORDINAL
    with np.errstate(divide="ignore"):
        finish = -np.log1p(-hash_uniform(seed, f"caption of epoch {epoch}", ids)) / weight
    finish[weight == 0] = np.inf

    number = np.full(len(rows), NO_CAPTION, np.int64)
    described = np.flatnonzero(length)
    if len(described):
        best = np.full(len(rows), np.inf)
        best[described] = np.minimum.reduceat(finish, (ends - length)[described])
        if np.isinf(best[described]).any():
            row = rows[described[np.isinf(best[described])][0]]
            what = f"all captions of {index.clip_id[row]} have weight 0"
            raise bad("captions", what, f"kinds {', '.join(index.kinds)}", "give one a weight")
        winner = np.flatnonzero(finish == best[slot])[::-1]
        number[slot[winner]] = caption[winner]
    uncut = np.ones(len(rows), np.int32)
    uncut[number >= 0] = index.text_tokens[number[number >= 0]]
    tokens = np.minimum(uncut, max_tokens).astype(np.int32)
    return CaptionDraw(number, tokens, int((tokens < uncut).sum()), int((uncut - tokens).sum()))


def draw_caption(
    index: ClipIndex, i: int, seed: int, epoch: int, config: CaptionConfig | None = None
) -> str:
    """The text for clip i in an epoch, "" when it has no caption; equal to `draw_captions`."""
    drawn = draw_captions(index, config or CaptionConfig(), seed, epoch, 1 << 30, np.array([i]))
    number = int(drawn.number[0])
    return "" if number == NO_CAPTION else index.caption_text(number)
