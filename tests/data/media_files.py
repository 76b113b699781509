"""Makes media files with known pixels for the tests of decoding and indexing."""

import struct
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

LOSSLESS = {"crf": "0", "preset": "ultrafast"}


def gradient(frames, height, width):
    """Smooth colour ramps that move one step a frame."""
    y, x = np.mgrid[:height, :width]
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        out[t, ..., 0] = (x * 200 / width + 3 * t) % 256
        out[t, ..., 1] = 40 + y * 180 / height
        out[t, ..., 2] = 128 + 90 * np.sin((x + y + 4 * t) / 15)
    return out


def noise(frames, height, width):
    """Independent random pixels: the hardest content there is."""
    return np.random.default_rng(7).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def text(frames, height, width):
    """White lettering on dark blue, moving right."""
    out = []
    for t in range(frames):
        image = Image.new("RGB", (width, height), (10, 10, 60))
        ImageDraw.Draw(image).text((2 + 2 * t, height // 3), f"frame {t}", fill=(255, 255, 255))
        out.append(np.asarray(image))
    return np.stack(out)


def motion(frames, height, width):
    """A bright square crosses a textured ground."""
    out = np.repeat(noise(1, height, width) // 4 + 60, frames, axis=0)
    for t in range(frames):
        left = t * (width - 12) // max(frames - 1, 1)
        out[t, height // 3 : height // 3 + 12, left : left + 12] = (230, 200, 40)
    return out


def steps(frames, height=48, width=64):
    """Frame t is one flat grey of its own, so that a decoded frame tells which one it is."""
    grey = np.array([20 + 215 * t // max(frames - 1, 1) for t in range(frames)], np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (frames, height, width, 3)).copy()


def write_video(
    path, video_THWC, codec="libx264", pixels="yuv444p", rate=24, times=None, options=None,
    audio_s=0.0, container_options=None, matrix=None,
):  # fmt: skip
    """Encodes a video. times: presentation times in milliseconds (else constant rate)."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *video_THWC.shape[1:3], pixels
        stream.options = LOSSLESS if options is None and codec == "libx264" else options or {}
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000) if audio_s else None
        for t, frame_HWC in enumerate(video_THWC):
            layout = "rgba" if frame_HWC.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(frame_HWC, format=layout)
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _write_sound(container, sound, audio_s)
    if matrix is not None:
        set_display_matrix(path, matrix)
    return path


def _write_sound(container, sound, seconds):
    tone = np.sin(np.arange(int(16000 * seconds)) / 20).astype(np.float32)[None]
    for start in range(0, tone.shape[1] - 1023, 1024):
        part = np.ascontiguousarray(tone[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, start
        container.mux(sound.encode(frame))
    container.mux(sound.encode())


def set_display_matrix(path, matrix):
    """Writes (a, b, c, d) into an mp4's track header (ISO/IEC 14496-12, 8.3.2), 16.16 fixed."""
    data = bytearray(open(path, "rb").read())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(v * 65536) for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    open(path, "wb").write(data)


def planes(values_3HW, pixel_format, colorspace=2, color_range=0):
    """A frame of a planar format with exactly these sample values."""
    channels, height, width = values_3HW.shape
    frame = av.VideoFrame(width, height, pixel_format)
    deep = values_3HW.dtype == np.uint16
    for plane, values in zip(frame.planes, values_3HW, strict=True):
        line = plane.line_size // (2 if deep else 1)
        padded = np.zeros((height, line), values.dtype)
        padded[:, :width] = values
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def write_frames(path, frames, codec, options=None, trc=None):
    """Encodes ready frames, keeping their colour description."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = frames[0].height, frames[0].width
        stream.pix_fmt, stream.options = frames[0].format.name, options or {}
        stream.codec_context.colorspace = frames[0].colorspace
        stream.codec_context.color_range = frames[0].color_range
        if trc is not None:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = trc
        for k, frame in enumerate(frames):
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def psnr(a, b):
    """Peak signal to noise ratio in dB over all pixels, 99 for equal arrays."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)
