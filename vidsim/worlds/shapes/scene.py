"""Draws the ground truth of a clip from its number: what is in the frame and how it moves.

A truth is a plain dict of JSON values:
    world, height, width, num_frames, fps, style, relation (of the first two objects, or None)
    background: pattern, tint, period (pixels), phase [y, x] (pixels), season (only winter)
    objects, drawn in order, each: shape, colour, size (word), half_extent (pixels),
        start [y, x] (pixels, centre of area in frame 0), velocity [y, x] (pixels a frame),
        wall [low y, high y, low x, high x] (pixels, between which the centre is reflected) or None,
        direction, speed, bounce, crosses (the border, in some frame),
        returns (only where the object turns inside the frame, at both ends of its way)
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from vidsim.core.errors import bad, nearest
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.motion import (
    BOUNCE_FRAMES,
    Frame,
    at,
    box_of,
    drawn_motion,
    drawn_way,
    linear_start,
)

PERIODS = (16, 24, 32)  # of backgrounds, pixels; the longest only in frames of 96 and more
MOMENTS = (0.0, 1.0, 0.5, 0.25, 0.75)  # of a clip, at which objects are kept apart
TRIES = 24  # placements tried for an object
RESTARTS = 20  # of a scene in which one found no room

# name of an attribute that a caller may pin -> the words it takes
PINS: dict[str, Sequence[str]] = {
    "pattern": v.PATTERNS, "tint": tuple(v.TINTS), "style": v.STYLES, "shape": v.SHAPES,
    "colour": tuple(v.COLOURS), "size": tuple(v.SIZES), "direction": (*v.DIRECTIONS, v.STILL),
    "speed": tuple(v.SPEEDS), "turn": v.TURNS, "season": v.SEASONS,
}  # fmt: skip


def draw_scene(
    rng: random.Random,
    *,
    height: int,
    width: int,
    num_frames: int,
    fps: float,
    count: int,
    split: str,
    fixed: Mapping[str, str],
    anchored: bool = False,
    close: bool = False,
) -> dict[str, Any]:
    """Draws one scene.

    height, width, num_frames, fps  of the clip (pixels, frames, frames a second)
    count   number of objects
    split   every object's (colour, shape, pattern) is in this part of the combinations
    fixed   pinned attributes of the scene and of its first object; pins beat the split
    anchored  periodic backgrounds start at the frame's corner, with the shortest period
    close     the one object, of an image or a clip of few frames, fills most of the frame
    Returns the truth (see the module)
    Raises  BadInput for an unknown pin or word, or a turn in what is too short or still
    """
    check_pins(fixed)
    if "turn" in fixed and (num_frames < BOUNCE_FRAMES or fixed.get("direction") == v.STILL):
        raise bad("scene", f"a turn, {num_frames} frames, direction {fixed.get('direction')}",
                  f"at least {BOUNCE_FRAMES} frames and something that moves")  # fmt: skip
    # What there is comes before where it is, so that one stream gives the same looks at every size.
    if fixed.get("season") == v.WINTER and fixed.get("colour") in v.LOST_IN_FROST:
        raise bad("scene", f"{fixed['colour']} in winter", "another colour, or summer")
    background = _background(rng, min(height, width), fixed)
    if anchored:
        background |= {"period": PERIODS[0], "phase": [0, 0]}
    style = fixed.get("style") or v.pick(rng, v.STYLES)
    looks = _looks(rng, count, background["pattern"], split, fixed)
    frame = (height, width, num_frames, fps)
    if close:
        objects, relation = [_close_up(rng, frame, looks[0], fixed)], None
    else:
        objects, relation = _place(rng, frame, looks, fixed)
    return {
        "world": "shapes",
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "fps": fps,
        "style": style,
        "background": background,
        "objects": objects,
        "relation": relation,
    }


def check_pins(fixed: Mapping[str, str]) -> None:
    """Refuses an unknown attribute or word."""
    for name, word in fixed.items():
        if name not in PINS:
            raise bad("scene", f"unknown attribute {name!r}", nearest(name, PINS))
        if word not in PINS[name]:
            raise bad("scene", f"unknown {name} {word!r}", nearest(word, PINS[name]))


def _looks(
    rng: random.Random, count: int, pattern: str, split: str, fixed: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Colour and shape of each object: distinct colours, all combinations inside the split."""
    looks: list[tuple[str, str]] = []
    lost = v.LOST_IN_FROST if fixed.get("season") == v.WINTER else ()
    colours, shapes = tuple(word for word in v.COLOURS if word not in lost), v.SHAPES
    while len(looks) < count:
        pins = fixed if not looks else {}
        colour = pins.get("colour") or v.pick(rng, colours)
        shape = pins.get("shape") or v.pick(rng, shapes)
        free = split == "all" or v.held_out(colour, shape, pattern) == (split == "heldout")
        pinned = "colour" in pins and "shape" in pins
        allowed = free or pinned or _hopeless(pins, pattern, split)
        if allowed and all(colour != other for other, _ in looks):
            looks.append((colour, shape))
    return looks


