"""How fast a world draws, by frame size and duration."""

import time
from typing import Any

from vidsim.worlds import base

CASES = ((1, (64, 64)), (9, (64, 64))) + tuple(
    (17, size) for size in ((48, 48), (64, 64), (64, 112), (96, 96), (96, 144), (128, 128))
)


def bench_worlds(name: str = "shapes", seconds: float = 0.5) -> list[dict[str, Any]]:
    """Draws clips for `seconds` of one core's time a case, whatever else the machine does.

    Returns  rows of frames, height, width, clips/s and megapixels/s; the last row, without a size,
             is `info` alone (clips/s without drawing) on the world's own mix
    """
    rows: list[dict[str, Any]] = []
    for num_frames, (height, width) in CASES:
        world = base.make(name, size=10**6, frames=(num_frames,), sizes=((height, width),))
        rate = _rate(world.clip, seconds)
        pixels = num_frames * height * width
        rows.append(
            {
                "frames": num_frames, "height": height, "width": width,
                "clips_per_s": rate, "megapixels_per_s": rate * pixels / 1e6,
            }
        )  # fmt: skip
    rate = _rate(base.make(name, size=10**6).info, seconds)
    nothing = {"frames": None, "height": None, "width": None, "megapixels_per_s": None}
    return [*rows, nothing | {"clips_per_s": rate}]


def _rate(call: Any, seconds: float) -> float:
    """Calls a second of `call(i)` for i = 0, 1, 2, …, after one call to warm up."""
    call(0)
    start, done = time.process_time(), 0
    while (spent := time.process_time() - start) < seconds:
        call(done + 1)
        done += 1
    return done / spent
