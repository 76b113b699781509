"""Presentation times to frames of a constant-rate grid.

A clip is a grid: slot k is shown at k / fps seconds. A coded frame falls into the slot nearest to
its presentation time (halves go up, as in FFmpeg's `fps` filter), and a slot shows the last frame
that fell into it or into an earlier slot. A constant-rate file so gives each frame exactly once,
whatever its container rounds times to.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from vidsim.core.errors import bad

F = TypeVar("F")

# Times are rational; this makes an exact half go up whichever way the float was rounded.
_HALF = 0.5 + 1e-6
STANDARD_FPS = (8, 10, 12, 15, 20, 24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 90, 120)  # fmt: skip  # noqa: E501
MAX_FPS = 240.0


def slots(time_s: np.ndarray | float, fps: float) -> np.ndarray:
    """The slot of each presentation time (seconds from the clip's start), int64."""
    return np.floor(np.asarray(time_s, np.float64) * fps + _HALF).astype(np.int64)


def choose_rate(
    time_s: np.ndarray, last_s: float, stated: Sequence[float | None]
) -> tuple[float, int, bool]:
    """Finds the grid of a file from its presentation times.

    time_s   sorted times of all frames, seconds, the first at (about) 0
    last_s   duration of the last frame, seconds, 0 when unknown
    stated   rates that the container states, best first
    Returns  (fps, number of slots, variable): a rate at which every frame has a slot of its own
             and no slot is empty; else the file has a variable rate, and fps is one over the median
             distance (a usual rate when within 1%)
    """
    number = len(time_s)
    span = float(time_s[-1] - time_s[0])
    mean = (number - 1) / span if number > 1 and span > 0 else None
    for rate in (*stated, mean):
        if rate is None or not 0 < rate <= MAX_FPS:
            continue
        if np.array_equal(slots(time_s, rate), np.arange(number)):
            return float(rate), number, False
    steps = np.diff(time_s)
    steps = steps[steps > 0]
    fps = min(1 / float(np.median(steps)), MAX_FPS) if len(steps) else 1.0
    usual = min(STANDARD_FPS, key=lambda rate: abs(rate / fps - 1))
    if abs(usual / fps - 1) < 0.01:
        fps = float(usual)
    return fps, count_slots(float(time_s[-1]) + (last_s or 1 / fps), fps), True


def count_slots(duration_s: float, fps: float) -> int:
    """Frames of a clip of this duration, at least one."""
    return max(1, int(slots(duration_s, fps)))


def pick(
    frames: Iterable[tuple[float, float, F]], wanted: Sequence[int], fps: float
) -> Iterator[tuple[int, F]]:
    """Chooses the frame that each wanted slot shows.

    frames   (time in s from the clip's start, duration in s, frame) in order of presentation
    wanted   increasing slots
    Yields   (position in wanted, frame), for as many slots as the frames reach; before the first
             frame a slot shows the first frame
    """
    k, held, end = 0, None, -1
    for time_s, duration_s, frame in frames:
        slot = int(slots(time_s, fps))
        while k < len(wanted) and held is not None and wanted[k] < slot:
            yield k, held
            k += 1
        if k == len(wanted):
            return
        held, end = frame, max(slot + 1, int(slots(time_s + duration_s, fps)))
    while k < len(wanted) and held is not None and wanted[k] < end:
        yield k, held
        k += 1


def gather(
    picked: Iterable[tuple[int, F]],
    count: int,
    convert: Callable[[F], np.ndarray],
    where: str,
    max_bytes: int,
) -> np.ndarray:
    """Collects picked frames, converting a repeated frame once.

    count    slots wanted; Returns  uint8 [filled, …] with filled <= count
    Raises   BadInput when the result would exceed max_bytes
    """
    out, done, last, pixels = None, 0, None, np.empty(0)
    for k, frame in picked:
        if frame is not last:
            last, pixels = frame, convert(frame)
        if out is None:
            if count * pixels.nbytes > max_bytes:
                size = f"{count * pixels.nbytes:,} bytes in one read"
                raise bad(where, size, f"at most {max_bytes:,}")
            out = np.empty((count, *pixels.shape), np.uint8)
        out[k] = pixels
        done = k + 1
    return np.empty((0, 1, 1, 3), np.uint8) if out is None else out[:done]
