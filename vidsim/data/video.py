"""Video files through PyAV: one thread a stream, formats and codecs from allow-lists, local files.

FFmpeg never guesses a container: the format follows from the file's ending, so a playlist or a
script that calls itself .mp4 is refused. Only the `file` protocol is allowed. Audio, subtitles and
cover pictures are ignored.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from vidsim.core.errors import bad
from vidsim.data import clock, containers
from vidsim.data.frames import HDR, Converter, Limits, Probe, orientation

FORMATS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
    ".avi": "avi", ".gif": "gif",
}  # fmt: skip
CODECS = frozenset(
    "h264 hevc av1 vp8 vp9 mpeg4 mpeg1video mpeg2video h263 mjpeg prores dnxhd gif png apng qtrle "
    "ffv1 huffyuv ffvhuff utvideo rawvideo theora vc1 wmv3 msmpeg4v2 msmpeg4v3 dvvideo cfhd".split()
)
# Codecs whose packets are not one to a shown frame (hidden or packed frames).
_UNEVEN = frozenset({"vp8", "mpeg4", "msmpeg4v2", "msmpeg4v3"})
# WebM keeps transparency beside the picture, where FFmpeg's own decoders do not look.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# How far before the wanted time to enter a file; each is tried when the one before came out late.
_STEP_BACK_S = (0.0, 2.0, 15.0)


class _Late(Exception):
    """Entering the file at this place does not give the wanted frame whole."""


class _File:
    """An open video file: its stream, its clock and its frames.

    AVI has no presentation times of its own, and neither AVI nor GIF can be entered in the middle
    exactly: both are read from the start. AVI frames take the sorted times of the packets.
    """

    def __init__(self, path: pathlib.Path, container: Any, stream: Any) -> None:
        self.container, self.stream, self.where = container, stream, path.name
        self.tick_s = float(stream.time_base)
        self.untimed = path.suffix.lower() == ".avi"
        self.sequential = self.untimed or path.suffix.lower() == ".gif" or stream.start_time is None
        self.base = None if self.sequential else stream.start_time
        self.pts_order: list[int] = []
        self.alpha_decoder: Any = None

    def decode(self, packet: Any) -> list[Any]:
        """Frames that a packet completes; the last, empty packet flushes the decoder."""
        if self.alpha_decoder is None:
            return packet.decode()
        return self.alpha_decoder.decode(packet if packet.size else None)

    def time_s(self, pts: int) -> float:
        """Seconds from the first frame."""
        if self.base is None:
            self.base = pts
        return (pts - self.base) * self.tick_s

    def frames(self) -> Iterator[tuple[float, float, Any]]:
        """(time in s, duration in s, frame) in order of presentation, from the present place."""
        packets = self.container.demux(self.stream)
        for number, frame in enumerate(f for packet in packets for f in self.decode(packet)):
            pts = frame.pts
            if self.untimed:
                pts = self.pts_order[min(number, len(self.pts_order) - 1)]
            if pts is None:
                raise bad(self.where, f"frame {number} has no presentation time")
            yield self.time_s(pts), (frame.duration or 0) * self.tick_s, frame


@contextlib.contextmanager
def _opened(path: pathlib.Path, limits: Limits) -> Iterator[_File]:
    """Opens the first real video stream of a file. FFmpeg's errors become BadInput."""
    try:
        with av.open(
            f"file:{path}", format=FORMATS[path.suffix.lower()],
            options={"protocol_whitelist": "file"},
        ) as container:  # fmt: skip
            stream = _stream(container, path.name)
            context = stream.codec_context
            if context.width * context.height > limits.max_pixels:
                raise _too_large(path.name, context.width, context.height, limits)
            file = _File(path, container, stream)
            if stream.metadata.get("alpha_mode") == "1" and context.name in _ALPHA_DECODERS:
                context = file.alpha_decoder = av.CodecContext.create(
                    _ALPHA_DECODERS[context.name], "r"
                )
            context.options = {"max_pixels": str(limits.max_pixels)}
            context.thread_count, context.thread_type = 1, "SLICE"
            yield file
    except FFmpegError as error:
        fault = containers.truncation(path) or f"cannot be decoded ({error.strerror})"
        raise bad(path.name, fault, f"a whole {path.suffix[1:]} file") from None