def _hopeless(pins: Mapping[str, str], pattern: str, split: str) -> bool:
    """Whether no combination with these pins lies in the split (then the pin wins)."""
    if split == "all" or not ("colour" in pins or "shape" in pins):
        return False
    colours = (pins["colour"],) if "colour" in pins else tuple(v.COLOURS)
    shapes = (pins["shape"],) if "shape" in pins else v.SHAPES
    wanted = split == "heldout"
    return all(v.held_out(c, s, pattern) != wanted for c in colours for s in shapes)


def _background(rng: random.Random, short: int, fixed: Mapping[str, str]) -> dict[str, Any]:
    period = v.pick(rng, PERIODS[:2] if short < 96 else PERIODS)
    season = {"season": v.WINTER} if fixed.get("season") == v.WINTER else {}
    return season | {
        "pattern": fixed.get("pattern") or v.pick(rng, v.PATTERNS),
        "tint": fixed.get("tint") or v.pick(rng, tuple(v.TINTS)),
        "period": period,
        "phase": [int(rng.random() * period), int(rng.random() * period)],
    }


def _place(
    rng: random.Random,
    frame: Frame,
    looks: Sequence[tuple[str, str]],
    fixed: Mapping[str, str],
) -> tuple[list[dict[str, Any]], str | None]:
    """Sizes, places and moves the objects so that none hides another and the relation is clear."""
    for _ in range(RESTARTS):
        objects, clear = _arrange(rng, frame, looks, fixed)
        if clear:
            break
    for thing in objects:
        thing["crosses"] = _crosses(thing, frame)
    relation = None
    if len(objects) > 1:
        relation = _relation(objects[0], objects[1], min(frame[:2]))
    return objects, relation


def _arrange(
    rng: random.Random,
    frame: Frame,
    looks: Sequence[tuple[str, str]],
    fixed: Mapping[str, str],
) -> tuple[list[dict[str, Any]], bool]:
    """The objects, placed one after the other, and whether each of them found room."""
    objects: list[dict[str, Any]] = []
    everything = True
    for k, look in enumerate(looks):
        pins = fixed if k == 0 else {}
        for attempt in range(TRIES):
            # Later tries ask for less: a small object, then one that is still.
            small, calm = attempt >= TRIES // 3, attempt >= 2 * TRIES // 3
            thing = _object(rng, frame, look, len(looks), pins, small, calm)
            clear = k != 1 or _relation(objects[0], thing, min(frame[:2])) is not None
            clear = clear and all(_apart(thing, other, frame[2]) for other in objects)
            if clear:
                break
        objects.append(thing)
        everything = everything and clear
    return objects, everything


