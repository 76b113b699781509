"""Writes a video frame by frame: memory does not grow with its length."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.provenance import append_xmp_box, xmp_packet
from vidsim.generate.write import CODECS, Note, Written, check_media, encode_frames


def check_stream(path: str | os.PathLike[str], height: int, width: int, fps: float) -> Path:
    """Says before any work is done whether `write_stream` could write such a video.

    Raises  BadInput for an ending that needs all frames at once, or odd sides in .mp4 and .webm
    """
    path = check_media(path, 2, fps)
    ending = path.suffix.lower()
    if ending not in CODECS:
        raise bad(str(path), f"ending {ending!r} for a long video", f"one of {', '.join(CODECS)}")
    if CODECS[ending].pixels == "yuv420p" and (height % 2 or width % 2):
        raise bad(str(path), f"{width}x{height}", "even sides", "name a .mkv")
    return path


def write_stream(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    height: int,
    width: int,
    fps: float,
    metadata: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> Written:
    """Writes uint8 [H,W,3] frames as they come; the file appears when it is complete.

    metadata, source  as in `write_media`
    """
    path = check_stream(path, height, width, fps)
    ending = path.suffix.lower()
    note = Note(json.dumps(dict(metadata), sort_keys=True) if metadata else "", source)
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        for frame_HWC in frames:
            count += 1
            yield frame_HWC

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        encode_frames(partial, CODECS[ending], counted(), (height, width), fps, note.tags(ending))
        if source and ending == ".mp4":
            append_xmp_box(partial, xmp_packet(source))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Written(path, count, height, width, float(fps))
