"""Reads an object's shape, size and style by drawing candidates to compare with its mask."""

import dataclasses

import numpy as np

from vidsim.worlds.shapes import render
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.read_objects import stretch

FRAMES = 3  # compared, those that show most of the object
SHIFTS = np.array([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])  # pixels
EDGE = 0.5  # mask value that bounds the object
RAMPS = (1.0, 2.5, 5.0)  # pixels over which a candidate's edge fades: sharp to blurred


@dataclasses.dataclass(frozen=True)
class Extent:
    """Where a mask begins and ends in one frame, to a fraction of a pixel.

    low_2, high_2  edges (y, x) in pixels; centroid_2 the centre of mass
    cut            [2,2] whether the low and the high edge of each axis is the frame's border
    mass           pixels covered
    """

    low_2: np.ndarray
    high_2: np.ndarray
    centroid_2: np.ndarray
    cut: np.ndarray
    mass: float


@dataclasses.dataclass(frozen=True)
class ShapeFit:
    """shape: word. half_extent: pixels. error: share of the mask that the candidate leaves over."""

    shape: str
    half_extent: float
    error: float


def extent(mask_HW: np.ndarray) -> Extent | None:
    """The extent of a mask; None when too little of it is there."""
    mass = float(mask_HW.sum())
    if mass < 6:
        return None
    low, high, centroid, cut = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros((2, 2), bool)
    for axis in (0, 1):
        centres = np.arange(mask_HW.shape[axis]) + 0.5
        sums = mask_HW.sum(1 - axis)
        centroid[axis] = float(sums @ centres) / mass
        peak = mask_HW.max(1 - axis)
        solid = np.flatnonzero(peak > EDGE)
        if not len(solid):
            return None
        first, last = int(solid[0]), int(solid[-1])
        before = peak[first - 1] if first else 0.0
        after = peak[last + 1] if last + 1 < len(peak) else 0.0
        low[axis], high[axis] = first - before, last + 1 + after
        cut[axis] = first == 0, last == len(peak) - 1
    return Extent(low, high, centroid, cut, mass)


def centre(seen: Extent, fit: ShapeFit | None) -> np.ndarray:
    """Centre of area (y, x) in pixels; behind the border it follows from the edge that is seen."""
    place = seen.centroid_2.copy()
    if fit is None:
        return place
    reach = ((v.UP[fit.shape], v.DOWN[fit.shape]), (1.0, 1.0))
    for axis in (0, 1):
        low_cut, high_cut = seen.cut[axis]
        if low_cut and not high_cut:
            place[axis] = seen.high_2[axis] - reach[axis][1] * fit.half_extent
        elif high_cut and not low_cut:
            place[axis] = seen.low_2[axis] + reach[axis][0] * fit.half_extent
    return place


