"""From one decoded picture to RGB pixels: colour, alpha, size, orientation, crop.

Every path ends in 8-bit full-range RGB. Transparency is composited on black. 10- and 12-bit
pictures are rounded to 8 bits; limited range is expanded; PQ and HLG (HDR) pictures are converted
to BT.709 by FFmpeg's scaler, which clips highlights above diffuse white (203 cd/m²). Pictures
without a stated matrix are read as BT.709 from 720 lines up and as BT.601 below, as players do.
"""

import dataclasses
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vidsim.core.errors import bad

# AVColorSpace, AVColorTransferCharacteristic and AVColorPrimaries numbers (ITU-T H.273).
_BT709, _UNSPECIFIED, _BT601 = 1, 2, 6
HDR = {16: "pq", 18: "hlg"}
_HD_LINES = 720


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a media file may cost. Small files can decode to gigabytes.

    max_pixels  pixels of one frame
    max_frames  frames of one file
    max_bytes   uint8 bytes that one read returns
    """

    max_pixels: int = 36_000_000
    max_frames: int = 500_000
    max_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise bad("Limits", f"{field.name} is {getattr(self, field.name)}", "at least 1")


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a media file holds, as `read_frames` will return it.

    num_frames  slots of the constant-rate grid of `fps` (1.0 for a still image)
    duration_s  seconds from the first frame to the end of the last
    height, width  pixels after orientation metadata
    extra       kind ("video" or "image"), codec, pixel format, and what had to be done: rotated,
                alpha, hdr, variable_rate, pixel_aspect (stated but not applied)
    """

    num_frames: int
    fps: float
    height: int
    width: int
    duration_s: float
    extra: dict[str, Any]


def orientation(frame: av.VideoFrame, where: str) -> tuple[int, int, int, int]:
    """The display matrix of a frame as (a, b, c, d) in {-1, 0, 1}: x' = a x + c y, y' = b x + d y.

    Raises  BadInput for an angle that is not a multiple of 90 degrees
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    m = np.frombuffer(bytes(data), "<i4").astype(np.float64).reshape(3, 3)[:2, :2]
    m = (m / max(np.abs(m).max(), 1)).ravel()
    a, b, c, d = (int(v) for v in np.round(m))
    quarter_turn = abs(a) + abs(b) == 1 and abs(c) + abs(d) == 1 and abs(a * d - b * c) == 1
    if not quarter_turn or np.abs(m - (a, b, c, d)).max() > 0.01:
        raise bad(where, f"rotated by {frame.rotation} degrees", "multiples of 90")
    return a, b, c, d


def orient(pixels_HWC: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Applies a display matrix of `orientation` to an image (a view)."""
    a, b, c, d = matrix
    if b:
        pixels_HWC, down, right = pixels_HWC.swapaxes(0, 1), b, c
    else:
        down, right = d, a
    return pixels_HWC[:: down or 1, :: right or 1]


def over_black(pixels_HWA: np.ndarray) -> np.ndarray:
    """RGBA uint8 [..., 4] with straight alpha to RGB on black, rounded to nearest."""
    if (pixels_HWA[..., 3] == 255).all():
        return np.ascontiguousarray(pixels_HWA[..., :3])
    product = pixels_HWA[..., :3].astype(np.uint16) * pixels_HWA[..., 3:]
    return ((product + np.uint16(127)) // np.uint16(255)).astype(np.uint8)


class Converter:
    """Turns decoded pictures into uint8 RGB of one size. One per read: it keeps a scaler.

    where    file name, for errors
    size     (height, width) of every picture after orientation
    resize   (height, width) to scale to, or None; area averaging when both sides shrink or stay,
             else bicubic
    crop     (top, left, height, width) after the resize, or None
    """

    def __init__(
        self,
        where: str,
        size: tuple[int, int],
        resize: tuple[int, int] | None,
        crop: tuple[int, int, int, int] | None,
    ) -> None:
        self.where, self.size, self.scaled = where, size, resize or size
        if min(self.scaled) < 1:
            raise bad(where, f"resize to {self.scaled}", "at least 1x1")
        top, left, height, width = crop or (0, 0, *self.scaled)
        if (
            min(top, left) < 0 or min(height, width) < 1
            or top + height > self.scaled[0] or left + width > self.scaled[1]
        ):  # fmt: skip
            raise bad(where, f"crop {crop}", f"top, left, height, width inside {self.scaled}")
        self.box = slice(top, top + height), slice(left, left + width)
        self.shape = (height, width, 3)
        self._scaler = VideoReformatter()

    def coded(self, frame: av.VideoFrame) -> np.ndarray:
        """Pixels of a frame as FFmpeg decoded it. Raises BadInput when its size has changed."""
        matrix = orientation(frame, self.where)
        flip = bool(matrix[1])
        size = (frame.width, frame.height) if flip else (frame.height, frame.width)
        if size != self.size:
            raise bad(self.where, f"size changes to {size}", f"{self.size} throughout")
        target = (self.scaled[1], self.scaled[0]) if flip else self.scaled
        if any(component.is_alpha for component in frame.format.components):
            rgb = over_black(self._reformat(frame, (frame.height, frame.width), "rgba"))
            pixels = rgb if size == self.scaled else self._scale(rgb, target)
        else:
            pixels = self._reformat(frame, target, "rgb24")
        return orient(pixels, matrix)[self.box]

    def rgb(self, pixels_HWC: np.ndarray) -> np.ndarray:
        """Pixels of an upright uint8 RGB image."""
        size = pixels_HWC.shape[:2]
        if size != self.size:
            raise bad(self.where, f"size changes to {size}", f"{self.size} throughout")
        if self.scaled != self.size:
            pixels_HWC = self._scale(pixels_HWC, self.scaled)
        return pixels_HWC[self.box]

    def _scale(self, pixels_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
        return self._reformat(frame, size, "rgb24")

    def _reformat(self, frame: av.VideoFrame, size: tuple[int, int], pixel: str) -> np.ndarray:
        if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
            frame.colorspace = _BT709 if frame.height >= _HD_LINES else _BT601
        shrinks = size[0] <= frame.height and size[1] <= frame.width
        hdr = frame.color_trc in HDR
        scaled = self._scaler.reformat(
            frame, width=size[1], height=size[0], format=pixel, threads=1,
            interpolation="AREA" if shrinks else "BICUBIC",
            dst_color_trc=_BT709 if hdr else None, dst_color_primaries=_BT709 if hdr else None,
        )  # fmt: skip
        return scaled.to_ndarray()
