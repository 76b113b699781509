"""Writes a video or an image to a file; the file's ending says the format.

.mp4 H.264 high, yuv420p, index in front, plays in browsers     .png one frame, exact
.webm VP9, yuv420p                                              .jpg one frame
.mkv FFV1 in RGB, exact                                         .gif one palette of 256 colours

RGB becomes YUV by the ITU-R BT.709 matrix in limited range, and the file says so, so that every
player turns it back into the same colours (an untagged small file is taken for BT.601 by some).
A file appears under its name only when it is complete.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image, PngImagePlugin

from vidsim.core.errors import bad, nearest
from vidsim.generate.provenance import append_xmp_box, insert_xmp_extension, xmp_packet

_BT709 = 1  # code of the primaries, the transfer and the matrix in H.264 and VP9 alike
_EXACT_CHROMA = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
_GIF_MAX_FPS = 50.0  # browsers show a delay below 2/100 s as 10/100 s
_PALETTE_PIXELS = 1 << 20


@dataclass(frozen=True)
class Codec:
    """How one ending is encoded by FFmpeg: container, encoder, pixel format and their options."""

    container: str
    encoder: str
    pixels: str
    options: Mapping[str, str]
    container_options: Mapping[str, str]


CODECS = {
    ".mp4": Codec("mp4", "libx264", "yuv420p", {"crf": "16", "preset": "medium", "profile": "high"},
                  {"movflags": "+faststart"}),
    ".webm": Codec("webm", "libvpx-vp9", "yuv420p",
                   {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "1"}, {}),
    ".mkv": Codec("matroska", "ffv1", "bgr0", {"level": "3"}, {}),
}  # fmt: skip
IMAGES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
ENDINGS = (*CODECS, ".gif", *IMAGES)


@dataclass(frozen=True)
class Written:
    """What lies in the file: sizes in pixels, and a line for each difference from the input."""

    path: Path
    num_frames: int
    height: int
    width: int
    fps: float
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Note:
    """What a file says about itself: facts as JSON ("" for none), digital source type."""

    comment: str
    source: str | None

    def tags(self, ending: str) -> dict[str, str]:
        """Tags of a video container; .mp4 keeps no tags of its own naming."""
        tags = {"comment": self.comment} if self.comment else {}
        if self.source and ending != ".mp4":
            tags["digital_source_type"] = self.source
        return tags


def check_media(path: str | os.PathLike[str], num_frames: int, fps: float = 1.0) -> Path:
    """Says before any work is done whether `write_media` could write such a video.

    num_frames  frames of the video to come
    fps         its frames a second
    Returns     the path
    Raises      BadInput for an unknown ending, several frames in an image, a rate a GIF cannot hold
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise bad(str(path), f"ending {ending!r}", f"one of {', '.join(ENDINGS)}",
                  nearest(ending, ENDINGS))  # fmt: skip
    if ending in IMAGES and num_frames != 1:
        raise bad(str(path), f"{num_frames} frames for a {ending} image", "1 frame",
                  "ask for one frame, or name a .mp4, .webm, .mkv or .gif")  # fmt: skip
    if not (np.isfinite(fps) and fps > 0):
        raise bad(str(path), f"fps {fps}", "a number above 0")
    if ending == ".gif" and fps > _GIF_MAX_FPS:
        raise bad(str(path), f"{fps:g} frames a second in a GIF", f"at most {_GIF_MAX_FPS:g}",
                  "lower --fps or name a .mp4")  # fmt: skip
    return path