def _close_up(
    rng: random.Random, frame: Frame, look: tuple[str, str], fixed: Mapping[str, str]
) -> dict[str, Any]:
    """One large object, whole in view all the time; in a clip it moves or is still, or moves as
    pinned: in a direction, at a speed."""
    height, width, num_frames, fps = frame
    pins = {name: fixed[name] for name in ("speed", "direction") if name in fixed}
    tries = 64 if pins else 8  # a pinned motion leaves no standing still at last
    colour, shape = look
    low, high = (share * min(height, width) for share in v.CLOSE_EXTENT)
    for attempt in range(tries):
        direction, speed, path = drawn_motion(rng, num_frames, pins, attempt == 7)
        length = path * min(height, width) / fps * (num_frames - 1)
        step_y, step_x = v.DIRECTIONS.get(direction or "", (0.0, 0.0))
        dy, dx = length * step_y, length * step_x
        largest = min((height - abs(dy)) / (v.UP[shape] + v.DOWN[shape]), (width - abs(dx)) / 2)
        if largest >= low:
            break
    extent = low + (min(high, largest) - low) * math.sqrt(rng.random())
    box = box_of(height, width, (v.UP[shape] * extent, v.DOWN[shape] * extent, extent), 1.0)
    frames = max(num_frames - 1, 1)
    return {
        "shape": shape, "colour": colour, "size": v.CLOSE, "half_extent": extent,
        "start": [linear_start(rng, *box[:2], dy), linear_start(rng, *box[2:], dx)],
        "velocity": [dy / frames, dx / frames], "wall": None, "direction": direction,
        "speed": speed, "bounce": False, "crosses": False,
    }  # fmt: skip


def _object(
    rng: random.Random,
    frame: Frame,
    look: tuple[str, str],
    count: int,
    pins: Mapping[str, str],
    small: bool,
    calm: bool,
) -> dict[str, Any]:
    """One object: its size, where it starts and how it moves."""
    height, width, num_frames, fps = frame
    colour, shape = look
    words = ("small",) if small else ("small", "medium", "large")[: 3 if count < 3 else 2]
    for attempt in range(8):
        size = pins.get("size") or (v.pick(rng, words) if attempt < 7 else "small")
        extent = v.half_extent(shape, rng.uniform(*v.SIZES[size]) * height * width)
        reach = (v.UP[shape] * extent, v.DOWN[shape] * extent, extent)
        motion = drawn_way(rng, frame, reach, pins, calm, attempt)
        if motion is not None:
            break
    assert motion is not None, "the last attempt accepts any motion"
    return {
        "shape": shape,
        "colour": colour,
        "size": size,
        "half_extent": extent,
        **motion,
    }


def _crosses(thing: Mapping[str, Any], frame: Frame) -> bool:
    """Whether part of the object lies outside the frame at the start or the end (walls: never)."""
    if thing["bounce"]:
        return False
    e, shape = thing["half_extent"], thing["shape"]
    reach = (v.UP[shape] * e, v.DOWN[shape] * e, e)
    low_y, high_y, low_x, high_x = box_of(frame[0], frame[1], reach, 1.0)
    for step in (0, frame[2] - 1):
        y, x = at(thing, step)
        if not (low_y - 1e-6 <= y <= high_y + 1e-6 and low_x - 1e-6 <= x <= high_x + 1e-6):
            return True
    return False


def _apart(thing: Mapping[str, Any], other: Mapping[str, Any], num_frames: int) -> bool:
    """Whether two objects overlap by less than a fifth at each of MOMENTS."""
    room = (0.8 * (thing["half_extent"] + other["half_extent"])) ** 2
    moments = MOMENTS if thing["speed"] or other["speed"] else MOMENTS[:1]
    for part in moments:
        step = part * (num_frames - 1)
        (y, x), (other_y, other_x) = at(thing, step), at(other, step)
        if (y - other_y) ** 2 + (x - other_x) ** 2 < room:
            return False
    return True


def _relation(first: Mapping[str, Any], second: Mapping[str, Any], short: int) -> str | None:
    """How the first object lies to the second in frame 0; None when neither axis clearly leads."""
    dy, dx = (first["start"][a] - second["start"][a] for a in (0, 1))
    if abs(abs(dx) - abs(dy)) < 0.08 * short:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"
