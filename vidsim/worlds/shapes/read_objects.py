"""Finds the objects of a clip by colour: which colours are there, where, and how much of them.

Every pixel off the background is compared with mixtures a * s * colour + (1 - a) * background of
each object colour, where s runs over the brightness that styles give a colour and a over how far
blur or a thin stroke may have mixed it with what lies behind.
"""

import dataclasses
import functools

import numpy as np

from vidsim.worlds.shapes import render
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.read_background import Background, tint_distance

FRAMES = 6  # in which colours are counted, evenly spaced
OFF_GROUND = 30.0  # levels from the background at which a pixel may belong to an object
NEAR_COLOUR = 48.0  # levels from a mixture at which a pixel counts for a colour
MIX_COST = 34.0  # levels added for a fully mixed pixel, so that pure colours win ties
FAR = 1e4
RIVAL = 20.0  # levels by which a further colour must beat those found; above any MIX_COST paid
FAINT, FULL = 0.12, 0.5  # of the way from the background to the colour: not there, all there
LONELY = 0.1  # share of sure pixels around a pixel, below which it is noise
PART_LEVEL = 0.3  # mask value above which pixels join into pieces
MIXES = (1.0, 0.8, 0.62, 0.46)
LEAST_AREA = 0.011  # of the frame, below which a colour is no object


@dataclasses.dataclass(frozen=True)
class Blob:
    """One colour's pixels. mask_THW: float32 in [0, 1], the stretched share of each pixel.

    parts  separate pieces of object size in a typical frame; more than 1 only in generated clips
    """

    colour: str
    mask_THW: np.ndarray
    parts: int


def read_blobs(video_THW3: np.ndarray, ground: Background) -> list[Blob]:
    """The objects of a float32 video (levels 0-255), largest first."""
    off_THW = off_ground(video_THW3, ground)
    picks = np.unique(np.linspace(0, len(video_THW3) - 1, FRAMES).round().astype(int))
    names = _colours(video_THW3[picks], off_THW[picks], ground)
    return _masks(video_THW3, off_THW, ground, names)


def stretch(share: np.ndarray) -> np.ndarray:
    """The part of [0, 1] between FAINT and FULL, stretched to [0, 1].

    Noise below counts as nothing; the darker tones that styles give an object count as all of it.
    """
    return np.clip((share - FAINT) / (FULL - FAINT), 0, 1)


def off_ground(video_THW3: np.ndarray, ground: Background) -> np.ndarray:
    """float32 [T,H,W]: levels between each pixel and the background.

    The distance to the fitted model where the model fits; where the background is irregular (a
    generated clip), the distance to any tone of the tint.
    """
    model = np.sqrt(np.square(video_THW3 - ground.model_HW3).sum(-1))
    tone = tint_distance(video_THW3, ground.tint, ground.season)
    misfit = float(np.median(model))
    trust = np.clip((26 - misfit) / 8, 0, 1)
    return (tone + trust * (model - tone)).astype(np.float32)


