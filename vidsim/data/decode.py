"""Media files to pixels: one door for videos and images, chosen by the file's ending."""

import os
import pathlib

import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.data import clock, stills, video
from vidsim.data.frames import Converter, Limits, Probe

ENDINGS = (*video.FORMATS, *stills.FORMATS)
CHECKS = ("all", "first")
LIMITS = Limits()


def probe(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    check: str = "all",
    limits: Limits = LIMITS,
) -> Probe:
    """What a media file holds, found by reading it rather than by trusting its header.

    fps     rate to put the file on, frames a second; None for its own
    check   "all" decodes every frame and so finds damage; "first" decodes one and counts the rest
    Raises  BadInput naming the file and the reason
    """
    file = _checked(path)
    if check not in CHECKS:
        raise bad("probe", f"check={check!r}", nearest(check, CHECKS))
    look = stills.probe_still if file.suffix.lower() in stills.FORMATS else video.probe_video
    return look(file, fps, check, limits)


def read_frames(
    path: str | os.PathLike,
    start_s: float,
    count: int,
    fps: float,
    *,
    first: int = 0,
    stride: int = 1,
    resize: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """Frames of a media file on a constant-rate grid.

    start_s  seconds from the file's first frame to slot 0 of the grid
    fps      slots a second
    first, stride, count   slots first, first + stride, … are returned
    resize   (height, width) of the whole frame, scaled inside FFmpeg (area when shrinking, else
             bicubic), or None for the native size
    crop     (top, left, height, width) after the resize
    Returns  uint8 RGB [count, H, W, 3]
    Raises   BadInput when the file is unusable, too large, or ends before the last slot
    """
    file = _checked(path)
    if count < 1 or first < 0 or stride < 1 or not fps > 0 or not start_s >= 0:
        raise bad(
            file.name, f"count={count} first={first} stride={stride} fps={fps} start_s={start_s}",
            "count, stride, fps above 0; first and start_s not below 0",
        )  # fmt: skip
    wanted = range(first, first + stride * count, stride)
    still = file.suffix.lower() in stills.FORMATS
    read = stills.read_still if still else video.read_video
    out = read(file, start_s, wanted, fps, resize, crop, limits)
    if len(out) < count:
        raise bad(
            file.name, f"ends before frame {wanted[len(out)]} of its clip",
            "a file as it was when indexed", "index it again",
        )  # fmt: skip
    return out


def resize_crop(
    video_THWC: np.ndarray,
    resize: tuple[int, int] | None,
    crop: tuple[int, int, int, int] | None,
    where: str,
) -> np.ndarray:
    """The same scaling and cropping for uint8 RGB frames that did not come from a file."""
    if resize is None and crop is None:
        return video_THWC
    convert = Converter(where, video_THWC.shape[1:3], resize, crop)
    picked = enumerate(video_THWC)
    return clock.gather(picked, len(video_THWC), convert.rgb, where, LIMITS.max_bytes)


def _checked(path: str | os.PathLike) -> pathlib.Path:
    file = pathlib.Path(path)
    if file.suffix.lower() not in ENDINGS:
        raise bad(file.name, f"unknown ending {file.suffix!r}", f"one of {', '.join(ENDINGS)}")
    if not file.is_file():
        raise bad(file.name, "no such file" if not file.exists() else "is not a regular file")
    return file.resolve()
