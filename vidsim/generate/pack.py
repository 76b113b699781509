"""Lays requests of different sizes out in packed rows, with their prompts beside them.

A request becomes the tokens that training would have made of such a clip. Nothing that a request
gets (grid, positions, key of its noise) depends on what else is asked for.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import clip_key
from vidsim.core.patching import token_positions
from vidsim.data.packing import RowLimits, pack_window

MAX_SEED = 2**63
IMAGE_FPS = 1.0  # the rate that an index gives to still images


@dataclass(frozen=True)
class Request:
    """One clip to make.

    prompt              what it shows
    height, width       pixels
    num_frames          1 makes an image
    fps                 frames a second, told to the model (an image has none)
    seed                same seed, same clip, whatever else is in the batch
    negative            what guidance leads away from; "" is the model without a prompt
    """

    prompt: str
    height: int
    width: int
    num_frames: int = 1
    fps: float = 8.0
    seed: int = 0
    negative: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise bad("--fps", f"{self.fps}", "a number above 0")
        if not 0 <= self.seed < MAX_SEED:
            raise bad("--seed", f"{self.seed}", f"0 to {MAX_SEED - 1}")


@dataclass(frozen=True)
class TokenGrid:
    """How pixels map to tokens: the VAE's strides and the patch, in latent cells."""

    time_stride: int
    space_stride: int
    patch: tuple[int, int, int]

    def grid(self, request: Request) -> tuple[int, int, int]:
        """(t, h, w) in tokens. Raises BadInput off the grid, naming the nearest possible size."""
        unit_h, unit_w = self.space_stride * self.patch[1], self.space_stride * self.patch[2]
        H, W, T = request.height, request.width, request.num_frames
        if H < 1 or W < 1 or H % unit_h or W % unit_w:
            near_h, near_w = _nearest(H, unit_h), _nearest(W, unit_w)
            raise bad("--size", f"{W}x{H} (width x height)", f"multiples of {unit_w}x{unit_h}",
                      f"nearest {near_w}x{near_h}")  # fmt: skip
        unit_t = self.time_stride * self.patch[0]
        if T < 1 or (T - 1) % self.time_stride or self.latent_frames(T) % self.patch[0]:
            first = 1 + self.time_stride * (self.patch[0] - 1)
            near = first + max(0, round((T - first) / unit_t)) * unit_t
            raise bad("--frames", f"{T}", f"{first} + a multiple of {unit_t}", f"nearest {near}")
        return self.latent_frames(T) // self.patch[0], H // unit_h, W // unit_w

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of so many frames; the first has one of its own."""
        return 1 + (num_frames - 1) // self.time_stride


def _nearest(size: int, unit: int) -> int:
    return max(1, round(size / unit)) * unit


def pack_rows(tokens: Sequence[int], text: Sequence[int], limits: RowLimits) -> list[list[int]]:
    """Puts clips into few rows.

    tokens, text  of each clip: patch tokens, text tokens
    Returns       indices of the clips of each row
    Raises        BadInput for a clip that no row holds
    """
    if max(tokens) > limits.tokens:
        raise bad("sample", f"a clip of {max(tokens)} tokens", f"at most {limits.tokens} in a row",
                  "ask for a smaller size or fewer frames")  # fmt: skip
    if max(text) > limits.text:
        raise bad("--prompt", f"{max(text)} bytes", f"at most {limits.text}", "shorten the prompt")
    row_of, count = pack_window(np.asarray(tokens, np.int64), np.asarray(text, np.int64), limits)
    return [np.flatnonzero(row_of == r).tolist() for r in range(count)]


def fit_rows(
    tokens: Sequence[int], text: Sequence[int], limits: RowLimits, most: int
) -> tuple[RowLimits, list[list[int]]]:
    """Rows for the clips, and limits of the length at which the fewest tokens are computed.

    Lengths are that of the limits in five to eight eighths, and these halved again and again: a
    lone small clip does not pay for a long row, and few lengths are ever compiled. Empty tokens
    count, and the empty rows of a batch; of lengths that cost the same the longest is taken.

    most     rows of a batch
    Returns  the limits; rows as `pack_rows`
    Raises   BadInput as `pack_rows`
    """
    found = limits, pack_rows(tokens, text, limits)
    for length in _lengths(limits.tokens)[1:]:
        if length < max(tokens):
            break
        tried = dataclasses.replace(limits, tokens=length)
        packed = pack_rows(tokens, text, tried)
        if length * _computed(len(packed), most) < found[0].tokens * _computed(len(found[1]), most):
            found = tried, packed
    return found


def _lengths(longest: int) -> list[int]:
    """Whole halves of the longest row and of its eighths from five on, the longest first."""
    parts = (longest * eighths / (8 << halved) for eighths in range(5, 9) for halved in range(32))
    return sorted({int(part) for part in parts if part >= 1 and part.is_integer()}, reverse=True)


def _computed(rows: int, most: int) -> int:
    """Rows that are computed for so many, in batches of `most`."""
    return bucket(rows, most) if rows <= most else -(-rows // most) * most


def bucket(rows: int, most: int) -> int:
    """Rows of a batch that holds `rows`: the next power of two, at most `most`."""
    return min(most, 1 << max(0, rows - 1).bit_length())


def build_batch(
    requests: Sequence[Request],
    grids: Sequence[tuple[int, int, int]],
    text_ids: Sequence[np.ndarray],
    rows: Sequence[Sequence[int]],
    limits: RowLimits,
    num_rows: int,
    patch_width: int,
) -> dict[str, Any]:
    """The packed batch of some rows, patches left at zero.

    grids, text_ids  of each request: its token grid; i32[m] text tokens
    rows             indices of requests, one list a row; in that order they are segments 1, 2, ...
    num_rows         R, at least len(rows); the rest stays empty
    patch_width      P
    """
    R, N, M, S = num_rows, limits.tokens, limits.text, limits.segments
    batch: dict[str, Any] = {
        "patches": np.zeros((R, N, patch_width), np.float32),
        "patch_segment": np.zeros((R, N), np.int32),
        "patch_position": np.zeros((R, N, 3), np.int32),
        "action": np.zeros((R, N), np.int32),
        "text_ids": np.zeros((R, M), np.int32),
        "text_segment": np.zeros((R, M), np.int32),
        "text_position": np.zeros((R, M), np.int32),
        "clip_key": np.zeros((R, S), np.uint32),
        "grid": np.zeros((R, S, 3), np.int32),
        "fps": np.zeros((R, S), np.float32),
        "size": np.zeros((R, S, 2), np.int32),
    }
    total = 0
    for r, row in enumerate(rows):
        at = text_at = 0
        for s, i in enumerate(row):
            request, n, m = requests[i], int(np.prod(grids[i])), len(text_ids[i])
            span, text_span = slice(at, at + n), slice(text_at, text_at + m)
            batch["patch_segment"][r, span] = s + 1
            batch["patch_position"][r, span] = token_positions(grids[i])
            batch["text_ids"][r, text_span] = text_ids[i]
            batch["text_segment"][r, text_span] = s + 1
            batch["text_position"][r, text_span] = np.arange(m)
            batch["clip_key"][r, s] = noise_key(request.seed)
            batch["grid"][r, s] = grids[i]
            batch["fps"][r, s] = request.fps if request.num_frames > 1 else IMAGE_FPS
            batch["size"][r, s] = request.height, request.width
            at, text_at, total = at + n, text_at + m, total + n
    batch["num_clips"] = np.float32(sum(map(len, rows)))
    batch["num_tokens"] = np.float32(total)
    return batch


def noise_key(seed: int) -> int:
    """The key of a request's noise: a function of its seed alone."""
    return clip_key("request", int(seed), 0)


def row_spans(
    rows: Sequence[Sequence[int]], grids: Sequence[tuple[int, int, int]]
) -> dict[int, tuple[int, slice]]:
    """Request index -> (row, tokens of the row) as `build_batch` lays them out."""
    spans = {}
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            n = int(np.prod(grids[i]))
            spans[i] = (r, slice(at, at + n))
            at += n
    return spans
