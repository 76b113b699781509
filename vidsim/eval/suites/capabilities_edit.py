"""Edits of world clips: the background changes, the object and its way stay; a row a strength."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vidsim.core.host_random import generator
from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import wilson
from vidsim.eval.suites.capabilities_cases import Case, draw_cases
from vidsim.eval.suites.capabilities_score import ClipsSuite, Rows, longest_step
from vidsim.generate.edit import edit
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.worlds.base import World
from vidsim.worlds.shapes import vocabulary as v

Progress = Callable[[str, int, int], None]
NEAR = 0.15  # short sides: mean distance of the object from its old way that still is that way


class EditSuite(ClipsSuite, Protocol):
    """What of the suite's configuration edits read."""

    strengths: tuple[float, ...]


def other_background(case: Case, number: int) -> tuple[str, str]:
    """The prompt that asks for another tint, and the tint."""
    old = case.info.truth["background"]["tint"]
    others = [tint for tint in v.TINTS if tint != old]
    tint = others[int(generator(0, "edit", number).integers(len(others)))]
    return case.prompt.replace(old, tint), tint


def judge_edit(world: World, video_THWC: np.ndarray, case: Case, tint: str) -> dict[str, float]:
    """target: the new tint is there. kept: the object's colour and way are the old ones."""
    reading = world.parse(video_THWC)
    thing = case.info.truth["objects"][0]
    mine = [one for one in reading.objects if one.colour == thing["colour"]]
    kept = 0.0
    if mine and np.isfinite(longest_step(mine[0].track_T2)):
        away = np.hypot(*(mine[0].track_T2 - case.track_T2).T)
        kept = float(np.nanmean(away) <= NEAR * min(video_THWC.shape[1:3]))
    target = float(reading.tint == tint)
    return {"target": target, "kept": kept, "joint": target * kept}


def edit_rows(
    model: Model, world: World, suite: EditSuite, progress: Progress | None = None
) -> Rows:
    """Edits every case at every strength."""
    cases = draw_cases(
        "animate", world, suite.clips, suite.size, suite.frames, model.grid.time_stride
    )
    asked = [other_background(case, i) for i, case in enumerate(cases)]
    found = Rows([], [], [])
    idle = [judge_edit(world, c.truth_THWC, c, t) for c, (_, t) in zip(cases, asked, strict=True)]
    true = [
        judge_edit(world, world.render(_retinted(case, tint)), case, tint)
        for case, (_, tint) in zip(cases, asked, strict=True)
    ]
    shown: dict[int, list[View]] = {}
    done, of = 0, len(cases) * len(suite.strengths)
    for strength in suite.strengths:
        rows = []
        for i, (case, (prompt, tint)) in enumerate(zip(cases, asked, strict=True)):
            info = case.info
            request = Request(prompt, info.height, info.width, 1, info.fps, suite.seed + i)
            (made,) = edit(model, case.truth_THWC, [request], strength, None, suite.sampler)
            rows.append(judge_edit(world, made.video_THWC, case, tint))
            shown.setdefault(i, []).append(View(made.video_THWC, f"{strength:g}"))
            done += 1
            if progress:
                progress("edit", done, of)
        for name in ("joint", "target", "kept"):
            values = [row[name] for row in rows]
            found.scores.append(score_of(
                f"capabilities/edit/{name}/{strength:g}", wilson(sum(values), len(values)),
                "higher", floor=float(np.mean([row[name] for row in true])),
                baselines={"input itself": float(np.mean([row[name] for row in idle]))},
                unit="share",
            ))  # fmt: skip
        found.clips += [{"task": "edit", "strength": strength, **row} for row in rows]
    found.scores.insert(0, best_strength(found.scores))
    for i, case in enumerate(cases[: suite.shown]):
        views = (View(case.truth_THWC, "input"), *shown[i])
        found.samples.append(
            Sample(f"edit {i}", asked[i][0], views, case.info.fps, "Edit, by strength",
                   {"seed": suite.seed + i})
        )  # fmt: skip
    return found


def best_strength(scores: Sequence[Score]) -> Score:
    """The joint row of the strength at which most edits hold; named by how many it is the best of.

    The strength is chosen on the clips it is scored on, so its interval is that of a chosen row.
    """
    joint = [score for score in scores if "/joint/" in score.metric]
    best = max(joint, key=lambda score: score.value)
    return dataclasses.replace(best, metric=f"capabilities/edit_best_of_{len(joint)}")


def _retinted(case: Case, tint: str) -> dict[str, Any]:
    truth = case.info.truth
    return {**truth, "background": {**truth["background"], "tint": tint}}