def best_frames(extents: list[Extent | None]) -> list[int]:
    """The frames in which the object is seen best: not cut by the border, then largest."""
    shown = [t for t, seen in enumerate(extents) if seen is not None]
    shown.sort(key=lambda t: (int(extents[t].cut.sum()), -extents[t].mass))  # type: ignore[union-attr]
    if not shown:
        return []
    cuts = [int(extents[t].cut.sum()) for t in shown]  # type: ignore[union-attr]
    whole = [t for t, cut in zip(shown, cuts, strict=True) if cut == cuts[0]]
    step = max(1, len(whole) // (2 * FRAMES))
    return whole[: FRAMES * step : step]


def fit_shape(mask_THW: np.ndarray, extents: list[Extent | None]) -> ShapeFit | None:
    """The shape and half extent that explain the mask best, over the best frames together."""
    frames = best_frames(extents)
    if not frames:
        return None
    windows = [_window(mask_THW[t], extents[t]) for t in frames]
    coarse = {
        (shape, ramp): _coarse(windows[0], shape, ramp) for shape in v.SHAPES for ramp in RAMPS
    }
    # A blurred candidate must be clearly better than a sharp one.
    ramp = min(coarse, key=lambda key: coarse[key][0] * (1.25 if key[1] > 1 else 1.0))[1]
    best: ShapeFit | None = None
    for shape in v.SHAPES:
        fits = [
            _fine(window, shape, ramp, coarse[shape, ramp] if k == 0 else None)
            for k, window in enumerate(windows)
        ]
        error = float(np.mean([error for error, _ in fits]))
        if best is None or error < best.error:
            best = ShapeFit(shape, float(np.median([e for _, e in fits])), error)
    return best


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a frame around an object: mask, its upper left corner (y, x), and the extent."""

    mask_HW: np.ndarray
    corner_2: np.ndarray
    seen: Extent


Candidate = tuple[float, float, np.ndarray]  # squared error, half extent, centre (y, x) in pixels


def _window(mask_HW: np.ndarray, seen: Extent | None) -> Window:
    assert seen is not None
    low = np.maximum(np.floor(seen.low_2).astype(int) - 4, 0)
    high = np.minimum(np.ceil(seen.high_2).astype(int) + 4, mask_HW.shape)
    return Window(_closed(mask_HW[low[0] : high[0], low[1] : high[1]]), low, seen)


def _closed(mask_HW: np.ndarray) -> np.ndarray:
    """Fills gaps up to two pixels wide: between an outline and its inside, colours cross the
    background's."""
    for pick in (np.max, np.min):
        padded = np.pad(mask_HW, 1, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        mask_HW = pick(views, axis=(2, 3))
    return mask_HW


def _coarse(window: Window, shape: str, ramp: float) -> Candidate:
    """The best candidate of one shape, from half extents around that of the mask's area."""
    start = v.half_extent(shape, window.seen.mass)
    cut = bool(window.seen.cut.any())
    extents = start * (np.geomspace(0.95, 1.7, 9) if cut else np.geomspace(0.8, 1.12, 5))
    return _search(window, shape, ramp, extents, SHIFTS, None)


def _fine(window: Window, shape: str, ramp: float, found: Candidate | None) -> tuple[float, float]:
    """Error, as a share of the mask, and half extent of the refined candidate."""
    _, e, place = found or _coarse(window, shape, ramp)
    around = e * np.array([0.95, 0.975, 1.0, 1.025, 1.05])
    error, e, _ = _search(window, shape, ramp, around, 0.4 * SHIFTS, place)
    return error / max(float(np.square(window.mask_HW).sum()), 1.0), e


def _search(
    window: Window,
    shape: str,
    ramp: float,
    extents: np.ndarray,
    shifts: np.ndarray,
    place: np.ndarray | None,
) -> Candidate:
    """Least squared error over half extents x shifts around a place (None: the expected centre)."""
    best = (np.inf, float(extents[0]), np.zeros(2))
    (height, width), corner = window.mask_HW.shape, window.corner_2
    rows = (np.arange(height) + corner[0] + 0.5)[None, :, None]
    columns = (np.arange(width) + corner[1] + 0.5)[None, None, :]
    for e in extents.tolist():
        middle = centre(window.seen, ShapeFit(shape, e, 0.0)) if place is None else place
        places = middle + shifts
        y = (rows - places[:, 0, None, None]).astype(np.float32)
        x = (columns - places[:, 1, None, None]).astype(np.float32)
        drawn = stretch(render.coverage(shape, y, x, e, ramp=ramp))
        errors = np.square(drawn - window.mask_HW).sum((1, 2))
        k = int(errors.argmin())
        if errors[k] < best[0]:
            best = (float(errors[k]), e, places[k])
    return best


def style_errors(
    pixels_HW3: np.ndarray, colour: str, fit: ShapeFit, place: np.ndarray
) -> np.ndarray:
    """Mean squared levels that each style, in vocabulary order, leaves inside one object."""
    height, width = pixels_HW3.shape[:2]
    e = fit.half_extent
    low = np.maximum(np.floor(place - 1.3 * e).astype(int), 0)
    high = np.minimum(np.ceil(place + 1.3 * e).astype(int), (height, width))
    y = (np.arange(low[0], high[0]) + 0.5 - place[0])[:, None].astype(np.float32)
    x = (np.arange(low[1], high[1]) + 0.5 - place[1])[None].astype(np.float32)
    weight = (render.coverage(fit.shape, y, x, e) > 0.98).astype(np.float32)
    part = pixels_HW3[low[0] : high[0], low[1] : high[1]]
    own = np.asarray(v.COLOURS[colour], np.float32)
    errors = []
    for style in v.STYLES:
        dark = np.asarray(render.companion(colour, style), np.float32)
        light = np.asarray(render.brightness(style, fit.shape, y, x, e), np.float32)
        expected = dark + np.broadcast_to(light, weight.shape)[..., None] * (own - dark)
        errors.append(float((weight * np.square(part - expected).sum(-1)).sum()))
    return np.array(errors) / max(float(weight.sum()), 1.0)
