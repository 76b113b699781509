"""Compares a reading with a truth, attribute by attribute, and says what guessing would score."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.motion import positions
from vidsim.worlds.shapes.parse import ObjectReading, Reading

OF_SCENE = ("background", "background_colour", "season", "style", "count", "relation")
OF_OBJECT = ("colour", "shape", "size", "direction", "speed", "bounce")


def compare(reading: Reading, truth: Mapping[str, Any]) -> dict[str, float]:
    """Correctness of each attribute that applies to the truth.

    Objects are matched in whichever way gets most attributes right, so their order is no matter.
    Of more read objects than true ones the largest count: else noise, in which many colours are
    read, would be right by having something of everything.
    Returns  0.0 or 1.0 for background (its pattern), background_colour (its tint), season, style,
             count and relation (two objects or more); the share of the true objects that are right
             for colour, shape, size, direction (videos), speed and bounce (moving objects); a
             missing object is wrong in all of them. position_error is the mean distance of matched
             centres over the frames in which they are seen, in short sides; absent when nothing
             matches.
    """
    wanted = truth["objects"]
    match = _match(reading.objects[: len(wanted)], truth)
    scores = {
        "background": float(reading.pattern == truth["background"]["pattern"]),
        "background_colour": float(reading.tint == truth["background"]["tint"]),
        "season": float(reading.season == truth["background"].get("season", v.SUMMER)),
        "style": float(reading.style == truth["style"]),
        "count": float(reading.count == len(wanted)),
    }
    if truth["relation"]:
        scores["relation"] = float(_relation(match[:2]) == truth["relation"])
    marks = [
        _marks(thing, one, truth) if one else {} for thing, one in zip(wanted, match, strict=True)
    ]
    for name in OF_OBJECT:
        asked = [k for k, thing in enumerate(wanted) if _applies(name, thing)]
        if asked:
            scores[name] = float(np.mean([marks[k].get(name, 0.0) for k in asked]))
    errors = [_distance(thing, one, truth) for thing, one in zip(wanted, match, strict=True) if one]
    errors = [error for error in errors if math.isfinite(error)]
    if errors:
        scores["position_error"] = float(np.mean(errors))
    return scores


def chance(truths: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """For each attribute, the share of these truths that the best constant answer gets right."""
    words: dict[str, Counter[Any]] = {name: Counter() for name in (*OF_SCENE, *OF_OBJECT)}
    for truth in truths:
        words["background"][truth["background"]["pattern"]] += 1
        words["background_colour"][truth["background"]["tint"]] += 1
        words["season"][truth["background"].get("season", v.SUMMER)] += 1
        words["style"][truth["style"]] += 1
        words["count"][len(truth["objects"])] += 1
        if truth["relation"]:
            words["relation"][truth["relation"]] += 1
        for thing in truth["objects"]:
            for name in OF_OBJECT:
                if _applies(name, thing):
                    words[name][thing[name]] += 1
    return {name: max(c.values()) / c.total() for name, c in words.items() if c}


def speed_word(speed: float, fps: float, short: int) -> str:
    """The speed word of `speed` pixels a frame at `fps` frames a second; short side in pixels."""
    sides = max(speed * fps / short, 1e-6)
    middles = {word: math.sqrt(low * high) for word, (low, high) in v.SPEEDS.items()}
    return min(middles, key=lambda word: abs(math.log(sides / middles[word])))


def _applies(name: str, thing: Mapping[str, Any]) -> bool:
    """Whether an attribute is asked of a true object."""
    if name == "direction":
        return thing["direction"] is not None
    return thing["speed"] is not None if name in ("speed", "bounce") else True


def _marks(
    thing: Mapping[str, Any], one: ObjectReading, truth: Mapping[str, Any]
) -> dict[str, float]:
    """Which attributes of a true object a read object has."""
    speed = speed_word(one.speed, truth["fps"], min(truth["height"], truth["width"]))
    return {
        "colour": float(one.colour == thing["colour"]),
        "shape": float(one.shape == thing["shape"]),
        "size": float(one.size == thing["size"]),
        "direction": float(one.direction == thing["direction"]),
        "speed": float(speed == thing["speed"]),
        "bounce": float(one.bounce == thing["bounce"]),
    }


def _match(
    objects: tuple[ObjectReading, ...], truth: Mapping[str, Any]
) -> tuple[ObjectReading | None, ...]:
    """One read object, or None, for each true object: the assignment with most right attributes.

    objects  largest first
    """
    wanted = truth["objects"]
    worth = {
        (k, m): sum(
            value for name, value in _marks(thing, one, truth).items() if _applies(name, thing)
        )
        + 0.5 / (1 + 10 * min(_distance(thing, one, truth), 1e3))
        for k, thing in enumerate(wanted)
        for m, one in enumerate(objects)
    }
    choices = [*range(len(objects)), *[-1] * len(wanted)]
    best = max(
        itertools.permutations(choices, len(wanted)),
        key=lambda picks: sum(worth.get((k, m), 0.0) for k, m in enumerate(picks)),
    )
    return tuple(objects[m] if m >= 0 else None for m in best)


def _distance(thing: Mapping[str, Any], one: ObjectReading, truth: Mapping[str, Any]) -> float:
    """Mean distance of the centres over the frames seen, in short sides; infinite when unseen."""
    frames = min(len(one.track_T2), truth["num_frames"])
    away = one.track_T2[:frames] - positions(thing, truth["num_frames"])[:frames]
    lengths = np.hypot(away[:, 0], away[:, 1])
    seen = np.isfinite(lengths)
    if not seen.any():
        return math.inf
    return float(lengths[seen].mean()) / min(truth["height"], truth["width"])


def _relation(pair: tuple[ObjectReading | None, ...]) -> str | None:
    """How the first read object lies to the second in the first frame that shows both."""
    first, second = pair
    if first is None or second is None:
        return None
    away = first.track_T2 - second.track_T2
    seen = np.flatnonzero(np.isfinite(away[:, 0]))
    if not len(seen):
        return None
    dy, dx = away[seen[0]]
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"
