"""The shapes world: one to three moving objects over a background, at many sizes and durations."""

import bisect
import dataclasses
import itertools
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.core.host_random import stable_hash
from vidsim.worlds import base
from vidsim.worlds.shapes import render as drawing
from vidsim.worlds.shapes import score
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.caption import CHANGES, captions, misworded, request
from vidsim.worlds.shapes.motion import BOUNCE_FRAMES
from vidsim.worlds.shapes.parse import Reading, parse
from vidsim.worlds.shapes.scene import check_pins, draw_scene

ALIGN = 16  # frame sides are multiples of this, pixels
SHORT, ASPECT = 48, 2  # least short side, pixels; most long sides to a short one
CLOSE_SHORT = 32  # least short side of a world whose frames under SHORT are all close-ups
CHANCE_CLIPS = 1000  # looked at for the chance level


@dataclasses.dataclass(frozen=True)
class ShapesWorld:
    """Clips of moving shapes.

    split         "train" and "heldout" share no (colour, shape, pattern); "all" has both
    seed          another seed, other clips; the held-out combinations stay
    size          number of clips
    mix           a named distribution over sizes and durations (vocabulary.MIXES)
    max_objects   1 to so many objects a clip, evenly
    objects       exactly so many instead
    sizes, frames                 only these of the mix (height, width in pixels; frames)
    size_weights, frame_weights   how often each of them, instead of the mix's weights
    anchored      periodic backgrounds start at the frame's corner with one period, instead of at a
                  drawn place with a drawn period: what a caption does not say is then drawn for
                  the objects alone, which a small model learns much sooner
    close         share of the images and clips of up to 9 frames of one object that show it close
                  up, called huge, for training: the parser reads one of its own sizes. With it
                  frames may be as small as 32 pixels; under 48 all are close-ups
    speed         "slow" or "fast": the first object of every video moves so, none stands still.
                  Clips of fast ones alone teach what a direction means much sooner, because there
                  the direction is most of what is left to tell
    returns       share of the videos of 9 frames and more whose first object goes there and back
                  inside the frame, "moves left and back"; for training: what a loop looks like
    turn          "back": these turn anywhere in the clip's middle; "third": after a third of it and
                  again after two, so that the middle third leads from an end to the start;
                  "closed": they begin anywhere on their way, and end where they began
    winter        share of the clips that show winter: the background under frost
    requests      a third caption asks for one of these (background, season, style) to be what is
                  seen, as an edit does, for training: "keep the ring red, make it winter"
    shapes, directions            of the first object: only these words (directions: in videos), for
                  training on what a model confuses
    """

    name: ClassVar[str] = "shapes"

    split: str = "train"
    seed: int = 0
    size: int = 10_000
    mix: str = "mixed"
    max_objects: int = 3
    objects: int | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    frames: tuple[int, ...] | None = None
    size_weights: tuple[float, ...] | None = None
    frame_weights: tuple[float, ...] | None = None
    anchored: bool = False
    close: float = 0.0
    speed: str = ""
    returns: float = 0.0
    turn: str = v.BACK
    winter: float = 0.0
    requests: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in base.SPLITS:
            raise bad("shapes", f"split {self.split!r}", f"one of {', '.join(base.SPLITS)}")
        if self.mix not in v.MIXES:
            raise bad("shapes", f"mix {self.mix!r}", nearest(self.mix, v.MIXES))
        if self.size < 1:
            raise bad("shapes", f"size {self.size}", "1 clip or more")
        check_count(self.max_objects if self.objects is None else self.objects)
        for name in ("close", "returns", "winter"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise bad("shapes", f"{name} {getattr(self, name)}", "a share from 0 to 1")
        if self.speed and self.speed not in v.SPEEDS:
            raise bad("shapes", f"speed {self.speed!r}", nearest(self.speed, v.SPEEDS))
        if self.turn not in v.TURNS:
            raise bad("shapes", f"turn {self.turn!r}", nearest(self.turn, v.TURNS))
        for word in self.requests:
            if word not in CHANGES:
                raise bad("shapes", f"requests {word!r}", nearest(word, CHANGES))
        for word in self.shapes:
            check_pins({"shape": word})
        for word in self.directions:
            check_pins({"direction": word})
        if (self.returns or self.speed) and v.STILL in self.directions:
            moves = f"directions {self.directions} with returns or speed"
            raise bad("shapes", moves, "none that is still")
        sizes, frames = v.MIXES[self.mix]
        chosen_sizes = _chosen("sizes", self.sizes, "size_weights", self.size_weights, sizes)
        chosen_frames = _chosen("frames", self.frames, "frame_weights", self.frame_weights, frames)
        for num_frames in chosen_frames[0]:
            check_frames(num_frames)
        near = self.close > 0 and self.objects == 1 and max(chosen_frames[0]) <= v.CLOSE_FRAMES
        for height, width in chosen_sizes[0]:
            check_size(height, width, CLOSE_SHORT if near else SHORT)
        key = stable_hash("shapes", self.seed, self.split) << 64  # clip numbers go below
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "_sizes", chosen_sizes)
        object.__setattr__(self, "_frames", chosen_frames)

    @property
    def spec(self) -> str:
        return base.to_spec(self)

    def __len__(self) -> int:
        return self.size

    def info(self, i: int) -> base.ClipInfo:
        """Clip i without its pixels; a function of the options other than `size`, and of i."""
        if not 0 <= i < self.size:
            raise IndexError(f"clip {i} of {self.size}")
        rng = random.Random(self._key + i)  # type: ignore[attr-defined]
        height, width = _draw(rng, self._sizes)  # type: ignore[attr-defined]
        num_frames = _draw(rng, self._frames)  # type: ignore[attr-defined]
        count = self.objects or 1 + int(rng.random() * self.max_objects)
        near = self.close > 0 and count == 1 and num_frames <= v.CLOSE_FRAMES
        near = near and (min(height, width) < SHORT or rng.random() < self.close)
        fixed = {"speed": self.speed} if self.speed else {}
        if self.shapes:
            fixed["shape"] = v.pick(rng, self.shapes)
        if self.directions and num_frames > 1:
            fixed["direction"] = v.pick(rng, self.directions)
        if self.returns and not near and num_frames >= BOUNCE_FRAMES:
            fixed |= {"turn": self.turn} if rng.random() < self.returns else {}
        if self.winter:
            fixed["season"] = v.WINTER if rng.random() < self.winter else v.SUMMER
        return self._info(rng, height, width, num_frames, count, fixed, near)

    def clip(self, i: int) -> base.Clip:
        """Clip i, drawn."""
        info = self.info(i)
        return base.Clip(drawing.render(info.truth), info.fps, info.captions, info.truth)

    def scene_for(
        self,
        i: int,
        *,
        height: int,
        width: int,
        num_frames: int,
        objects: int | None = None,
        **fixed: str,
    ) -> base.ClipInfo:
        """The i-th evaluation prompt of this seed and split, at a chosen size and duration.

        objects  how many; None: as many as the world's own `objects`, or 1
        fixed    pinned attributes: pattern, tint and style of the scene; shape, colour, size,
                 direction and speed of its first object; turn="back": it goes there and back.
                 Otherwise the scene is a function of
                 (seed, split, i): one i gives the same looks at every size.
        Raises BadInput for an impossible size, duration, attribute or word
        """
        check_size(height, width)
        check_frames(num_frames)
        check_pins(fixed)
        count = objects or self.objects or 1
        check_count(count)
        rng = random.Random(stable_hash("shapes prompt", self.seed, self.split, i))
        return self._info(rng, height, width, num_frames, count, fixed)

    def render(self, truth: Mapping[str, Any]) -> np.ndarray:
        return drawing.render(truth)

    def boxes(self, truth: Mapping[str, Any]) -> np.ndarray:
        return drawing.boxes(truth)

    def parse(self, video_THWC: np.ndarray) -> Reading:
        return parse(video_THWC)

    def compare(self, reading: Reading, truth: Mapping[str, Any]) -> dict[str, float]:
        return score.compare(reading, truth)

    def reworded(
        self, truth: Mapping[str, Any], attribute: str, seed: int
    ) -> tuple[tuple[base.Caption, ...], tuple[base.Caption, ...]] | None:
        key = stable_hash("shapes words", attribute, seed)
        other = misworded(truth, attribute, random.Random(key))
        if other is None:
            return None
        return captions(truth, random.Random(key + 1)), captions(other, random.Random(key + 1))

    def chance(self) -> dict[str, float]:
        found = score.chance(self.info(i).truth for i in range(min(self.size, CHANCE_CLIPS)))
        if not self.winter:  # nothing to tell apart
            del found["season"]
        return found

    def _info(
        self,
        rng: random.Random,
        height: int,
        width: int,
        num_frames: int,
        count: int,
        fixed: Mapping[str, str],
        close: bool = False,
    ) -> base.ClipInfo:
        rates = v.FRAME_RATES[num_frames]
        truth = draw_scene(
            rng,
            height=height,
            width=width,
            num_frames=num_frames,
            fps=rates[int(rng.random() * len(rates))],
            count=count,
            split=self.split,
            fixed=fixed,
            anchored=self.anchored,
            close=close,
        )
        words: tuple[base.Caption, ...] = captions(truth, rng)
        if self.requests:
            words += (request(truth, v.pick(rng, self.requests), rng),)
        return base.ClipInfo(num_frames, height, width, truth["fps"], words, truth)


