"""Given media: any video or image file to frames on the model's grid, and what was done to it."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.data import decode
from vidsim.data.frames import Probe
from vidsim.generate.pack import TokenGrid

ALIGNMENTS = ("crop", "letterbox")
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Given:
    """Frames that a capability starts from.

    video_THWC  uint8 RGB, sides on the model's grid; these come back bit for bit
    fps         frames a second; the rate of the file, or the one asked for
    notices     what was done to the file's frames, a line each
    still       the file holds one picture
    """

    video_THWC: np.ndarray
    fps: float
    notices: tuple[str, ...] = ()
    still: bool = False

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.video_THWC.shape[1], self.video_THWC.shape[2]


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a picture reaches the grid: scaled, then cropped or padded, both at the centre.

    resize  (height, width) after scaling, None for the native size
    crop    (top, left, height, width) after scaling, None for all of it
    pad     rows above, rows below, columns left, columns right, black
    """

    resize: Size | None
    crop: tuple[int, int, int, int] | None
    pad: tuple[int, int, int, int]
    size: Size

    def notice(self, native: Size) -> str:
        """What happens to a frame of this native (height, width)."""
        parts = []
        if self.resize:
            parts.append(f"scaled to {self.resize[1]}x{self.resize[0]}")
        if self.crop:
            parts.append(f"cropped at the centre to {self.crop[3]}x{self.crop[2]}")
        if any(self.pad):
            parts.append(f"letterboxed with black to {self.size[1]}x{self.size[0]}")
        return f"{native[1]}x{native[0]} {', '.join(parts)}" if parts else ""


def align(native: Size, grid: TokenGrid, size: Size | None, how: str, where: str) -> Alignment:
    """Plans the way of frames to the grid.

    native  (height, width) of the frames
    size    (height, width) wanted, on the grid; None: the nearest that needs no scaling
    how     "crop" keeps the grid filled, "letterbox" keeps the whole picture
    Raises  BadInput for an unknown way, a size off the grid, a picture below one token
    """
    if how not in ALIGNMENTS:
        raise bad("--align", repr(how), nearest(how, ALIGNMENTS))
    unit = grid.space_stride * grid.patch[1], grid.space_stride * grid.patch[2]
    if min(native[0] / unit[0], native[1] / unit[1]) < 1 and (size is None or 1 in native):
        raise bad(where, f"{native[1]}x{native[0]} pixels", f"at least {unit[1]}x{unit[0]}",
                  "give a larger picture, or --size")  # fmt: skip
    if size is None:
        size = _nearest(native, unit, up=how == "letterbox")
        scaled = native
    else:
        near = tuple(max(1, round(a / u)) * u for a, u in zip(size, unit, strict=True))
        if near != tuple(size):
            allowed = f"multiples of {unit[1]}x{unit[0]}"
            raise bad("--size", f"{size[1]}x{size[0]} (width x height)", allowed,
                      f"nearest {near[1]}x{near[0]}")  # fmt: skip
        scaled = _scaled(native, size, cover=how == "crop")
    kept = min(scaled[0], size[0]), min(scaled[1], size[1])
    top, left = (scaled[0] - kept[0]) // 2, (scaled[1] - kept[1]) // 2
    above, before = (size[0] - kept[0]) // 2, (size[1] - kept[1]) // 2
    return Alignment(
        None if scaled == tuple(native) else scaled,
        None if kept == scaled else (top, left, *kept),
        (above, size[0] - kept[0] - above, before, size[1] - kept[1] - before),
        (size[0], size[1]),
    )


def _nearest(native: Size, unit: Size, up: bool) -> Size:
    """The size on the grid that holds all of a frame (up), or that a frame fills."""
    h, w = (-(-n // u) if up else n // u for n, u in zip(native, unit, strict=True))
    return max(1, h) * unit[0], max(1, w) * unit[1]


def _scaled(native: Size, size: Size, cover: bool) -> Size:
    """A frame scaled with its aspect kept: it covers `size`, or it fits into it."""
    by_height = (size[0] / native[0] > size[1] / native[1]) == cover
    if by_height:
        other = round(native[1] * size[0] / native[0])
        return size[0], max(size[1], other) if cover else max(1, min(size[1], other))
    other = round(native[0] * size[1] / native[1])
    return max(size[0], other) if cover else max(1, min(size[0], other)), size[1]


def read_given(
    path: str | os.PathLike[str],
    grid: TokenGrid,
    *,
    size: Size | None = None,
    how: str = "crop",
    fps: float | None = None,
    frames: tuple[int, int] | None = None,
) -> Given:
    """Reads a video or image file.

    size    (height, width) wanted; None keeps the native size and aligns it
    how     "crop" or "letterbox"
    fps     rate to put the file on; None keeps its own
    frames  (first, after the last) to use; None for all
    Raises  BadInput for an unreadable file, frames that do not exist, a picture too small
    """
    file = Path(path)
    found = decode.probe(file, fps=fps, check="first")
    plan = align((found.height, found.width), grid, size, how, file.name)
    first, end = _span(found, frames, file.name)
    video_THWC = decode.read_frames(
        file, 0.0, end - first, found.fps, first=first, resize=plan.resize, crop=plan.crop
    )
    if any(plan.pad):
        above, below, before, after = plan.pad
        video_THWC = np.pad(video_THWC, ((0, 0), (above, below), (before, after), (0, 0)))
    notices = [plan.notice((found.height, found.width))]
    if (first, end) != (0, found.num_frames):
        notices.append(f"frames {first} to {end - 1} of {found.num_frames}")
    lines = tuple(f"{file.name}: {line}" for line in notices if line)
    return Given(video_THWC, found.fps, lines, found.num_frames == 1)


def same_size(path: str | os.PathLike[str], other: str | os.PathLike[str], option: str) -> None:
    """Raises BadInput unless two files show pictures of one size."""
    sizes = []
    for name in (path, other):
        found = decode.probe(name, check="first")
        sizes.append(f"{found.width}x{found.height}")
    if sizes[0] != sizes[1]:
        raise bad(option, f"{Path(other).name} of {sizes[1]}", f"{sizes[0]}, the video's size")


def count_frames(path: str | os.PathLike[str], fps: float | None = None) -> int:
    """Frames of a file, at its own rate or at `fps`."""
    return decode.probe(path, fps=fps, check="first").num_frames


def _span(found: Probe, frames: tuple[int, int] | None, where: str) -> tuple[int, int]:
    if frames is None:
        return 0, found.num_frames
    first, end = frames
    if not 0 <= first < end <= found.num_frames:
        raise bad(where, f"frames {first}:{end}", f"within 0:{found.num_frames}",
                  "the end is not included")  # fmt: skip
    return first, end
