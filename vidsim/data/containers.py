"""Is a media file whole? Walks the outermost structure of a container, reading headers only.

FFmpeg plays what is left of a truncated Matroska or GIF file without a word; the sizes that the
container itself states tell.
"""

import os
import pathlib
from typing import BinaryIO


def truncation(path: pathlib.Path) -> str | None:
    """Why the file is not whole ("ends 1,024 bytes early"), or None when no fault is seen."""
    walk = _WALKS.get(path.suffix.lower())
    size = os.path.getsize(path)
    if size == 0:
        return "file is empty"
    if walk is None:
        return None
    with open(path, "rb") as file:
        end = walk(file, size)
    if end is None:
        return "its end is missing"
    return f"file is truncated: {end - size:,} bytes are missing" if end > size else None


def _mp4(file: BinaryIO, size: int) -> int | None:
    """End of the last top-level box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return size
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:
            return size
        if length < 8:
            return size  # not a box structure; the demuxer says more
        at += length
    return at


def _matroska(file: BinaryIO, size: int) -> int | None:
    """End of the segment (RFC 8794 element ids and sizes, RFC 9559 segment)."""
    at = 0
    for wanted in (0x1A45DFA3, 0x18538067):
        file.seek(at)
        head = file.read(12)
        if len(head) < 5 or int.from_bytes(head[:4], "big") != wanted:
            return size
        width = 9 - head[4].bit_length()
        if width > 8:
            return size
        value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return size  # unknown length: a live recording
        at += 4 + width + value
    return at


def _riff(file: BinaryIO, size: int) -> int | None:
    """End of the last RIFF chunk (AVI and WebP); OpenDML files have several."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:
            return at if at else size
        length = int.from_bytes(head[4:8], "little")
        if length == 0:
            return size  # never finished, or streamed
        at += 8 + length + length % 2
    # The padding byte of an odd last chunk is often left out.
    return min(at, size) if at - size == 1 else at


def _gif(file: BinaryIO, size: int) -> int | None:
    """Position after the trailer (GIF89a specification, 27), None when there is none."""
    data = file.read()
    if data[:3] != b"GIF" or size < 14:
        return size
    at = 13 + _table(data[10])
    while at < size:
        mark = data[at]
        if mark == 0x3B:
            return at + 1
        if mark == 0x2C:
            at += 10 + (_table(data[at + 9]) if at + 9 < size else size) + 1
        elif mark == 0x21:
            at += 2
        else:
            return size  # junk between blocks; the decoder says more
        while at < size and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _table(flags: int) -> int:
    """Bytes of a colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


_WALKS = {
    ".mp4": _mp4, ".m4v": _mp4, ".mov": _mp4, ".mkv": _matroska, ".webm": _matroska,
    ".avi": _riff, ".webp": _riff, ".gif": _gif,
}  # fmt: skip