def write_media(
    path: str | os.PathLike[str],
    video_THWC: np.ndarray,
    fps: float,
    metadata: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> Written:
    """Writes frames to `path`, in the format of its ending.

    video_THWC  uint8, RGB
    fps         frames a second
    metadata    JSON-able facts (prompt, seed, ...), stored as the file's comment
    source      IPTC digital source type that the file shall declare (generate/provenance.py)
    Returns     what was written; a notice where an odd size got a row or column more for yuv420p
    Raises      BadInput as `check_media`, and for pixels that are not uint8 RGB
    """
    video_THWC = np.asarray(video_THWC)
    if video_THWC.dtype != np.uint8 or video_THWC.ndim != 4 or video_THWC.shape[-1] != 3:
        raise bad(str(path), f"pixels {video_THWC.dtype} of shape {video_THWC.shape}",
                  "uint8 of shape [frames, height, width, 3]")  # fmt: skip
    if 0 in video_THWC.shape:
        raise bad(str(path), f"an empty video of shape {video_THWC.shape}", "at least one pixel")
    path = check_media(path, len(video_THWC), fps)
    comment = json.dumps(dict(metadata), sort_keys=True) if metadata else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    note = Note(comment, source)
    try:
        notices = _write(partial, path.suffix.lower(), video_THWC, float(fps), note)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    T, H, W, _ = video_THWC.shape
    if notices:
        H, W = H + H % 2, W + W % 2
    return Written(path, T, H, W, float(fps), notices)


def _write(
    partial: Path, ending: str, video_THWC: np.ndarray, fps: float, note: Note
) -> tuple[str, ...]:
    if ending in IMAGES:
        _write_image(partial, IMAGES[ending], video_THWC[0], note)
        return ()
    if ending == ".gif":
        _write_gif(partial, video_THWC, fps, note.comment)
        if note.source:
            insert_xmp_extension(partial, xmp_packet(note.source))
        return ()
    codec = CODECS[ending]
    notices: tuple[str, ...] = ()
    if codec.pixels == "yuv420p":
        video_THWC, notices = _even(video_THWC)
    encode_frames(partial, codec, video_THWC, video_THWC.shape[1:3], fps, note.tags(ending))
    if note.source and ending == ".mp4":
        append_xmp_box(partial, xmp_packet(note.source))
    return notices


def _even(video_THWC: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Repeats the last row and column of odd sizes, because yuv420p halves both."""
    _, H, W, _ = video_THWC.shape
    if H % 2 == 0 and W % 2 == 0:
        return video_THWC, ()
    padded = np.pad(video_THWC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)), mode="edge")
    size = f"{W}x{H} written as {W + W % 2}x{H + H % 2}"
    return padded, (f"{size}: the last row or column repeated, yuv420p needs even sizes",)


def encode_frames(
    partial: Path,
    codec: Codec,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    tags: Mapping[str, str],
) -> None:
    """Encodes uint8 [H,W,3] frames of one size, as they come, into a file of that very name."""
    H, W = size
    rate = Fraction(fps).limit_denominator(1001)
    options = dict(codec.container_options)
    with av.open(str(partial), "w", format=codec.container, options=options) as out:
        out.metadata.update(tags)
        stream = out.add_stream(codec.encoder, rate=rate, options=dict(codec.options))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = W, H, codec.pixels
        context = stream.codec_context
        if codec.pixels == "yuv420p":
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = int(ColorRange.MPEG)
        reformatter = VideoReformatter()
        for frame_HWC in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            if codec.pixels == "yuv420p":
                frame = reformatter.reformat(
                    frame, format="yuv420p", interpolation=_EXACT_CHROMA,
                    dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
                )  # fmt: skip
            else:
                frame = reformatter.reformat(frame, format=codec.pixels)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _write_image(partial: Path, kind: str, frame_HWC: np.ndarray, note: Note) -> None:
    image = Image.fromarray(frame_HWC)
    packet = xmp_packet(note.source) if note.source else None
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if note.comment:
            info.add_itxt("comment", note.comment)
        if packet:
            info.add_itxt("XML:com.adobe.xmp", packet.decode())
        image.save(partial, kind, pnginfo=info, optimize=True)
    else:
        extra: dict[str, Any] = {"comment": note.comment.encode()} if note.comment else {}
        if packet:
            extra["xmp"] = packet
        image.save(partial, kind, quality=95, subsampling=0, **extra)


def _write_gif(partial: Path, video_THWC: np.ndarray, fps: float, comment: str) -> None:
    """One palette for all frames, so that still parts keep still; dithered if colours were lost."""
    palette, exact = _palette(video_THWC)
    dither = Image.Dither.NONE if exact else Image.Dither.FLOYDSTEINBERG
    frames = [Image.fromarray(f).quantize(palette=palette, dither=dither) for f in video_THWC]
    # A delay counts hundredths of a second: round times, not delays, or errors add up.
    times_cs = np.rint(np.arange(len(frames) + 1) * 100.0 / fps).astype(int)
    delays_ms = (10 * np.maximum(np.diff(times_cs), 2)).tolist()
    extra = {"comment": comment.encode()} if comment else {}
    frames[0].save(
        partial, "GIF", save_all=True, append_images=frames[1:], duration=delays_ms, loop=0,
        optimize=False, disposal=1, **extra,
    )  # fmt: skip


def _palette(video_THWC: np.ndarray) -> tuple[Image.Image, bool]:
    """A 256-colour palette of the whole video, and whether it holds every colour."""
    pixels = video_THWC.reshape(-1, 3)
    colours = np.unique(pixels[:: max(1, len(pixels) // _PALETTE_PIXELS)], axis=0)
    if len(colours) <= 256:
        packed = np.unique(pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32))
        if len(packed) <= 256:
            table = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8)
            image = Image.new("P", (1, 1))
            image.putpalette(table.tobytes() + bytes(768 - table.size))
            return image, True
    step = max(1, int(np.ceil(len(pixels) / _PALETTE_PIXELS)))
    sample = np.ascontiguousarray(pixels[::step])
    image = Image.fromarray(sample.reshape(1, -1, 3)).quantize(256, Image.Quantize.MEDIANCUT)
    return image, False