def _too_large(where: str, width: int, height: int, limits: Limits) -> Exception:
    return bad(where, f"frames of {width}x{height} pixels", f"at most {limits.max_pixels:,} pixels")


def _stream(container: Any, where: str) -> Any:
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        context = stream.codec_context
        name = context.codec.canonical_name if context is not None else "unknown"
        if name not in CODECS:
            raise bad(where, f"codec {name}", ", ".join(sorted(CODECS)), "convert the file")
        return stream
    raise bad(where, "has no video stream")


def probe_video(path: pathlib.Path, fps: float | None, check: str, limits: Limits) -> Probe:
    """Counts and times the frames of a file by reading all of it.

    fps     grid to put on the file, or None for its own rate
    check   "all" decodes every frame, "first" only the first (packets are counted either way)
    Raises  BadInput for an empty, truncated, damaged or over-large file, or one without frames
    """
    fault = containers.truncation(path)
    if fault:
        raise bad(path.name, fault)
    with _opened(path, limits) as file:
        shown, first = _survey(file, check, limits)
        if file.sequential:
            file.base = shown[0][0]
        time_s = np.array([file.time_s(pts) for pts, _ in shown])
        last_s = shown[-1][1] * file.tick_s
        rates = [float(r) for r in (file.stream.average_rate, file.stream.guessed_rate) if r]
        own, number, variable = clock.choose_rate(time_s, last_s, rates)
        duration_s = number / own if not variable else float(time_s[-1]) + (last_s or 1 / own)
        extra = _describe(file, first)
    if variable:
        extra["variable_rate"] = True
    if fps is not None:
        number = clock.count_slots(duration_s, fps)
    if number > limits.max_frames:
        raise bad(path.name, f"{number:,} frames", f"at most {limits.max_frames:,}", "cut the file")
    matrix = orientation(first, path.name)
    height, width = (first.width, first.height) if matrix[1] else (first.height, first.width)
    return Probe(number, fps or own, height, width, duration_s, extra)


def _survey(file: _File, check: str, limits: Limits) -> tuple[list[tuple[int, int]], Any]:
    """Reads every packet: sorted (pts, duration) of the shown frames, and the first frame."""
    coded: list[tuple[int, int]] = []
    decoded: list[tuple[int, int]] = []
    first = None
    for packet in file.container.demux(file.stream):
        if packet.is_corrupt:
            raise bad(file.where, f"packet {len(coded)} is damaged")
        if packet.size and not packet.is_discard:
            pts = packet.dts if packet.pts is None else packet.pts
            if pts is None:
                raise bad(file.where, f"packet {len(coded)} has no time")
            coded.append((pts, packet.duration or 0))
            if len(coded) > limits.max_frames:
                raise bad(file.where, f"more than {limits.max_frames:,} frames", "", "cut the file")
        if first is not None and check == "first":
            continue
        for frame in file.decode(packet):
            if frame.is_corrupt:
                raise bad(file.where, f"frame {len(decoded)} is damaged")
            first = first or frame
            if (frame.width, frame.height) != (first.width, first.height):
                raise bad(file.where, f"frame {len(decoded)} has another size than the first")
            decoded.append((coded[0][0] if frame.pts is None else frame.pts, frame.duration or 0))
    coded.sort()
    if first is None:
        raise bad(file.where, "holds no frame that can be decoded")
    if check == "first":
        return coded, first
    uneven = file.stream.codec_context.codec.canonical_name in _UNEVEN or first.interlaced_frame
    if len(decoded) < len(coded) and not uneven:
        raise bad(file.where, f"only {len(decoded)} of {len(coded)} frames can be decoded")
    return (coded[: len(decoded)] if file.untimed else sorted(decoded)), first


