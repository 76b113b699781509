"""Reads the attributes back out of a clip, rendered or generated, without access to its truth."""

import dataclasses
import math

import numpy as np

from vidsim.core.errors import bad
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.read_background import read_background
from vidsim.worlds.shapes.read_motion import Motion, read_motion
from vidsim.worlds.shapes.read_objects import Blob, read_blobs
from vidsim.worlds.shapes.read_shape import best_frames, centre, extent, fit_shape, style_errors


@dataclasses.dataclass(frozen=True)
class ObjectReading:
    """One object.

    colour, shape, size, direction  words; direction is None in an image
    area         share of the frame, had the object been wholly inside
    track_T2     centre of area (y, x) in pixels in each frame, NaN where it is not seen
    speed        pixels a frame; bounce: whether it turned round
    """

    colour: str
    shape: str
    size: str
    area: float
    track_T2: np.ndarray
    direction: str | None
    speed: float
    bounce: bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a clip shows. count may exceed len(objects): parts of one colour are one entry."""

    num_frames: int
    height: int
    width: int
    pattern: str
    tint: str
    season: str
    style: str
    count: int
    objects: tuple[ObjectReading, ...]


def parse(video_THWC: np.ndarray) -> Reading:
    """Reads a uint8 RGB video [T,H,W,3]. Never fails on pictures that show nothing known.

    Raises  BadInput when it is not such an array
    """
    if video_THWC.dtype != np.uint8 or video_THWC.ndim != 4 or video_THWC.shape[3] != 3:
        raise bad("parse", f"{video_THWC.dtype} {video_THWC.shape}", "uint8 [T,H,W,3]")
    num_frames, height, width = video_THWC.shape[:3]
    video = video_THWC.astype(np.float32)
    ground = read_background(video)
    objects, count, errors = [], 0, np.zeros(len(v.STYLES))
    for blob in read_blobs(video, ground):
        thing, error = _object(video, blob)
        if thing is not None:
            objects.append(thing)
            count += blob.parts
            errors += error
    return Reading(
        num_frames,
        height,
        width,
        ground.pattern,
        ground.tint,
        ground.season,
        v.STYLES[int(errors.argmin())],
        count,
        tuple(objects),
    )


def _object(video: np.ndarray, blob: Blob) -> tuple[ObjectReading | None, np.ndarray]:
    """One colour's object, and the error of each style on it."""
    height, width = video.shape[1:3]
    extents = [extent(mask) for mask in blob.mask_THW]
    fit = fit_shape(blob.mask_THW, extents)
    if fit is None:
        return None, np.zeros(len(v.STYLES))
    largest = max(seen.mass for seen in extents if seen is not None)
    track = np.full((len(extents), 2), np.nan)
    for t, seen in enumerate(extents):
        if seen is not None and seen.mass > 0.2 * largest:
            track[t] = centre(seen, fit)
    motion: Motion = read_motion(track, min(height, width))
    seen_in = [t for t in best_frames(extents) if np.isfinite(track[t]).all()]
    styles = [style_errors(video[t], blob.colour, fit, track[t]) for t in seen_in]
    errors = np.mean(styles, axis=0) if styles else np.zeros(len(v.STYLES))
    area = v.AREA[fit.shape] * fit.half_extent**2 / (height * width)
    thing = ObjectReading(
        blob.colour, fit.shape, size_word(area), area, track, *dataclasses.astuple(motion)
    )
    return thing, errors


def size_word(area: float) -> str:
    """The size whose range of areas (shares of the frame) is nearest in ratio."""
    middles = {word: math.sqrt(low * high) for word, (low, high) in v.SIZES.items()}
    return min(middles, key=lambda word: abs(math.log(max(area, 1e-6) / middles[word])))
