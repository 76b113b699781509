"""Four beginnings with one end: how different they are, and whether the end is the given one."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import Interval, clip_bootstrap, wilson
from vidsim.eval.suites.capabilities_cases import Case, draw_cases
from vidsim.eval.suites.capabilities_score import ClipsSuite, Rows, judge
from vidsim.generate.extend import extend
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import sample
from vidsim.worlds.base import World

Progress = Callable[[str, int, int], None]


class BeginningsSuite(ClipsSuite, Protocol):
    """What of the suite's configuration beginnings read."""

    beginnings: int


def beginning_rows(
    model: Model, world: World, suite: BeginningsSuite, progress: Progress | None = None
) -> Rows:
    """Several beginnings for each given end, beside as many samples of the prompt alone.

    Both with the same seeds, and compared over the same frames of the clip.
    """
    if suite.beginnings < 2:
        raise bad("suite capabilities", f"{suite.beginnings} beginnings", "at least 2")
    cases = draw_cases(
        "backward", world, suite.clips, suite.size, suite.frames, model.grid.time_stride
    )
    rows: list[dict[str, Any]] = []
    samples = []
    for number, case in enumerate(cases):
        made, free = _make(model, case, suite, number)
        rows.append({"task": "beginnings", "prompt": case.prompt,
                     **compare(world, case, made, free)})  # fmt: skip
        if number < suite.shown:
            views = tuple(View(video, f"beginning {k + 1}") for k, video in enumerate(made))
            samples.append(Sample(
                f"beginnings {number}", case.prompt, views, case.info.fps,
                "Several beginnings, one end", {"seed": _seed(suite, number)},
            ))  # fmt: skip
        if progress:
            progress("beginnings", number + 1, len(cases))
    return Rows(beginning_scores(rows, suite.beginnings), samples, rows)


def compare(
    world: World, case: Case, made: Sequence[np.ndarray], free: Sequence[np.ndarray]
) -> dict[str, float]:
    """Numbers of one end.

    made, free  whole clips: with the given end; of the prompt alone
    Returns     mean distance of pairs of beginnings (`distance`), the same of the free ones
                (`independent`), whether all ends are bit for bit the given one (`same_end`), and
                the share of beginnings that the judge of "backward" passes (`joint`)
    """
    first, end = case.new
    marks = [judge(world, video, case.info.truth, case.track_T2, case.new) for video in made]
    return {
        "distance": pairwise_distance([video[first:end] for video in made]),
        "independent": pairwise_distance([video[first:end] for video in free]),
        "same_end": float(all(np.array_equal(video[end:], case.after) for video in made)),
        "joint": float(np.mean([mark["joint"] for mark in marks])),
    }


def pairwise_distance(videos: Sequence[np.ndarray]) -> float:
    """Mean over all pairs of the root mean square difference of their pixels, 0..255."""
    return float(np.mean([
        math.sqrt(np.square(a.astype(np.float64) - b).mean())
        for a, b in itertools.combinations(videos, 2)
    ]))  # fmt: skip


def beginning_scores(rows: Sequence[dict[str, Any]], beginnings: int) -> list[Score]:
    """Distance over that of independent samples (a ratio of means, its interval from the clips),
    ends that are the given one, beginnings that are right."""
    distance = np.array([row["distance"] for row in rows])
    free = np.array([row["independent"] for row in rows])
    ratio = Interval(math.nan, math.nan, math.nan, len(rows))
    if (free > 0).all():  # ratios weighed by their divisors have the ratio of sums as their mean
        ratio = clip_bootstrap(distance / free, free)
    same = [row["same_end"] for row in rows]
    return [
        score_of("capabilities/beginnings", ratio, "higher", floor=1.0,
                 baselines={f"one beginning {beginnings} times": 0.0}),
        score_of("capabilities/beginnings/same_end", wilson(sum(same), len(same)), "higher",
                 floor=1.0, unit="share"),
        score_of("capabilities/beginnings/joint",
                 clip_bootstrap(np.array([row["joint"] for row in rows])), "higher", unit="share"),
    ]  # fmt: skip


def _make(
    model: Model, case: Case, suite: BeginningsSuite, number: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    info, (first, end) = case.info, case.new
    asked = [
        Request(case.prompt, info.height, info.width, 1, info.fps, _seed(suite, number) + k)
        for k in range(suite.beginnings)
    ]
    made = extend(model, case.after, asked, end - first, "backward", suite.sampler)
    whole = [dataclasses.replace(one, num_frames=len(case.truth_THWC)) for one in asked]
    free = sample(model, whole, suite.sampler)
    return [one.video_THWC for one in made], [one.video_THWC for one in free]


def _seed(suite: BeginningsSuite, number: int) -> int:
    return suite.seed + number * suite.beginnings