def _describe(file: _File, first: Any) -> dict[str, Any]:
    extra = {
        "kind": "video",
        "codec": file.stream.codec_context.codec.canonical_name,
        "pixel_format": first.format.name,
    }
    if orientation(first, file.where) != (1, 0, 0, 1):
        extra["rotated"] = True
    if any(component.is_alpha for component in first.format.components):
        extra["alpha"] = "black"
    if first.color_trc in HDR:
        extra["hdr"] = HDR[first.color_trc]
    aspect = file.stream.sample_aspect_ratio
    if aspect and aspect != 1:
        extra["pixel_aspect"] = str(aspect)
    return extra


def read_video(
    path: pathlib.Path,
    start_s: float,
    wanted: Sequence[int],
    fps: float,
    resize: tuple[int, int] | None,
    crop: tuple[int, int, int, int] | None,
    limits: Limits,
) -> np.ndarray:
    """The frames that the wanted slots of a grid starting at start_s show; maybe fewer at the end.

    Enters the file at the last key frame before the first wanted slot. When that does not give the
    frame whole (open groups of pictures), it enters earlier, in the end at the start of the file:
    the pixels are those of decoding the file from its start.
    """
    ending = path.suffix.lower()
    order = _avi_times(path, limits) if ending == ".avi" else []
    first_s = start_s + (wanted[0] + 0.499) / fps
    entries = [] if ending in (".avi", ".gif") else [first_s - back for back in _STEP_BACK_S]
    for enter_s in (*(t for t in entries if t > 0.5 / fps), None):
        with _opened(path, limits) as file:
            if file.untimed:
                file.pts_order, file.base = order, order[0]
            frames = file.frames() if enter_s is None else _entered(file, enter_s, first_s)
            timed = ((t - start_s, d, f) for t, d, f in frames)
            convert = _LazyConverter(file.where, resize, crop, strict=enter_s is None)
            try:
                picked = clock.pick(timed, wanted, fps)
                return clock.gather(picked, len(wanted), convert, file.where, limits.max_bytes)
            except _Late:
                continue
    raise AssertionError("reading from the start of a file is never late")


def _avi_times(path: pathlib.Path, limits: Limits) -> list[int]:
    with _opened(path, limits) as file:
        packets = (p for p in file.container.demux(file.stream) if p.size and not p.is_discard)
        return sorted(p.dts if p.pts is None else p.pts for p in packets)


def _entered(file: _File, enter_s: float, first_s: float) -> Iterator[tuple[float, float, Any]]:
    """Frames from the last key frame up to enter_s. Raises _Late when that is after first_s."""
    if file.base is None:
        raise _Late
    try:
        file.container.seek(file.base + int(enter_s / file.tick_s), stream=file.stream)
    except FFmpegError:
        raise _Late from None
    keyed = False
    for time_s, duration_s, frame in file.frames():
        if not keyed:
            # Pictures before the key frame may refer to ones that were skipped.
            keyed = frame.key_frame
            if not keyed:
                continue
            if time_s > first_s:
                raise _Late
        yield time_s, duration_s, frame
    if not keyed:
        raise _Late


class _LazyConverter:
    """A Converter made from the first frame it sees. Refuses damaged frames."""

    def __init__(self, where: str, resize: Any, crop: Any, strict: bool) -> None:
        self.where, self.resize, self.crop, self.strict = where, resize, crop, strict
        self.inner: Converter | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        if frame.is_corrupt:
            if not self.strict:
                raise _Late
            raise bad(self.where, f"the frame at {frame.time} s is damaged")
        if self.inner is None:
            turned = orientation(frame, self.where)[1]
            size = (frame.width, frame.height) if turned else (frame.height, frame.width)
            self.inner = Converter(self.where, size, self.resize, self.crop)
        return self.inner.coded(frame)