def check_size(height: int, width: int, least: int = SHORT) -> None:
    """Refuses a frame size (pixels) in which the objects would not fit or not be readable."""
    short, long = sorted((height, width))
    if height % ALIGN or width % ALIGN or short < least or long > ASPECT * short:
        near = [max(least, round(side / ALIGN) * ALIGN) for side in (height, width)]
        near = [max(side, -(-max(near) // (ASPECT * ALIGN)) * ALIGN) for side in near]
        raise bad(
            "shapes",
            f"frame size {height}x{width}",
            f"multiples of {ALIGN}, at least {least}, sides at most 1:{ASPECT}",
            f"nearest {near[0]}x{near[1]}",
        )


def check_count(count: int) -> None:
    """Refuses a number of objects that the world does not draw."""
    if not 1 <= count <= 3:
        raise bad("shapes", f"{count} objects", "1 to 3")


def check_frames(num_frames: int) -> None:
    """Refuses a duration (frames) that the world does not have."""
    if num_frames not in v.FRAME_RATES:
        raise bad("shapes", f"{num_frames} frames", f"one of {', '.join(map(str, v.FRAME_RATES))}")


Chooser = tuple[tuple[Any, ...], list[float]]  # choices, and the running sum of their weights


def _chosen(
    name: str,
    picked: tuple[Any, ...] | None,
    weight_name: str,
    weights: tuple[float, ...] | None,
    mix: Mapping[Any, float],
) -> Chooser:
    choices = tuple(mix) if picked is None else tuple(picked)
    if not choices:
        raise bad("shapes", f"{name} is empty", "at least one")
    if weights is None:
        weights = tuple(mix.get(choice, 1.0) for choice in choices)
    if len(weights) != len(choices) or min(weights) < 0 or sum(weights) <= 0:
        wanted = f"{len(choices)} numbers >= 0, one for each of {name}"
        raise bad("shapes", f"{weight_name} {weights}", wanted)
    return choices, list(itertools.accumulate(weights))


def _draw(rng: random.Random, chooser: Chooser) -> Any:
    choices, sums = chooser
    return choices[min(bisect.bisect_right(sums, rng.random() * sums[-1]), len(choices) - 1)]
