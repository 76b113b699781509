"""Reads an object's motion from its track: direction, speed, and whether it turned round."""

import dataclasses
import math

import numpy as np

from vidsim.worlds.shapes import vocabulary as v

STILL_BELOW = 0.03  # short sides of the whole path, below which an object stands still
TURN_GAIN = 0.25  # a turn must leave less than this share of the straight line's error
TURN_LEAST = 0.05  # short sides travelled after the turn


@dataclasses.dataclass(frozen=True)
class Motion:
    """direction: word or None (image, unseen). speed: pixels a frame. bounce: turned round."""

    direction: str | None
    speed: float
    bounce: bool


def read_motion(track_T2: np.ndarray, short: int) -> Motion:
    """Fits each axis of a track (y, x pixels; NaN where unseen) with a line that may turn once.

    short  short side of the frame, pixels
    """
    seen = np.flatnonzero(np.isfinite(track_T2[:, 0]))
    if len(track_T2) == 1 or len(seen) < 2:
        return Motion(None if len(track_T2) == 1 else v.STILL, 0.0, False)
    steps, places = seen.astype(float), track_T2[seen]
    slopes, turns = zip(*(_axis(steps, places[:, a], short) for a in (0, 1)), strict=True)
    speed = math.hypot(*slopes)
    if speed * (steps[-1] - steps[0]) < STILL_BELOW * short:
        return Motion(v.STILL, 0.0, False)
    unit = np.array(slopes) / speed
    words = list(v.DIRECTIONS)
    nearest = int(np.argmax([unit @ np.array(v.DIRECTIONS[word]) for word in words]))
    return Motion(words[nearest], speed, any(turns))


def _axis(steps: np.ndarray, places: np.ndarray, short: int) -> tuple[float, bool]:
    """First slope (pixels a frame) of one axis, and whether it turns."""
    slope, error = _line(steps, places)
    least = (error, slope, False)
    for turn in np.arange(steps[0] + 1, steps[-1] - 0.5, 0.5):
        folded = np.minimum(steps, turn) - np.maximum(steps - turn, 0)
        slope, error = _line(folded, places)
        after = abs(slope) * (steps[-1] - turn)
        if error < least[0] and after > TURN_LEAST * short:
            least = (error, slope, True)
    straight = _line(steps, places)[1]
    noise = len(steps) * 0.15**2  # pixels: below this both fits are perfect
    if least[2] and least[0] < TURN_GAIN * straight and straight > 4 * noise:
        return least[1], True
    return _line(steps, places)[0], False


def _line(steps: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """Slope and summed squared error of the best line."""
    centred, away = steps - steps.mean(), places - places.mean()
    power = float(centred @ centred)
    slope = float(centred @ away) / power if power > 0 else 0.0
    return slope, float(np.square(away - slope * centred).sum())
