"""Edits of world clips: background, season or style changes, the rest stays; a row a strength.

Half of the prompts describe the edited clip, half ask for the change ("keep the ring red, make it
winter").
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import wilson
from vidsim.eval.suites.capabilities_cases import Case, draw_cases
from vidsim.eval.suites.capabilities_score import ClipsSuite, Rows, longest_step, task_scores
from vidsim.eval.suites.vae import reconstruct
from vidsim.generate.edit import edit
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.worlds.base import World
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.caption import CHANGES, captions, request

Progress = Callable[[str, int, int], None]
Mark = dict[str, float]
NEAR = 0.15  # short sides: mean distance of the object from its old way that still is that way
SPARE = 8  # further cases drawn, for those whose object would be lost in winter
DESCRIBED, REQUESTED = WORDINGS = ("described", "requested")
ALONE = "prompt alone"  # strength 1


class EditSuite(ClipsSuite, Protocol):
    """What of the suite's configuration edits read."""

    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Change:
    """One edit of a case.

    kind     of CHANGES: what changes
    wording  of WORDINGS
    prompt   of the edit
    truth    of the clip once it is done
    """

    kind: str
    wording: str
    prompt: str
    truth: dict[str, Any]


def change(case: Case, kind: str, number: int) -> Change:
    """What is asked of case `number`: another tint or style, or winter."""
    truth, rng = case.info.truth, random.Random(stable_hash("edit", kind, number))
    ground = truth["background"]
    if kind == "style":
        styles = tuple(style for style in v.STYLES if style != truth["style"])
        new = {**truth, "style": v.pick(rng, styles)}
    elif kind == "background":
        tints = tuple(tint for tint in v.TINTS if tint != ground["tint"])
        new = {**truth, "background": {**ground, "tint": v.pick(rng, tints)}}
    else:
        new = {**truth, "background": {**ground, "season": v.WINTER}}
    wording = WORDINGS[number % len(WORDINGS)]
    if wording == REQUESTED:
        return Change(kind, wording, request(new, kind, rng).text, new)
    short, descriptive = captions(new, rng)  # only the latter names the style
    return Change(kind, wording, (descriptive if kind == "style" else short).text, new)


def judge_edit(world: World, video_THWC: np.ndarray, case: Case, asked: Change) -> Mark:
    """target: what was asked for is there. kept: the object's colour, shape and way, and what of
    pattern, tint and season was not to change, are the old ones. joint: both."""
    reading = world.parse(video_THWC)
    thing, ground = asked.truth["objects"][0], asked.truth["background"]
    tint, season = reading.tint == ground["tint"], reading.season == ground.get("season", v.SUMMER)
    style = reading.style == asked.truth["style"]
    mine = [one for one in reading.objects if one.colour == thing["colour"]]
    marks = {"shape": bool(mine) and mine[0].shape == thing["shape"], "way": False}
    if mine and np.isfinite(longest_step(mine[0].track_T2)):
        away = np.hypot(*(mine[0].track_T2 - case.track_T2).T)
        marks["way"] = bool(np.nanmean(away) <= NEAR * min(video_THWC.shape[1:3]))
    marks["pattern"] = reading.pattern == ground["pattern"]
    marks["tint_and_season"] = {"background": season, "season": tint}.get(
        asked.kind, season and tint
    )
    found = {name: float(mark) for name, mark in marks.items()}
    target = float({"background": tint, "season": season, "style": style}[asked.kind])
    kept = float(all(found.values()))
    return {"target": target, "kept": kept, **found, "joint": target * kept}


def edit_rows(
    model: Model, world: World, suite: EditSuite, progress: Progress | None = None
) -> Rows:
    """Every change of every case, at every strength and from its prompt alone."""
    cases = edit_cases(world, suite, model.grid.time_stride)
    found = Rows([], [], [])
    for kind in CHANGES:
        asked = [change(case, kind, i) for i, case in enumerate(cases)]
        rows = _kind_rows(model, world, suite, cases, asked, progress)
        found.scores += rows.scores
        found.samples += rows.samples
        found.clips += rows.clips
    return found


