"""Images and animated images (png, apng, jpeg, webp) through Pillow, format named by the ending.

EXIF orientation is applied, transparency is composited on black, 16-bit grey keeps its high byte.
Colour profiles are not applied. An animated image is a video at the grid of its own delays; a delay
of 0 counts as 0.1 s, as in browsers.
"""

import pathlib
import struct
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vidsim.core.errors import BadInput, bad
from vidsim.data import clock, containers
from vidsim.data.frames import Converter, Limits, Probe, over_black

FORMATS = {
    ".png": ("PNG",), ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".webp": ("WEBP",),
}  # fmt: skip
_ORIENTATION = 0x0112
_DEFAULT_DELAY_S = 0.1
# What Pillow raises for damaged data, by format.
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError)


def probe_still(path: pathlib.Path, fps: float | None, check: str, limits: Limits) -> Probe:
    """Decodes an image (check "all": every frame of an animated one) and states its grid."""
    fault = containers.truncation(path)
    if fault:
        raise bad(path.name, fault)
    first, delays_s, extra = None, [], {}
    for delay_s, image, frames in _frames(path, limits):
        pixels = _rgb(image, path.name)
        if first is None:
            first, extra = pixels.shape, _describe(image, frames)
        elif pixels.shape != first:
            raise bad(path.name, f"frame {len(delays_s)} has another size than the first")
        delays_s.append(delay_s)
        if check == "first" and frames == 1:
            break
    if first is None:
        raise bad(path.name, "holds no frame")
    if len(delays_s) == 1:
        return Probe(1, fps or 1.0, first[0], first[1], 1 / (fps or 1.0), extra)
    time_s = np.cumsum([0.0, *delays_s[:-1]])
    own, number, variable = clock.choose_rate(time_s, delays_s[-1], [1 / delays_s[0]])
    duration_s = float(time_s[-1]) + delays_s[-1] if variable else number / own
    if variable:
        extra["variable_rate"] = True
    number = number if fps is None else clock.count_slots(duration_s, fps)
    if number > limits.max_frames:
        raise bad(path.name, f"{number:,} frames", f"at most {limits.max_frames:,}")
    return Probe(number, fps or own, first[0], first[1], duration_s, extra)


def read_still(
    path: pathlib.Path,
    start_s: float,
    wanted: Sequence[int],
    fps: float,
    resize: tuple[int, int] | None,
    crop: tuple[int, int, int, int] | None,
    limits: Limits,
) -> np.ndarray:
    """The frames that the wanted slots of a grid from start_s show; maybe fewer at the end."""
    converter: list[Converter] = []

    def timed() -> Iterator[tuple[float, float, np.ndarray]]:
        at_s = -start_s
        for delay_s, image, frames in _frames(path, limits):
            duration_s = 1 / fps if frames == 1 else delay_s
            yield at_s, duration_s, _rgb(image, path.name)
            at_s += duration_s

    def convert(pixels_HWC: np.ndarray) -> np.ndarray:
        if not converter:
            height, width = pixels_HWC.shape[:2]
            converter.append(Converter(path.name, (height, width), resize, crop))
        return converter[0].rgb(pixels_HWC)

    picked = clock.pick(timed(), wanted, fps)
    return clock.gather(picked, len(wanted), convert, path.name, limits.max_bytes)


def _frames(path: pathlib.Path, limits: Limits) -> Iterator[tuple[float, Any, int]]:
    """(delay in s, loaded picture, number of frames) of every frame."""
    where = path.name
    try:
        # The limit on pixels below is ours; Pillow's own would only warn.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS[path.suffix.lower()])
        with image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise bad(where, f"{width}x{height} pixels", f"at most {limits.max_pixels:,}")
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > limits.max_frames:
                raise bad(where, f"{frames:,} frames", f"at most {limits.max_frames:,}")
            # The picture that an APNG shows where animation is unknown is no frame of it.
            for number in range(1 if getattr(image, "default_image", False) else 0, frames):
                if frames > 1:
                    image.seek(number)
                image.load()
                delay_s = float(image.info.get("duration") or 0) / 1000 or _DEFAULT_DELAY_S
                yield delay_s, image, frames
    except BadInput:
        raise
    except Image.DecompressionBombError:
        raise bad(where, "too many pixels", f"at most {limits.max_pixels:,} pixels") from None
    except _FAULTS as error:
        fault = containers.truncation(path) or f"cannot be decoded ({error})"
        raise bad(where, fault, f"a whole {path.suffix[1:]} file") from None


def _rgb(image: Any, where: str) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a loaded picture, upright."""
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise bad(where, f"pixel mode {image.mode}", "8- or 16-bit pixels", "convert the image")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return over_black(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _describe(image: Any, frames: int) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "kind": "image" if frames == 1 else "video",
        "codec": str(image.format).lower(),
        "pixel_format": image.mode,
    }
    if image.getexif().get(_ORIENTATION, 1) != 1:
        extra["rotated"] = True
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        extra["alpha"] = "black"
    return extra
