"""Two worlds in one clip: joins of clips that share nothing, and blends of two prompts.

Neither has a truth of its own; the floor is drawn: a background that fades from the first scene's
to the second's behind one solid object, the first's until the background has become the other.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.result import Sample, View
from vidsim.eval.suites.capabilities_cases import LOOKED_AT, apart
from vidsim.eval.suites.capabilities_score import ClipsSuite, Rows, cross_fade, task_scores
from vidsim.generate.join import blend_prompts, join
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import WindowConfig, plan_window
from vidsim.worlds.base import ClipInfo, World

Progress = Callable[[str, int, int], None]
Pair = tuple[ClipInfo, ClipInfo]
MEETING_CHECKS = ("start", "end", "middle", "object", "gradual", "own")
STEP = 0.6  # longest change between neighbouring frames, over that from the first scene to the last
ONE = 0.9  # share of the frames that show one object, of one of the two colours
OWN = 0.15  # distance of the middle half from mixtures of both ends, over that between the ends
FADED, SWITCH = 0.6, 0.7  # of the way: the drawn background is the second, then the object is


def stranger_rows(
    model: Model, world: World, suite: ClipsSuite, progress: Progress | None = None
) -> Rows:
    """Joins the first half of a clip to the last half of another one, from the one's prompt to the
    other's, over three times as many frames as a half has, or as a window of the model holds."""
    stride = model.grid.time_stride
    half = (suite.frames - 1) // stride // 2 * stride
    if half < stride:
        raise bad("suite capabilities, strangers", f"{suite.frames} frames",
                  f"at least {2 * stride + 1}")  # fmt: skip

    def make(pair: Pair, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, second = (world.render(info.truth) for info in pair)
        a, b = first[: 1 + half], second[1 + half :]
        one, other = (info.captions[0].text for info in pair)
        request = Request(one, *suite.size, 1, pair[0].fps, seed)
        (made,) = join(model, a, b, [request], count, suite.sampler, towards=other)
        return made.video_THWC[len(a) : len(a) + count], a[-1], b[0]

    most = (plan_window(model, *suite.size, WindowConfig()).latents - 2) * stride
    count = min(3 * half, most)
    span = half, half + 1  # the scenes' frames at which the gap begins and ends
    return _rows("strangers", world, suite, make, span, count, progress)


def blend_rows(
    model: Model, world: World, suite: ClipsSuite, progress: Progress | None = None
) -> Rows:
    """Blends each scene's prompt with another scene's."""

    def make(pair: Pair, seed: int) -> tuple[np.ndarray, None, None]:
        one, other = (info.captions[0].text for info in pair)
        request = Request(one, *suite.size, suite.frames, pair[0].fps, seed)
        (made,) = blend_prompts(model, [request], other, suite.sampler)
        return made.video_THWC, None, None

    return _rows("blend", world, suite, make, (0, suite.frames - 1), suite.frames, progress)


def draw_pairs(world: World, suite: ClipsSuite, span: tuple[int, int]) -> list[Pair]:
    """Pairs of moving scenes that differ in the colour of the object and the tint behind it, and
    whose objects do not overlap in the frames of `span`: there a cross-fade shows two ghosts."""

    def scenes() -> Iterator[ClipInfo]:
        height, width = suite.size
        for i in range(suite.clips * LOOKED_AT):
            info = world.scene_for(i, height=height, width=width, num_frames=suite.frames)
            if info.truth["objects"][0]["speed"]:
                yield info

    def differ(pair: Pair) -> bool:
        boxes = [world.boxes(info.truth)[at, 0] for info, at in zip(pair, span, strict=True)]
        return all(a != b for a, b in zip(*map(_looks, pair), strict=True)) and apart(*boxes)

    found = list(itertools.islice(filter(differ, itertools.pairwise(scenes())), suite.clips))
    if len(found) < suite.clips:
        raise bad("suite capabilities, pairs of scenes", f"{len(found)}", f"{suite.clips}",
                  "fewer clips")  # fmt: skip
    return found


def judge_meeting(
    world: World,
    video_THWC: np.ndarray,
    pair: Pair,
    before_HWC: np.ndarray | None = None,
    after_HWC: np.ndarray | None = None,
) -> dict[str, float]:
    """Each condition (1.0 or 0.0) and "joint", their product, of the frames that were made.

    start    the first frame shows the first scene's colour and tint
    end      the last one the second's
    middle   a frame of the middle half shows something of both: a colour or a tint of each
    object   ONE of the frames show exactly one object, of one of the two colours: no ghosts
    gradual  no step between neighbours is above STEP of the whole way, given frames included
    own      the middle half is farther than OWN from every mixture of the two ends
    before_HWC, after_HWC  the given frames on both sides, None where nothing is given
    """
    read = [world.parse(frame[None]) for frame in video_THWC]
    (colour, tint), (colour2, tint2) = map(_looks, pair)

    def seen(one: Any, colour: str, tint: str) -> tuple[bool, bool]:
        return any(thing.colour == colour for thing in one.objects), one.tint == tint

    quarter = max(1, len(read) // 4)
    whole = [f for f in (before_HWC, *video_THWC, after_HWC) if f is not None]
    video = np.stack(whole).astype(np.float32)
    steps = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
    single = [one.count == 1 and one.objects[0].colour in (colour, colour2) for one in read]
    marks = {
        "start": float(all(seen(read[0], colour, tint))),
        "end": float(all(seen(read[-1], colour2, tint2))),
        "middle": float(any(any(seen(one, colour, tint)) and any(seen(one, colour2, tint2))
                            for one in read[quarter:-quarter])),
        "object": float(np.mean(single) >= ONE),
        "gradual": float(steps.max() <= STEP * np.abs(video[-1] - video[0]).mean()),
        "own": float(from_mixtures(video)[quarter:-quarter].mean() >= OWN),
    }  # fmt: skip
    return marks | {"joint": float(all(marks.values()))}


def from_mixtures(video_THWC: np.ndarray) -> np.ndarray:
    """How far each frame is from the nearest mixture (1 - s) first + s last, over the distance from
    the first to the last frame, f32[T]: root mean squares, 0 for a cross-fade."""
    frames = video_THWC.reshape(len(video_THWC), -1).astype(np.float32)
    way = frames[-1] - frames[0]
    length = max(float(np.linalg.norm(way)), 1e-6)
    share = np.clip((frames - frames[0]) @ way / length**2, 0.0, 1.0)
    nearest = frames[0] + share[:, None] * way
    return np.linalg.norm(frames - nearest, axis=1) / length


def references(
    world: World, pair: Pair, span: tuple[int, int], count: int, inside: bool
) -> dict[str, np.ndarray]:
    """`count` frames drawn instead of made: the floor ("truth"), and what costs nothing.

    span    the scenes' frames at which they begin and end
    inside  the frames are those between the two, which are given; else these are the ends
    """
    first, second = (world.render(info.truth) for info in pair)
    start, end = first[span[0]], second[span[1]]
    share = np.linspace(0, 1, count + 2)[1:-1] if inside else np.linspace(0, 1, count)
    grounds = [info.truth["background"] for info in pair]
    stills = []  # [object][background], where each object is at its end of the way
    for info, at in zip(pair, span, strict=True):
        stills.append([world.render({**info.truth, "background": ground})[at].astype(np.float32)
                       for ground in grounds])  # fmt: skip
    mixed = []
    for s in share:
        (one, other), faded = stills[int(s > SWITCH)], min(1.0, s / FADED)
        mixed.append((1 - faded) * one + faded * other)
    fade = cross_fade(start, end, count if inside else count - 2)
    half = count // 2
    return {
        "truth": np.rint(np.stack(mixed)).astype(np.uint8),
        "first scene": start[None].repeat(count, 0),
        "cut": np.concatenate([start[None].repeat(half, 0), end[None].repeat(count - half, 0)]),
        "cross-fade": fade if inside else np.concatenate([start[None], fade, end[None]]),
    }


def _rows(
    task: str,
    world: World,
    suite: ClipsSuite,
    make: Callable[[Pair, int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
    span: tuple[int, int],
    count: int,
    progress: Progress | None,
) -> Rows:
    pairs = draw_pairs(world, suite, span)
    marks: dict[str, list[dict[str, float]]] = {}
    samples: list[Sample] = []
    for number, pair in enumerate(pairs):
        made, before, after = make(pair, suite.seed + number)
        videos = {"model": made} | references(world, pair, span, count, before is not None)
        for name, video in videos.items():
            row = judge_meeting(world, video, pair, before, after)
            marks.setdefault(name, []).append(row)
        if number < suite.shown:
            shown = [f for f in (before, *made, after) if f is not None]
            samples.append(Sample(
                f"{task} {number}", ", then ".join(info.captions[0].text for info in pair),
                (View(np.stack(shown), "model"), View(videos["truth"], "drawn")), pair[0].fps,
                "Join of strangers" if before is not None else "Blend of two prompts",
                {"seed": suite.seed + number},
                {check: marks["model"][-1][check] == 1.0 for check in MEETING_CHECKS},
            ))  # fmt: skip
        if progress:
            progress(task, number + 1, len(pairs))
    clips = [
        {"task": task, "prompt": pair[0].captions[0].text, "second": pair[1].captions[0].text,
         "frames": count,
         **{name: marks[name][k]["joint"] for name in marks}}
        for k, pair in enumerate(pairs)
    ]  # fmt: skip
    return Rows(task_scores(task, marks, checks=MEETING_CHECKS), samples, clips)


def _looks(info: ClipInfo) -> tuple[str, str]:
    return info.truth["objects"][0]["colour"], info.truth["background"]["tint"]
