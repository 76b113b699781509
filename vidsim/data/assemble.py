"""Builds the packed batch of some rows from latents and caption tokens (names: core/batch.py)."""

from typing import Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.captions import CaptionConfig, CaptionDraw, draw_captions
from vidsim.data.plan import PlanConfig, StepRows


class LatentSource(Protocol):
    """Where latents and captions come from: a cache on disk, or arrays in memory.

    hash             names the content
    patch            latent cells per token (t, h, w)
    channels         latent channels
    text_width       width of a caption's embedding; 0 when captions are byte tokens
    clip             i32[n]    clip (row of the index) of each piece
    grid             i32[n,3]  tokens (t, h, w)
    fps              f32[n]    frames/s after decimation
    size_HW          i32[n,2]  pixels
    clip_key         u32[n]    keys the randomness of each piece
    clip_hash, caption_start, caption_kind, kinds, text_tokens
                     of the clips and their captions, as in data/index.py's `ClipIndex`
    """

    patch: tuple[int, int, int]
    channels: int
    text_width: int
    clip: np.ndarray
    grid: np.ndarray
    fps: np.ndarray
    size_HW: np.ndarray
    clip_key: np.ndarray
    clip_hash: np.ndarray
    caption_start: np.ndarray
    caption_kind: np.ndarray
    kinds: tuple[str, ...]
    text_tokens: np.ndarray

    @property
    def has_midstream(self) -> bool:
        """Whether there are mid-stream latents beside the latents."""

    @property
    def hash(self) -> str: ...

    def latents(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The latent [t,h,w,c] of each of these pieces, in any float type."""

    def midstream(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The mid-stream latent [t,h,w,c] of each of these pieces; see core/batch.py."""

    def captions(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The tokens i32[m] of each of these captions, or embeddings [m, text_width]."""


class DrawnText:
    """The caption of each piece in an epoch, drawn by (seed, epoch, clip): the plan's text."""

    def __init__(self, source: LatentSource, config: CaptionConfig, seed: int) -> None:
        self.config, self.seed, self.clip = config, seed, source.clip
        self.clip_hash, self.caption_start = source.clip_hash, source.caption_start
        self.caption_kind, self.kinds = source.caption_kind, source.kinds
        self.text_tokens = source.text_tokens

    @property
    def clip_id(self) -> list[str]:
        """Names for messages; made only for one, since a cache keeps the true ones on disk."""
        return [f"clip {i}" for i in range(len(self.clip_hash))]

    def numbers(self, epoch: int, pieces: np.ndarray) -> np.ndarray:
        """i64: the number of the caption of each of these pieces."""
        return self._draw(epoch, pieces).number

    def __call__(self, epoch: int, pieces: np.ndarray) -> np.ndarray:
        """i32: its text tokens."""
        return self._draw(epoch, pieces).tokens

    def _draw(self, epoch: int, pieces: np.ndarray) -> CaptionDraw:
        drawn = draw_captions(self, self.config, self.seed, epoch, 1 << 30, self.clip[pieces])
        if (bare := drawn.number < 0).any():
            raise bad("packed batch", f"clip {self.clip[pieces][bare][0]} has no caption",
                      "at least an empty one", "encode again")  # fmt: skip
        return drawn


def assemble(
    source: LatentSource,
    config: PlanConfig,
    step: StepRows,
    text: DrawnText,
    rows: np.ndarray | slice = slice(None),
) -> dict[str, np.ndarray]:
    """The packed batch of one step, or of some of its rows.

    text     the captions that the plan counted
    rows     which rows of the step, e.g. those of this host
    Returns  the arrays of core/batch.py; num_clips and num_tokens are of the whole step
    """
    chosen = step.rows.take(np.arange(len(step.rows))[rows])
    count = np.diff(chosen.offset)
    row = np.repeat(np.arange(len(chosen)), count)
    slot = np.arange(len(row)) - np.repeat(chosen.offset[:-1], count)
    piece = chosen.piece
    shape = (len(chosen), config.row_segments)
    batch: dict[str, np.ndarray] = {
        "num_clips": np.asarray(step.num_clips, np.float32),
        "num_tokens": np.asarray(step.num_tokens, np.float32),
    }
    for name, column in (
        ("clip_key", source.clip_key),
        ("grid", source.grid.astype(np.int32, copy=False)),
        ("fps", source.fps.astype(np.float32, copy=False)),
        ("size", source.size_HW.astype(np.int32, copy=False)),
    ):
        batch[name] = np.zeros((*shape, *column.shape[1:]), column.dtype)
        batch[name][row, slot] = column[piece]
    batch |= _patch_rows(source, config.row_tokens, len(chosen), piece, row, slot)
    drawn = text.numbers(step.epoch, piece)
    return batch | _text_rows(source, config.row_text, len(chosen), drawn, row, slot)


def _starts(length: np.ndarray, slot: np.ndarray) -> list[int]:
    """Where each clip begins inside its row."""
    before = np.cumsum(length) - length
    return (before - np.maximum.accumulate(np.where(slot == 0, before, 0))).tolist()


def _patch_rows(
    source: LatentSource, width: int, rows: int, piece: np.ndarray, row: np.ndarray,
    slot: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    segment_RN = np.zeros((rows, width), np.int32)
    position_RN3 = np.zeros((rows, width, 3), np.int32)
    grid = source.grid[piece]
    steps = np.arange(max(1, int(grid.max(initial=1))), dtype=np.int32)
    starts = _starts(grid.astype(np.int64).prod(1), slot)
    for (t, h, w), r, s, a in zip(grid.tolist(), row.tolist(), slot.tolist(), starts, strict=True):
        b = a + t * h * w
        segment_RN[r, a:b] = s + 1
        position = position_RN3[r, a:b].reshape(t, h, w, 3)
        position[..., 0] = steps[:t, None, None]
        position[..., 1] = steps[:h, None]
        position[..., 2] = steps[:w]
    places = rows, width, row, starts
    late = {}
    if source.has_midstream:
        late["midstream"] = _latent_rows(source, source.midstream(piece), grid, *places)
    return late | {
        "patches": _latent_rows(source, source.latents(piece), grid, *places),
        "patch_segment": segment_RN,
        "patch_position": position_RN3,
        "action": np.zeros((rows, width), np.int32),
    }


def _latent_rows(
    source: LatentSource, latents: list[np.ndarray], grid: np.ndarray, rows: int, width: int,
    row: np.ndarray, starts: list[int],
) -> np.ndarray:  # fmt: skip
    """f32[R,N,P]: latents cut into patches, each clip's from its start on."""
    (pt, ph, pw), c = source.patch, source.channels
    patches_RNP = np.zeros((rows, width, pt * ph * pw * c), np.float32)
    for latent_thwc, (t, h, w), r, a in zip(
        latents, grid.tolist(), row.tolist(), starts, strict=True
    ):
        if latent_thwc.shape != (t * pt, h * ph, w * pw, c):
            raise bad("packed batch", f"a latent of shape {latent_thwc.shape}",
                      f"{(t * pt, h * ph, w * pw, c)} as planned", "encode again")  # fmt: skip
        # core/patching.py's order, written in place: one copy from the latent to the row.
        target = patches_RNP[r, a : a + t * h * w].reshape(t, h, w, pt, ph, pw, c)
        target[...] = latent_thwc.reshape(t, pt, h, ph, w, pw, c).transpose(0, 2, 4, 1, 3, 5, 6)
    return patches_RNP


def _text_rows(
    source: LatentSource, width: int, rows: int, caption: np.ndarray, row: np.ndarray,
    slot: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    segment_RM = np.zeros((rows, width), np.int32)
    position_RM = np.zeros((rows, width), np.int32)
    if source.text_width:
        name, text = "text", np.zeros((rows, width, source.text_width), np.float32)
    else:
        name, text = "text_ids", np.zeros((rows, width), np.int32)
    length = source.text_tokens[caption].astype(np.int64)
    starts, count = _starts(length, slot), np.arange(width, dtype=np.int32)
    for tokens, m, r, s, a in zip(
        source.captions(caption), length.tolist(), row.tolist(), slot.tolist(), starts, strict=True
    ):
        text[r, a : a + m] = tokens
        segment_RM[r, a : a + m] = s + 1
        position_RM[r, a : a + m] = count[:m]
    return {name: text, "text_segment": segment_RM, "text_position": position_RM}
