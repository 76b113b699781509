"""Puts a ground truth into words: one short and one descriptive caption, wording varied.

Short names colour, shape, motion, background and winter. Descriptive names every attribute. A
request says what an edit would ask for to get there: what stays, and one thing to change.
"""

import random
from collections.abc import Mapping
from typing import Any

from vidsim.core.errors import bad, nearest
from vidsim.worlds.base import Caption
from vidsim.worlds.shapes import vocabulary as v

# A background's words: {tint} and pattern. No pattern word is part of another.
BACKGROUND = {
    "plain": "plain {}", "gradient": "{} gradient", "spotlight": "{} spotlight",
    "stripes": "{} stripes", "columns": "{} columns", "diagonals": "{} diagonals",
    "checker": "{} checker", "dots": "{} dots", "grid": "{} grid",
}  # fmt: skip
CHANGES = ("background", "season", "style")  # what a request may ask for
_PLACES = ("{}, {} background", "{} on a {} background", "{} over {}", "{} in front of {}")
SPEED_WORD = {"slow": "slowly", "fast": "quickly"}
RELATION_WORD = dict.fromkeys(v.RELATIONS, "") | {
    "left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below",
}  # fmt: skip


def captions(truth: Mapping[str, Any], rng: random.Random) -> tuple[Caption, Caption]:
    """The short and the descriptive caption of a truth."""
    return (
        Caption(_short(truth, rng), "short"),
        Caption(_descriptive(truth, rng), "descriptive"),
    )


def request(truth: Mapping[str, Any], change: str, rng: random.Random) -> Caption:
    """What asks for a change (of CHANGES) to what a truth shows: "keep the ring red, make it
    winter"."""
    thing, ground = truth["objects"][0], truth["background"]
    motion = _motion(thing, verb=False)
    kept = v.pick(rng, (f"{thing['shape']} {thing['colour']}", f"{_name(thing)}{motion}"))
    made = {
        "background": f"the background {_background(truth)}",
        "season": f"it {ground.get('season', v.SUMMER)}",
        "style": f"it {truth['style']}",
    }
    return Caption(f"keep the {kept}, make {made[change]}", "request")


# attribute, as a parser names it -> the words it takes
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(v.COLOURS), "shape": v.SHAPES, "direction": tuple(v.DIRECTIONS),
    "background": v.PATTERNS, "background_colour": tuple(v.TINTS),
}  # fmt: skip


def misworded(
    truth: Mapping[str, Any], attribute: str, rng: random.Random
) -> dict[str, Any] | None:
    """The truth but for one attribute of its scene or first object, which is another; to be told,
    never drawn. None when its caption would not state the attribute (a direction of what is still).

    Raises BadInput for an attribute that short captions do not name
    """
    if attribute not in ATTRIBUTES:
        raise bad("shapes", f"attribute {attribute!r}", nearest(attribute, ATTRIBUTES))
    ground, (thing, *others) = truth["background"], truth["objects"]
    place = {"background": "pattern", "background_colour": "tint"}.get(attribute, attribute)
    now = ground[place] if place in ("pattern", "tint") else thing[place]
    if now not in ATTRIBUTES[attribute]:
        return None
    new = {place: v.pick(rng, tuple(word for word in ATTRIBUTES[attribute] if word != now))}
    if place in ("pattern", "tint"):
        return dict(truth) | {"background": ground | new}
    return dict(truth) | {"objects": [thing | new, *others]}


def _short(truth: Mapping[str, Any], rng: random.Random) -> str:
    verb = rng.random() < 0.5  # "moves left" or "moving left"
    things = [
        f"{_article(thing['colour'])} {_name(thing)}{_motion(thing, verb)}"
        for thing in truth["objects"]
    ]
    return v.pick(rng, _PLACES).format(_join(things), _background(truth)) + _season(truth)


def _motion(thing: Mapping[str, Any], verb: bool) -> str:
    direction = thing["direction"]
    if direction is None:
        return ""
    if direction == v.STILL:
        return " stays still" if verb else " staying still"
    if "returns" in thing:
        return f" {'moves' if verb else 'moving'} {direction} and back"
    word = ("bounces" if verb else "bouncing") if thing["bounce"] else "moves" if verb else "moving"
    return f" {word} {direction}"


def _descriptive(truth: Mapping[str, Any], rng: random.Random) -> str:
    verb = rng.random() < 0.5
    tail = rng.random() < 0.5  # background first or last
    things = [_described(thing, verb) for thing in truth["objects"]]
    text = _join(things)
    if truth["relation"]:
        first, second = (_name(thing) for thing in truth["objects"][:2])
        place = f"the {first} {'is' if truth['num_frames'] == 1 else 'starts'}"
        text += f"; {place} {RELATION_WORD[truth['relation']]} the {second}"
    ground = f"{_background(truth)} background{_season(truth)}"
    style = f"{truth['style']} style"
    if tail:
        return f"{text}, {style}, on a {ground}"
    return f"on a {ground}, in {style}: {text}"


def _described(thing: Mapping[str, Any], verb: bool) -> str:
    text = f"a {thing['size']} {_name(thing)}{_motion(thing, verb)}"
    if thing["speed"]:
        text += f" {SPEED_WORD[thing['speed']]}"
    return text + (", partly out of frame" if thing["crosses"] else "")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _name(thing: Mapping[str, Any]) -> str:
    return f"{thing['colour']} {thing['shape']}"


def _background(truth: Mapping[str, Any]) -> str:
    ground = truth["background"]
    return BACKGROUND[ground["pattern"]].format(ground["tint"])


def _season(truth: Mapping[str, Any]) -> str:
    return f" in {v.WINTER}" if truth["background"].get("season") == v.WINTER else ""


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
