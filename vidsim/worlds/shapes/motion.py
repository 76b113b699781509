"""How an object of the shapes world moves: its way through the frame, and where that starts."""

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from vidsim.worlds.shapes import vocabulary as v

CROSSING_SHARE = 0.15  # of the objects may reach over the frame's border
BOUNCING_SHARE = 0.3  # of the moving objects in clips of at least BOUNCE_FRAMES
BOUNCE_FRAMES = 9
# Of a clip, after which what goes there and back turns first: anywhere in its middle, or so that
# the way back is the middle third, as where a loop is closed.
TURN_AT = {v.BACK: (0.3, 0.7), v.THIRD: (0.3, 0.37)}
LONG_FRAMES = 33  # longest clip whose objects meet a wall once at most

Frame = tuple[int, int, int, float]  # height, width, frames, frames a second
Reach = tuple[float, float, float]  # above, below and to each side of the centre, pixels


def drawn_way(
    rng: random.Random,
    frame: Frame,
    reach: Reach,
    pins: Mapping[str, str],
    calm: bool,
    attempt: int,
) -> dict[str, Any] | None:
    """Start, velocity and walls; None when the drawn motion does not fit and may be drawn again."""
    if "turn" in pins:
        return _there_and_back(rng, frame, reach, pins)
    height, width, num_frames, fps = frame
    short = min(height, width)
    margin = 0.45 if rng.random() < CROSSING_SHARE else 1.0
    direction, speed, path = drawn_motion(rng, num_frames, pins, calm or attempt == 7)
    length = path * short / fps * (num_frames - 1)
    step_y, step_x = v.DIRECTIONS.get(direction or "", (0.0, 0.0))
    delta = (length * step_y, length * step_x)
    box = box_of(height, width, reach, margin)
    fits = abs(delta[0]) <= box[1] - box[0] and abs(delta[1]) <= box[3] - box[2]
    bounce = (
        num_frames >= BOUNCE_FRAMES
        and length >= 0.3 * short
        and (not fits or rng.random() < BOUNCING_SHARE)
    )
    wall = None
    if bounce:
        wall = box_of(height, width, reach, 1.0)
        rooms = (wall[1] - wall[0], wall[3] - wall[2])
        once = num_frames <= LONG_FRAMES  # longer ones may meet walls several times
        if attempt < 7 and once and any(abs(delta[a]) > 1.5 * rooms[a] for a in (0, 1)):
            return None
        start = _bouncing_start(rng, wall, delta, rooms)
    else:
        if not fits:
            if attempt < 7 and margin == 1.0:
                return None
            box = box_of(height, width, reach, 0.45)
        start = [
            linear_start(rng, box[0], box[1], delta[0]),
            linear_start(rng, box[2], box[3], delta[1]),
        ]
    frames = max(num_frames - 1, 1)
    return {
        "start": start,
        "velocity": [delta[0] / frames, delta[1] / frames],
        "wall": None if wall is None else list(wall),
        "direction": direction,
        "speed": speed,
        "bounce": bounce,
    }


def _there_and_back(
    rng: random.Random, frame: Frame, reach: Reach, pins: Mapping[str, str]
) -> dict[str, Any]:
    """A way that starts at one of its two ends and turns at both, wholly inside the frame. The
    first turn comes after TURN_AT of the clip, or sooner where the frame has no room for that. What
    is closed goes to and fro once or twice, or as often as it must for its room, starts anywhere on
    its way, and is in the last frame where it was in the first."""
    height, width, num_frames, fps = frame
    short = min(height, width)
    direction, speed, path = drawn_motion(rng, num_frames, pins, False)
    step = v.DIRECTIONS[direction or ""]
    length, box = path * short / fps * (num_frames - 1), box_of(height, width, reach, 1.0)
    room = min((box[2 * a + 1] - box[2 * a]) / abs(step[a]) for a in (0, 1) if step[a])
    closed = pins["turn"] == v.CLOSED
    if closed:
        far = length / (2 * max(rng.choice((1, 2)), math.ceil(length / (2 * room))))
    else:
        far = length * rng.uniform(*TURN_AT[pins["turn"]])
        far = far if far <= room else room * rng.uniform(0.6, 1.0)
    start = [linear_start(rng, box[2 * a], box[2 * a + 1], far * step[a]) for a in (0, 1)]
    wall = [0.0, float(height), 0.0, float(width)]
    for a in (0, 1):
        if step[a]:
            wall[2 * a : 2 * a + 2] = sorted((start[a], start[a] + far * step[a]))
    pace = length / (num_frames - 1)
    if closed:
        on, pace = rng.random() * far, pace * rng.choice((1, -1))
        start = [start[a] + on * step[a] for a in (0, 1)]
    return {
        "start": start, "velocity": [pace * step[0], pace * step[1]], "wall": wall,
        "direction": direction, "speed": speed, "bounce": True, "returns": True,
    }  # fmt: skip