@functools.cache
def _mixtures(ground_3: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels [V,3] of every mixture, the index [V] of its colour, and its cost [V]."""
    levels, owners, costs = [], [], []
    for k, (name, own) in enumerate(v.COLOURS.items()):
        shades = [np.asarray(own, float)]
        for style in ("shaded", "outlined"):
            dark = np.asarray(render.companion(name, style))
            shades += [dark, (dark + shades[0]) / 2]
        for shade in shades:
            for mix in MIXES:
                levels.append(mix * shade + (1 - mix) * np.asarray(ground_3, float))
                owners.append(k)
                costs.append(MIX_COST * (1 - mix))
    return np.array(levels, np.float32), np.array(owners), np.array(costs, np.float32)


def _distances(pixels_P3: np.ndarray, ground: Background) -> np.ndarray:
    """float32 [P, colours]: levels between each pixel and the nearest mixture of each colour."""
    mean = ground.model_HW3.mean((0, 1))
    key = tuple(int(8 * round(float(level) / 8)) for level in mean)
    levels, owners, costs = _mixtures(key)  # type: ignore[arg-type]
    square = (
        np.square(pixels_P3).sum(1)[:, None]
        - 2 * pixels_P3 @ levels.T
        + np.square(levels).sum(1)[None]
    )
    square = np.maximum(square, 0) + np.square(costs)
    starts = np.flatnonzero(np.r_[True, np.diff(owners) != 0])
    return np.sqrt(np.minimum.reduceat(square, starts, axis=1))


def _colours(frames: np.ndarray, off_FHW: np.ndarray, ground: Background) -> list[str]:
    """The colours that cover enough of the frames, most first; at most six.

    A pixel that a colour already found explains almost as well (a mixture at its rim) counts for
    no other.
    """
    inside = off_FHW > OFF_GROUND
    distance = np.full((*off_FHW.shape, len(v.COLOURS)), FAR, np.float32)
    distance[inside] = _distances(frames[inside], ground)
    nearest = distance.argmin(-1)
    # Background of another tone than the model's (an irregular pattern) is no dark object.
    tone = tint_distance(frames, ground.tint, ground.season)
    near = distance.min(-1) < np.minimum(NEAR_COLOUR, np.minimum(off_FHW, tone))
    areas = [_area(near & (nearest == k)) for k in range(len(v.COLOURS))]
    found: list[int] = []
    for k in sorted(range(len(areas)), key=lambda k: -areas[k]):
        mine = near & (nearest == k)
        if found:
            mine &= distance[..., found].min(-1) - distance[..., k] > RIVAL
        if areas[k] > LEAST_AREA and _area(mine) > LEAST_AREA:
            found.append(k)
    if not found and max(areas) > LEAST_AREA / 3:
        found = [int(np.argmax(areas))]
    return [list(v.COLOURS)[k] for k in found[:6]]


def _area(mask_FHW: np.ndarray) -> float:
    """Share of the frame that the solid part of a mask covers in a typical frame."""
    solid = _solid(mask_FHW)
    return float(np.quantile(solid.sum((1, 2)), 0.6)) / solid[0].size


def _mean_7x7(mask_THW: np.ndarray) -> np.ndarray:
    """The mean of a mask over the 7x7 pixels around each pixel."""
    for axis in (1, 2):
        edges = [(0, 0)] * 3
        edges[axis] = (4, 3)
        sums = np.cumsum(np.pad(mask_THW, edges), axis=axis, dtype=np.float32)
        side = mask_THW.shape[axis]
        last, first = (np.take(sums, range(k, k + side), axis) for k in (7, 0))
        mask_THW = (last - first) / 7
    return mask_THW


def _solid(mask_FHW: np.ndarray) -> np.ndarray:
    """Pixels of a mask with three or four of their neighbours in it; borders count as inside."""
    padded = np.pad(mask_FHW, ((0, 0), (1, 1), (1, 1)), mode="edge").astype(np.int8)
    near = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return mask_FHW & (near >= 3)


def _masks(
    video_THW3: np.ndarray, off_THW: np.ndarray, ground: Background, names: list[str]
) -> list[Blob]:
    """Shares the pixels off the background out among the colours.

    A pixel counts only where pixels that clearly show the colour are around it: the rest is noise,
    or a background that its model does not fit.
    """
    if not names:
        return []
    index = [list(v.COLOURS).index(name) for name in names]
    inside = off_THW > 0.75 * OFF_GROUND
    pixels = video_THW3[inside]
    distance = _distances(pixels, ground)[:, index]
    tone = tint_distance(pixels, ground.tint, ground.season)
    limit = np.minimum(np.minimum(off_THW[inside], tone), NEAR_COLOUR)
    owner_THW, sure_THW = np.full(off_THW.shape, -1, np.int8), np.zeros(off_THW.shape, bool)
    owner_THW[inside], sure_THW[inside] = distance.argmin(1), distance.min(1) < limit
    mean = ground.model_HW3.mean((0, 1))
    blobs = []
    for k, name in enumerate(names):
        full = float(np.linalg.norm(np.asarray(v.COLOURS[name]) - mean))
        mine = owner_THW == k
        mask = np.where(mine, stretch(off_THW / full), 0).astype(np.float32)
        mask *= _mean_7x7(mine & sure_THW) > LONELY
        frames = mask[[0, len(mask) // 2, -1]] > PART_LEVEL
        parts = sorted(count_parts(frame, LEAST_AREA * frame.size) for frame in frames)[1]
        blobs.append(Blob(name, mask, max(1, parts)))
    return blobs


def count_parts(mask_HW: np.ndarray, least_px: float) -> int:
    """Pieces of a mask, joined along edges and corners, that have at least `least_px` pixels."""
    parent: list[int] = []
    area: list[int] = []
    above: list[tuple[int, int, int]] = []  # first column, one past the last, piece

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for row in mask_HW:
        steps = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        runs = []
        for first, end in zip(steps[::2], steps[1::2], strict=True):
            mine = len(parent)
            parent.append(mine)
            area.append(end - first)
            for other_first, other_end, piece in above:
                other = root(piece)
                if other_first <= end and first <= other_end and other != root(mine):
                    area[root(mine)] += area[other]
                    parent[other] = root(mine)
            runs.append((first, end, mine))
        above = runs
    return sum(parent[k] == k and area[k] >= least_px for k in range(len(parent)))
