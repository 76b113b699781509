"""What a capability returns, and whether a model has been trained for it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.diffusion.masks import MaskConfig
from vidsim.generate.model import Model
from vidsim.generate.pack import Request

Span = tuple[int, int]

# capability -> the kinds of training masks that show it, any of which will do
TRAINED_BY = {
    "animate": ("first", "prefix", "first_last", "join", "random"),
    "extend forward": ("prefix", "first", "join", "random"),
    "extend backward": ("suffix", "first_last", "join", "random"),
    "join": ("join", "first_last", "random"),
    "edit with a mask": ("first", "prefix", "suffix", "first_last", "join", "random"),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A clip that a capability made.

    video_THWC  uint8 RGB
    fps         frames a second
    request     prompt, size, seed of what was generated
    given       (first frame, frame after the last) of each run of given frames in video_THWC:
                there the pixels are those that were given, bit for bit
    notices     what the user should know, a line each
    """

    video_THWC: np.ndarray
    fps: float
    request: Request
    given: tuple[Span, ...] = ()
    notices: tuple[str, ...] = ()


def require_training(model: Model, capability: str, ckpt: str = "--ckpt") -> None:
    """Raises BadInput when a model never saw the clean tokens that a capability gives it."""
    masks = model.task.cfg.masks
    kinds = [kind for kind in TRAINED_BY[capability] if hasattr(masks, kind)]
    if all(getattr(masks, kind) == 0.0 for kind in kinds):
        raise bad(ckpt, f"was never trained to {capability}: no clean tokens of that kind",
                  f"a model trained with denoising.masks.{kinds[0]} above 0")  # fmt: skip


def midstream_notice(model: Model) -> str:
    """A line about windows that begin mid-stream when training has shown none; else empty."""
    masks: MaskConfig = model.task.cfg.masks
    if getattr(masks, "headless", 0.0) > 0.0:
        return ""
    return ("windows after the first begin mid-stream, which this model was not trained on "
            "(denoising.masks.headless is 0)")  # fmt: skip


def check_frames(frames: int, option: str = "--frames") -> None:
    """Raises BadInput for fewer than one new frame."""
    if frames < 1:
        raise bad(option, f"{frames}", "at least 1")


def variations(request: Request, count: int) -> list[Request]:
    """The request under `count` seeds, its own first."""
    if count < 1:
        raise bad("--n", f"{count}", "at least 1")
    return [dataclasses.replace(request, seed=request.seed + i) for i in range(count)]


def assemble(parts: Sequence[tuple[np.ndarray, bool]]) -> tuple[np.ndarray, tuple[Span, ...]]:
    """Joins runs of frames; returns them with the spans of those that are given."""
    at, spans = 0, []
    for frames, given in parts:
        if given and len(frames):
            spans.append((at, at + len(frames)))
        at += len(frames)
    return np.concatenate([frames for frames, _ in parts]), tuple(spans)
