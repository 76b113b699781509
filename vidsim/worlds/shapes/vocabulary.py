"""The words of the shapes world: what can be drawn, in which colours, at which sizes.

Object colours are saturated or extreme in brightness; background tints are dull and of middle
brightness, and no word names both, so neither a reader of pixels nor a reader of captions can take
one for the other.
"""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

from vidsim.core.host_random import stable_hash

# Object colours, RGB 0-255. Hues are at least 30 degrees apart; white and black are extremes.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 22, 34),
    "orange": (250, 118, 10),
    "yellow": (252, 232, 30),
    "green": (10, 168, 52),
    "cyan": (0, 214, 226),
    "blue": (28, 66, 236),
    "purple": (126, 28, 192),
    "pink": (255, 92, 186),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}

# Background tints, RGB 0-255, the middle tone; patterns alternate around it by CONTRAST.
TINTS: dict[str, tuple[int, int, int]] = {
    "gray": (128, 128, 128),
    "sand": (178, 154, 106),
    "slate": (84, 114, 154),
    "moss": (98, 134, 84),
    "mauve": (150, 102, 146),
    "clay": (164, 106, 86),
}
CONTRAST = 0.2

# In winter the background lies under frost, half its own tint; nothing white is drawn on it.
SUMMER, WINTER = SEASONS = ("summer", "winter")
FROST, FROST_SHARE = (226, 236, 250), 0.5
LOST_IN_FROST = ("white",)

PATTERNS = (
    "plain", "gradient", "spotlight", "stripes", "columns", "diagonals", "checker", "dots", "grid",
)  # fmt: skip
PERIODIC = PATTERNS[3:]

# Half extent e of a shape is half its width, in pixels; AREA[shape] * e^2 is its area.
STAR_INNER = 0.46  # inner over outer radius
CROSS_ARM = 0.36  # half the arm's width over the half extent
RING_HOLE = 0.5  # inner over outer radius
_STAR = 5 * STAR_INNER * math.sin(math.pi / 5)  # area over the outer radius squared
_STAR_WIDE = math.sin(2 * math.pi / 5)  # half width over the outer radius
AREA: dict[str, float] = {
    "circle": math.pi,
    "square": 4.0,
    "triangle": math.sqrt(3),
    "diamond": 2.0,
    "star": _STAR / _STAR_WIDE**2,
    "cross": 4 * (2 * CROSS_ARM - CROSS_ARM**2),
    "ring": math.pi * (1 - RING_HOLE**2),
}
SHAPES = tuple(AREA)
# Reach above and below the centre of area over the half extent; left and right reach is 1.
UP: dict[str, float] = dict.fromkeys(SHAPES, 1.0)
DOWN: dict[str, float] = dict.fromkeys(SHAPES, 1.0)
UP["triangle"], DOWN["triangle"] = 2 / math.sqrt(3), 1 / math.sqrt(3)
UP["star"], DOWN["star"] = 1 / _STAR_WIDE, math.cos(math.pi / 5) / _STAR_WIDE

STYLES = ("flat", "outlined", "shaded", "banded")

# Share of the frame's area that one object covers when it is wholly inside.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.040, 0.052),
    "medium": (0.070, 0.088),
    "large": (0.116, 0.136),
}

# An object seen close up, in images and short clips: half extent over the frame's short side, whole
# in view, large ones more often: where the frame hardly leaves a choice of place, the shape shows
# most. A moving one is as large as its path leaves room for.
CLOSE = "huge"
CLOSE_EXTENT = (0.2, 0.46)
CLOSE_FRAMES = 9

# Unit steps (y, x), y down.
_D = math.sqrt(0.5)
DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (0.0, 1.0),
    "down-right": (_D, _D),
    "down": (1.0, 0.0),
    "down-left": (_D, -_D),
    "left": (0.0, -1.0),
    "up-left": (-_D, -_D),
    "up": (-1.0, 0.0),
    "up-right": (-_D, _D),
}
STILL = "still"
BACK, THIRD, CLOSED = TURNS = ("back", "third", "closed")  # there and back inside the frame
STILL_SHARE = 0.2  # of the objects in videos

# Short sides of the frame a second.
SPEEDS: dict[str, tuple[float, float]] = {"slow": (0.18, 0.26), "fast": (0.48, 0.64)}

RELATIONS = ("left of", "right of", "above", "below")

# Frame sizes (height, width) in pixels: square, wide, tall.
FRAME_SIZES: tuple[tuple[int, int], ...] = (
    (48, 48), (48, 80), (80, 48), (48, 96), (64, 64), (64, 96), (96, 64), (64, 112), (112, 64),
    (96, 96), (96, 144), (128, 128),
)  # fmt: skip
# Frames of a clip -> frame rates it may have. An image has no rate; 1 stands in.
FRAME_RATES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    5: (8.0, 12.0),
    9: (8.0, 12.0, 16.0),
    17: (8.0, 12.0, 16.0, 24.0),
    25: (8.0, 12.0),
    33: (12.0, 16.0, 24.0),
    65: (16.0, 24.0),
    129: (16.0, 24.0),
}

# mix -> ({size: weight}, {frames: weight}): how often a world draws each.
_SMALL = {size: 1.0 for size in FRAME_SIZES if min(size) <= 64}
MIXES: dict[str, tuple[dict[tuple[int, int], float], dict[int, float]]] = {
    "mixed": (
        {size: 4096 / (size[0] * size[1]) for size in FRAME_SIZES},
        {1: 0.30, 5: 0.20, 9: 0.25, 17: 0.15, 33: 0.10},
    ),
    "small": (_SMALL, {1: 0.35, 5: 0.30, 9: 0.35}),
    "images": ({size: 1.0 for size in FRAME_SIZES}, {1: 1.0}),
}

HELD_OUT_SHARE = 0.2


@functools.cache
def held_out(colour: str, shape: str, pattern: str) -> bool:
    """Whether the combination is kept for evaluation; the same in every world of any seed."""
    return stable_hash("shapes held out", colour, shape, pattern) < HELD_OUT_SHARE * 2**64


@functools.cache
def ground_colour(tint: str, season: str = SUMMER) -> tuple[float, float, float]:
    """RGB 0-255 of a background's middle tone."""
    share = FROST_SHARE if season == WINTER else 0.0
    red, green, blue = (
        (1 - share) * own + share * frost for own, frost in zip(TINTS[tint], FROST, strict=True)
    )
    return red, green, blue


def pick(rng: random.Random, words: Sequence[Any]) -> Any:
    """One of the words, evenly; `random()` alone is the same in every Python version."""
    return words[int(rng.random() * len(words))]


def half_extent(shape: str, area_px: float) -> float:
    """Half the width in pixels of a shape that covers `area_px` pixels."""
    return math.sqrt(area_px / AREA[shape])