def drawn_motion(
    rng: random.Random, num_frames: int, pins: Mapping[str, str], calm: bool
) -> tuple[str | None, str | None, float]:
    """Direction, speed word and short sides a second; an image has neither."""
    if num_frames == 1:
        return None, None, 0.0
    direction = pins.get("direction")
    if direction is None:
        moves = "speed" in pins or "turn" in pins or not (calm or rng.random() < v.STILL_SHARE)
        direction = v.pick(rng, tuple(v.DIRECTIONS)) if moves else v.STILL
    if direction == v.STILL:
        return direction, None, 0.0
    speed = pins.get("speed") or v.pick(rng, tuple(v.SPEEDS))
    return direction, speed, rng.uniform(*v.SPEEDS[speed])


Box = tuple[float, float, float, float]  # low y, high y, low x, high x of a centre, pixels


def box_of(height: int, width: int, reach: Reach, margin: float) -> Box:
    """Where the centre may be for at least `margin` of each reach to stay inside the frame."""
    up, down, side = reach
    return margin * up, height - margin * down, margin * side, width - margin * side


def linear_start(rng: random.Random, low: float, high: float, delta: float) -> float:
    """A start in [low, high] whose end, start + delta, is inside too, as far as that can be."""
    first, last = low - min(delta, 0.0), high - max(delta, 0.0)
    return rng.uniform(first, last) if first < last else (first + last) / 2


def _bouncing_start(
    rng: random.Random, wall: Box, delta: tuple[float, float], rooms: tuple[float, float]
) -> list[float]:
    """A start from which the object meets a wall at 40 to 65% of its path."""
    axis = 0 if abs(delta[0]) * rooms[1] > abs(delta[1]) * rooms[0] else 1
    start = [linear_start(rng, wall[2 * a], wall[2 * a + 1], delta[a]) for a in (0, 1)]
    before = rng.uniform(0.4, 0.65) * delta[axis]
    low, high = wall[2 * axis], wall[2 * axis + 1]
    start[axis] = (high if delta[axis] > 0 else low) - before
    return [min(max(start[a], wall[2 * a]), wall[2 * a + 1]) for a in (0, 1)]


def positions(thing: Mapping[str, Any], num_frames: int) -> np.ndarray:
    """float64 [T, 2]: centre of area (y, x) of an object in each frame, in pixels."""
    steps = np.arange(num_frames)[:, None]
    free = np.asarray(thing["start"]) + steps * np.asarray(thing["velocity"])
    if thing["wall"] is None:
        return free
    low_y, high_y, low_x, high_x = thing["wall"]
    low, high = np.array([low_y, low_x]), np.array([high_y, high_x])
    return high - np.abs((free - low) % (2 * (high - low)) - (high - low))


def at(thing: Mapping[str, Any], step: float) -> tuple[float, float]:
    """`positions` at one moment, without arrays."""
    (y, x), (dy, dx), wall = thing["start"], thing["velocity"], thing["wall"]
    y, x = y + step * dy, x + step * dx
    if wall is None:
        return y, x
    room_y, room_x = wall[1] - wall[0], wall[3] - wall[2]
    return (
        wall[1] - abs((y - wall[0]) % (2 * room_y) - room_y),
        wall[3] - abs((x - wall[2]) % (2 * room_x) - room_x),
    )
