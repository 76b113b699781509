"""Draws shapes scenes, over each object's box and all frames at once.

A pixel's share of a shape is its box-filtered coverage: exact for axis-aligned edges, and to within
a few per cent for others (`tests/reference` draws the same scenes by supersampling).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.motion import positions

# Width of the outline over the half extent; thin enough to leave the colour readable inside.
OUTLINE = {
    "circle": 0.22, "square": 0.20, "triangle": 0.17, "diamond": 0.19, "star": 0.14,
    "cross": 0.13, "ring": 0.20,
}  # fmt: skip
STRIPE = 0.9  # period of the stripes over the half extent
DOT = 0.33  # radius of a dot over the period
LINE = 0.22  # width of a grid line over the period


def render(truth: Mapping[str, Any]) -> np.ndarray:
    """uint8 [T,H,W,3] video of a truth."""
    num_frames, height, width = truth["num_frames"], truth["height"], truth["width"]
    moves = any(any(thing["velocity"]) for thing in truth["objects"])
    video = np.empty((num_frames if moves else 1, height, width, 3), np.uint8)
    video[:] = background(truth["background"], height, width)
    for thing in truth["objects"]:
        _draw(video, positions(thing, len(video)), thing, truth["style"])
    return video if moves else np.repeat(video, num_frames, axis=0)


def background(ground: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """uint8 [H,W,3] of a truth's background."""
    tone_HW = pattern_tone(ground["pattern"], height, width, ground["period"], ground["phase"])
    colour = v.ground_colour(ground["tint"], ground.get("season", v.SUMMER))
    tint_3 = np.asarray(colour, np.float32)
    return np.rint(tint_3 * (1 + v.CONTRAST * tone_HW[..., None])).astype(np.uint8)


def pattern_tone(
    pattern: str, height: int, width: int, period: int, phase: tuple[int, int] | list[int]
) -> np.ndarray:
    """float32 [H,W] in [-1, 1]: dark to light. period and phase (y, x) in pixels."""
    y_H1 = np.arange(height, dtype=np.float32)[:, None] + 0.5
    x_1W = np.arange(width, dtype=np.float32)[None] + 0.5
    if pattern == "gradient":  # light at the top
        return np.broadcast_to(1 - 2 * y_H1 / height, (height, width))
    if pattern == "spotlight":  # light in the middle
        return 1 - np.hypot(2 * y_H1 / height - 1, 2 * x_1W / width - 1) * np.float32(math.sqrt(2))
    y_H1, x_1W = y_H1 + phase[0], x_1W + phase[1]
    if pattern == "stripes":
        tone = _square_wave(y_H1, period)
    elif pattern == "columns":
        tone = _square_wave(x_1W, period)
    elif pattern == "diagonals":
        tone = _square_wave(y_H1 + x_1W, period)
    elif pattern == "checker":
        tone = _square_wave(y_H1, period) * _square_wave(x_1W, period)
    elif pattern == "dots":  # dark on light
        away_y, away_x = (np.abs(u % period - period / 2) for u in (y_H1, x_1W))
        tone = 1 - 2 * _inside(np.hypot(away_y, away_x) - DOT * period)
    elif pattern == "grid":  # dark lines
        gap = (1 - LINE) / 2 * period
        cell_y, cell_x = (_inside(np.abs(u % period - period / 2) - gap) for u in (y_H1, x_1W))
        tone = 2 * cell_y * cell_x - 1
    else:
        tone = np.zeros((1, 1), np.float32)
    return np.broadcast_to(np.asarray(tone, np.float32), (height, width))


def coverage(
    shape: str, y: np.ndarray, x: np.ndarray, e: float, inset: float = 0.0, ramp: float = 1.0
) -> np.ndarray:
    """Share in [0, 1] of each unit pixel that a shape covers.

    y, x   pixel centres relative to the shape's centre of area; broadcast against each other
    e      half extent in pixels
    inset  the shape's edge is moved inwards by so much (a ring's outer edge only), pixels
    ramp   pixels over which an edge fades from 1 to 0; more than 1 stands for a blurred shape
    """
    if ramp != 1.0:
        return coverage(shape, y / ramp, x / ramp, e / ramp, inset / ramp)
    if shape == "square":
        return _inside(np.abs(y) - e + inset) * _inside(np.abs(x) - e + inset)
    if shape == "cross":
        arm, long = v.CROSS_ARM * e - inset, e - inset
        thin_y, thin_x = _inside(np.abs(y) - arm), _inside(np.abs(x) - arm)
        wide_y, wide_x = _inside(np.abs(y) - long), _inside(np.abs(x) - long)
        return wide_y * thin_x + thin_y * (wide_x - thin_x)
    if shape == "diamond":  # a square in coordinates turned by 45 degrees
        side = math.sqrt(0.5)
        u, w = (y + x) * side, (y - x) * side
        return _inside(np.abs(u) - side * e + inset) * _inside(np.abs(w) - side * e + inset)
    if shape == "triangle":
        low = _inside(y - v.DOWN[shape] * e + inset)
        lean = 0.5 * (y + v.UP[shape] * e) - inset
        rise = math.sqrt(0.75) * x
        return low * _inside(rise - lean) * _inside(-rise - lean)
    if shape == "star":
        return _star(y, x, v.UP[shape] * e, inset)
    radius = np.hypot(y, x)
    disc = _inside(radius - e + inset)
    return disc * _inside(v.RING_HOLE * e - radius) if shape == "ring" else disc


