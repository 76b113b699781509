"""Requests off the model's grid: sampled on the next size that it has, then cut, and said so."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.tokenizer import clean
from vidsim.generate.model import Model
from vidsim.generate.pack import Request, TokenGrid


@dataclass(frozen=True)
class Fitted:
    """What is asked for, what is sampled instead (on the grid, never smaller), and a line for it.

    notice  "" where both are the same
    """

    asked: Request
    sampled: Request
    notice: str

    def cut(self, video_THWC: np.ndarray) -> np.ndarray:
        """The middle of the picture and the first frames of the time that were sampled."""
        H, W, T = self.asked.height, self.asked.width, self.asked.num_frames
        top, left = (video_THWC.shape[1] - H) // 2, (video_THWC.shape[2] - W) // 2
        return video_THWC[:T, top : top + H, left : left + W]


def fit(grid: TokenGrid, request: Request) -> Fitted:
    """The next size and duration that the grid has. Raises BadInput for sizes below 1."""
    H, W, T = request.height, request.width, request.num_frames
    if min(H, W) < 1:
        raise bad("--size", f"{W}x{H} (width x height)", "at least 1x1")
    if T < 1:
        raise bad("--frames", f"{T}", "at least 1")
    high, wide = (
        -(-n // unit) * unit
        for n, unit in zip((H, W), (grid.space_stride * p for p in grid.patch[1:]), strict=True)
    )
    first = 1 + grid.time_stride * (grid.patch[0] - 1)
    unit_t = grid.time_stride * grid.patch[0]
    frames = first + max(0, -(-(T - first) // unit_t)) * unit_t
    sampled = dataclasses.replace(request, height=high, width=wide, num_frames=frames)
    parts = []
    if (high, wide) != (H, W):
        parts.append(f"sampled at {wide}x{high}, cropped at the centre to {W}x{H}")
    if frames != T:
        parts.append(f"sampled with {frames} frames, the first {T} kept")
    line = "; ".join(parts)
    return Fitted(request, sampled, f"off the model's grid: {line}" if line else "")


def excess(model: Model, text: str) -> int:
    """Tokens of a prompt beyond the longest that a row holds; 0 when it fits."""
    most = model.limits.text
    return max(0, model.tokenizer(most).count(clean(text)) - most)


def unknown_words(model: Model, text: str, option: str = "--prompt") -> str:
    """A line that names the words of a prompt which the model's vocabulary lacks, "" for none."""
    tokenizer = model.tokenizer(model.limits.text)
    found = tokenizer.spelled(clean(text))
    if not found:
        return ""
    return (
        f"{option}: {', '.join(map(repr, found))} not among the {len(tokenizer.words)} words of "
        "the model's vocabulary: read letter by letter; what training never named is a guess"
    )


def cut_text(model: Model, text: str, option: str = "--prompt") -> tuple[str, str]:
    """The start of a prompt that fits, and a line that says how much is cut ("" for nothing)."""
    plain, over = clean(text), excess(model, text)
    if not over:
        return text, ""
    tokenizer = model.tokenizer(model.limits.text)
    kept = tokenizer.decode(tokenizer.encode(plain))
    return kept, (
        f"{option} cut by {over} tokens ({len(plain) - len(kept)} of {len(plain)} characters): "
        f"it ends at '...{kept[-24:]}'"
    )