def edit_cases(world: World, suite: ClipsSuite, stride: int) -> list[Case]:
    """Cases whose object shows in winter too."""
    count = suite.clips + suite.clips // 4 + SPARE
    drawn = draw_cases("animate", world, count, suite.size, suite.frames, stride)
    seen = [c for c in drawn if c.info.truth["objects"][0]["colour"] not in v.LOST_IN_FROST]
    if len(seen) < suite.clips:
        raise bad("suite capabilities, edit", f"{len(seen)} clips of {count} show in winter",
                  f"{suite.clips}", "fewer clips")  # fmt: skip
    return seen[: suite.clips]


def _kind_rows(
    model: Model,
    world: World,
    suite: EditSuite,
    cases: Sequence[Case],
    asked: Sequence[Change],
    progress: Progress | None,
) -> Rows:
    kind, task = asked[0].kind, f"edit_{asked[0].kind}"
    made = _make(model, suite, cases, asked, progress)
    true = [world.render(one.truth) for one in asked]

    def judge(videos: Sequence[np.ndarray]) -> list[Mark]:
        zipped = zip(videos, cases, asked, strict=True)
        return [judge_edit(world, video, case, one) for video, case, one in zipped]

    curve = {strength: judge(videos) for strength, videos in made.items()}
    best = best_of_others({strength: curve[strength] for strength in suite.strengths})
    marks = {
        "model": [curve[strength][i] for i, strength in enumerate(best)],
        "truth": judge(true),
        "VAE": judge(reconstruct(model.vae, true)),
        "input itself": judge([case.truth_THWC for case in cases]),
        ALONE: curve[1.0],
    }
    checks = [name for name in marks["model"][0] if name != "joint"]
    scores = task_scores(task, marks, checks=checks)
    for wording in WORDINGS:
        mine = [i for i, one in enumerate(asked) if one.wording == wording]
        scores += _shares(f"{task}/{wording}", [marks["model"][i] for i in mine])
    for strength, rows in curve.items():
        scores += _shares(f"{task}/at_{strength:g}", rows, ("joint", "target", "kept"))
    clips = [
        {"task": task, "prompt": one.prompt, "strength": strength, **rows[i]}
        for strength, rows in curve.items()
        for i, one in enumerate(asked)
    ]
    samples = []
    for i, case in enumerate(cases[: suite.shown]):
        views = [View(videos[i], f"{strength:g}") for strength, videos in made.items()]
        views.insert(0, View(case.truth_THWC, "input"))
        samples.append(
            Sample(f"{task} {i}", asked[i].prompt, tuple(views), case.info.fps,
                   f"Edit the {kind}, by strength", {"seed": suite.seed + i})
        )  # fmt: skip
    return Rows(scores, samples, clips)


def _make(
    model: Model,
    suite: EditSuite,
    cases: Sequence[Case],
    asked: Sequence[Change],
    progress: Progress | None,
) -> dict[float, list[np.ndarray]]:
    """Every case edited at every strength, and at strength 1."""
    made: dict[float, list[np.ndarray]] = {s: [] for s in (*suite.strengths, 1.0)}
    done, of = 0, len(made) * len(cases)
    for strength, videos in made.items():
        for i, (case, one) in enumerate(zip(cases, asked, strict=True)):
            info = case.info
            ask = Request(one.prompt, info.height, info.width, 1, info.fps, suite.seed + i)
            (video,) = edit(model, case.truth_THWC, [ask], strength, None, suite.sampler)
            videos.append(video.video_THWC)
            done += 1
            if progress:
                progress(f"edit the {one.kind}", done, of)
    return made


def _shares(name: str, rows: Sequence[Mark], of: Sequence[str] = ("joint",)) -> list[Score]:
    if not rows:
        return []
    return [
        score_of(f"capabilities/{name}/{mark}", wilson(sum(row[mark] for row in rows), len(rows)),
                 "higher", unit="share")
        for mark in of
    ]  # fmt: skip


def best_of_others(curve: Mapping[float, Sequence[Mark]]) -> list[float]:
    """For each clip the strength that is best on the other half of the clips (pairs in turn), so
    that no clip is scored at a strength chosen on it; the lower one where two are as good."""
    count = len(next(iter(curve.values())))
    half = np.arange(count) // len(WORDINGS) % 2  # each half has all wordings
    best = []
    for mine in (0, 1):
        others = [i for i in range(count) if half[i] != mine] or list(range(count))
        best.append(max(sorted(curve), key=lambda s: sum(curve[s][i]["joint"] for i in others)))
    return [best[k] for k in half]