def brightness(
    style: str, shape: str, y: np.ndarray, x: np.ndarray, e: float
) -> np.ndarray | float:
    """Share in [0, 1] of an object's own colour in each pixel; the rest is its dark companion.

    Arguments as for `coverage`.
    """
    if style == "outlined":
        return coverage(shape, y, x, e, OUTLINE[shape] * e)
    if style == "shaded":  # lit from the upper left
        return np.clip(0.5 - (y + x) * (0.5 / e), 0, 1)
    if style == "banded":
        period = STRIPE * e
        wave = np.abs((y / period + 0.25) % 1 - 0.5) - 0.25
        return np.clip(0.5 - wave * period, 0, 1) + 0 * x
    return 1.0


def companion(colour: str, style: str) -> tuple[float, float, float]:
    """The darker colour (RGB 0-255) that a style mixes with the object's own."""
    red, green, blue = v.COLOURS[colour]
    if colour == "black":
        return 62.0, 62.0, 62.0
    if colour == "white":
        share = 0.2 if style == "outlined" else 0.76
    else:
        share = 0.35 if style == "outlined" else 0.62
    return share * red, share * green, share * blue


def boxes(truth: Mapping[str, Any]) -> np.ndarray:
    """float32 [T, objects, 4]: y0, x0, y1, x1 in pixels, cut at the frame's border."""
    rows = []
    for thing in truth["objects"]:
        shape, e = thing["shape"], thing["half_extent"]
        y_T, x_T = positions(thing, truth["num_frames"]).T
        rows.append(
            np.stack([y_T - v.UP[shape] * e, x_T - e, y_T + v.DOWN[shape] * e, x_T + e], axis=-1)
        )
    limits = np.array([truth["height"], truth["width"]] * 2, np.float32)
    return np.clip(np.stack(rows, axis=1), 0, limits).astype(np.float32)


def _draw(
    video_THW3: np.ndarray, centres_T2: np.ndarray, thing: Mapping[str, Any], style: str
) -> None:
    """Blends one object into all frames, in place."""
    shape, e = thing["shape"], thing["half_extent"]
    up, down = v.UP[shape] * e, v.DOWN[shape] * e
    top_T = np.floor(centres_T2[:, 0] - up).astype(int) - 1
    left_T = np.floor(centres_T2[:, 1] - e).astype(int) - 1
    rows = np.arange(math.ceil(up + down) + 3) + 0.5
    columns = np.arange(math.ceil(2 * e) + 3) + 0.5
    y = (rows + (top_T - centres_T2[:, 0])[:, None])[:, :, None].astype(np.float32)
    x = (columns + (left_T - centres_T2[:, 1])[:, None])[:, None, :].astype(np.float32)
    share = coverage(shape, y, x, e)[..., None]
    own = np.asarray(v.COLOURS[thing["colour"]], np.float32)
    light = brightness(style, shape, y, x, e)
    if isinstance(light, np.ndarray):
        dark = np.asarray(companion(thing["colour"], style), np.float32)
        paint = np.broadcast_to(dark + light[..., None] * (own - dark), (*share.shape[:3], 3))
    else:
        paint = np.broadcast_to(own, (*share.shape[:3], 3))
    height, width = video_THW3.shape[1:3]
    for frame, top, left, share_yx1, paint_yx3 in zip(
        video_THW3, top_T.tolist(), left_T.tolist(), share, paint, strict=True
    ):
        rows_in = slice(max(top, 0), min(top + len(rows), height))
        columns_in = slice(max(left, 0), min(left + len(columns), width))
        part = (
            slice(rows_in.start - top, rows_in.stop - top),
            slice(columns_in.start - left, columns_in.stop - left),
        )
        under = frame[rows_in, columns_in]
        under[...] = np.rint(under + share_yx1[part] * (paint_yx3[part] - under))


def _inside(distance: np.ndarray) -> np.ndarray:
    """Coverage of a pixel whose centre lies `distance` pixels outside a straight edge."""
    return np.clip(0.5 - distance, 0, 1)


def _square_wave(u: np.ndarray, period: int) -> np.ndarray:
    """+1 and -1 over half a period each, with edges one pixel wide."""
    return np.clip(2 * (period / 4 - np.abs(u % period - period / 2)), -1, 1)


def _star(y: np.ndarray, x: np.ndarray, radius: float, inset: float) -> np.ndarray:
    """Coverage by a five-pointed star that points up.

    The plane is folded into a tenth of the circle, beside one tip; there the star lies between the
    tip's two edges, of which the far one matters only at the tip itself.
    """
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    px, py = np.abs(x), -y
    fold = 2 * np.maximum(cos * px - sin * py, 0)
    px, py = px - fold * cos, py + fold * sin
    fold = 2 * np.maximum(-cos * px - sin * py, 0)
    px, py = np.abs(px + fold * cos), py + fold * sin
    lean = math.atan2(v.STAR_INNER * sin, 1 - v.STAR_INNER * cos)  # an edge against the tip's axis
    beside, beyond = px * math.cos(lean), (py - radius) * math.sin(lean) + inset
    return _inside(beside + beyond) * _inside(beyond - beside)
