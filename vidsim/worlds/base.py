"""What every world offers: captioned clips with ground truth, and a reader that needs no truth.

A world is a family of procedural clips. Clip `i` is a pure function of the world's options and
`i`, so a world needs no files, any process can make any clip, and order does not matter. Families
are found by name (`make`) or by a one-line specification (`from_spec`), the form that an index
stores: `shapes?split=train&size=2000&seed=0`.
"""

import dataclasses
import importlib
import typing
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl, quote

import numpy as np

from vidsim.core.errors import bad, nearest

SPLITS = ("train", "heldout", "all")


@dataclasses.dataclass(frozen=True)
class Caption:
    """One description of a clip. kind: "short", "descriptive" or "request"."""

    text: str
    kind: str


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """All that is known about a clip before a pixel is drawn.

    num_frames  frames (1 is an image)
    height, width  pixels
    fps         frames a second; 1.0 for an image
    captions    at least one; the first is the short one
    truth       ground truth, plain JSON values; its "world" entry names the family
    """

    num_frames: int
    height: int
    width: int
    fps: float
    captions: tuple[Caption, ...]
    truth: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A drawn clip: video_THWC uint8 RGB, fps in frames a second, captions, ground truth."""

    video_THWC: np.ndarray
    fps: float
    captions: tuple[Caption, ...]
    truth: dict[str, Any]


@runtime_checkable
class World(Protocol):
    """A family of clips. Everything is deterministic; nothing here touches files or clocks."""

    name: str
    seed: int

    @property
    def spec(self) -> str:
        """The line from which `from_spec` rebuilds this world."""
        ...

    def __len__(self) -> int: ...

    def info(self, i: int) -> ClipInfo:
        """Clip i without its pixels."""
        ...

    def clip(self, i: int) -> Clip:
        """Clip i, drawn: equal to `render(info(i).truth)` with its captions."""
        ...

    def scene_for(
        self, i: int, *, height: int, width: int, num_frames: int, **fixed: Any
    ) -> ClipInfo:
        """The i-th evaluation prompt at a chosen size and duration; `fixed` pins attributes."""
        ...

    def render(self, truth: dict[str, Any]) -> np.ndarray:
        """The uint8 THWC video of a ground truth."""
        ...

    def parse(self, video_THWC: np.ndarray) -> Any:
        """Reads the attributes back out of a uint8 video, rendered or generated."""
        ...

    def compare(self, reading: Any, truth: dict[str, Any]) -> dict[str, float]:
        """Correctness of each attribute that applies to this truth: 1.0 right, 0.0 wrong."""
        ...

    def reworded(
        self, truth: dict[str, Any], attribute: str, seed: int
    ) -> tuple[tuple[Caption, ...], tuple[Caption, ...]] | None:
        """Captions of a truth, and the same sentences with another word for one attribute.

        None when its captions do not state the attribute. Raises BadInput for an unknown one
        """
        ...

    def chance(self) -> dict[str, float]:
        """What the best constant guess scores for each attribute of `compare`."""
        ...

    def boxes(self, truth: dict[str, Any]) -> np.ndarray:
        """float32 [T, objects, 4]: y0, x0, y1, x1 in pixels, cut at the frame's border."""
        ...


# name -> "module:class"; a family is imported only when it is asked for.
FAMILIES = {"shapes": "vidsim.worlds.shapes.world:ShapesWorld"}


def _family(name: str) -> type:
    if name not in FAMILIES:
        raise bad("world", f"unknown family {name!r}", nearest(name, FAMILIES))
    module, attribute = FAMILIES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def make(name: str, **options: Any) -> World:
    """Builds the world `name`. Options are the fields of the family's class.

    Every family takes split ("train", "heldout" or "all"), seed and size (number of clips).
    Raises  BadInput for an unknown family or option, with the nearest known one
    """
    family = _family(name)
    known = {field.name for field in dataclasses.fields(family)}
    for option in options:
        if option not in known:
            raise bad(f"world {name}", f"unknown option {option!r}", nearest(option, known))
    return family(**options)


def from_spec(spec: str) -> World:
    """Builds a world from `name?option=value&…`; values are read by the type of the option.

    Lists are comma-separated (`frames=1,9`), sizes are height x width (`sizes=64x96,48x48`).
    """
    name, _, query = spec.removeprefix("world:").partition("?")
    family = _family(name)
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs) or (query and not pairs):
        raise bad("world", f"unreadable options {query!r}", "name?option=value&option=value")
    return make(name, **{key: _value(family, key, text) for key, text in pairs})


def to_spec(world: Any) -> str:
    """The specification of a world that is a frozen dataclass: only options off their default."""
    parts = []
    for field in dataclasses.fields(world):
        value = getattr(world, field.name)
        if value != field.default and value is not None:
            parts.append(f"{field.name}={quote(_text(value), safe=',x.-')}")
    return world.name + ("?" + "&".join(parts) if parts else "")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join("x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def _value(family: type, key: str, text: str) -> Any:
    """Reads one option of a specification by the type of the family's field."""
    hint = typing.get_type_hints(family).get(key, str)
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    optional = type(None) in typing.get_args(hint)
    return _read(kinds[0] if optional else hint, key, text)


def _read(hint: Any, key: str, text: str) -> Any:
    try:
        if typing.get_origin(hint) is not tuple:
            return hint(text)
        item = typing.get_args(hint)[0]
        if typing.get_origin(item) is tuple:
            number = typing.get_args(item)[0]
            return tuple(tuple(number(n) for n in part.split("x")) for part in text.split(","))
        return tuple(item(part) for part in text.split(","))
    except ValueError:
        raise bad("world", f"{key}={text!r}", "numbers and lists as 1,9 or 64x96,48x48") from None
