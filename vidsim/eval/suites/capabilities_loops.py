"""Loops from a prompt alone, whose object is told to go there and back: does the clip close?

There is no given frame to start from, and a circle has no first frame: the way counts as an axis,
wherever on it the clip begins. Everything is judged with the first frame once more at the end.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import Interval, clip_bootstrap
from vidsim.eval.suites.capabilities_cases import Case, draw_cases
from vidsim.eval.suites.capabilities_score import (
    CHECKS,
    Bars,
    ClipsSuite,
    Rows,
    cross_fade,
    jump,
    longest_step,
    path,
    presence,
    task_scores,
    true_track,
)
from vidsim.eval.suites.vae import reconstruct
from vidsim.generate.loop import Seam, loop_prompt, naive_loop, seam
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.worlds.base import World
from vidsim.worlds.shapes.vocabulary import DIRECTIONS

Progress = Callable[[str, int, int], None]
TASK, NAIVE = "loop_prompt", "merely repeated"
LOOP_BARS = Bars(looked=9)  # every other frame of a short loop, of which one may be misread


def loop_rows(
    model: Model, world: World, suite: ClipsSuite, progress: Progress | None = None
) -> Rows:
    """Loops of the prompts of "loop", beside the same requests as clips merely repeated."""
    stride = model.grid.time_stride
    period = (suite.frames - 1) // stride * stride
    if period < 2 * stride:
        raise bad("suite capabilities, loop_prompt", f"{suite.frames} frames",
                  f"at least {2 * stride + 1}")  # fmt: skip
    cases = draw_cases("loop", world, suite.clips, suite.size, suite.frames, stride)
    asked = [
        Request(case.info.captions[1].text, *suite.size, period, case.info.fps, suite.seed + k)
        for k, case in enumerate(cases)
    ]
    videos = {
        "model": [one.video_THWC for one in loop_prompt(model, asked, suite.sampler)],
        NAIVE: [one.video_THWC for one in naive_loop(model, asked, suite.sampler)],
        **references(world, cases, period),
    }
    closed = [np.concatenate([video, video[:1]]) for video in videos["truth"]]
    videos["VAE"] = [video[:period] for video in reconstruct(model.vae, closed)]
    marks: dict[str, list[dict[str, float]]] = {name: [] for name in videos}
    for number, case in enumerate(cases):
        for name, made in videos.items():
            marks[name].append(judge_loop(world, made[number], case))
        if progress:
            progress(f"judge {TASK}", number + 1, len(cases))
    rows = [
        {"task": TASK, "prompt": request.prompt, **{n: marks[n][k]["joint"] for n in marks}}
        for k, request in enumerate(asked)
    ]
    samples = [
        Sample(f"{TASK} {k}", asked[k].prompt,
               tuple(View(videos[name][k], name) for name in ("model", NAIVE, "truth")),
               asked[k].fps, "Loop of a prompt", {"seed": asked[k].seed},
               {check: marks["model"][k][check] == 1.0 for check in CHECKS})
        for k in range(min(suite.shown, len(cases)))
    ]  # fmt: skip
    seams = {name: [seam(video) for video in videos[name]] for name in ("model", NAIVE, "truth")}
    scores = [*task_scores(TASK, marks, beside=("VAE", NAIVE)), seam_score(seams)]
    return Rows(scores, samples, rows)


def references(world: World, cases: Sequence[Case], period: int) -> dict[str, list[np.ndarray]]:
    """One period of each case: the truth, there and back; and what costs nothing.

    frozen frame  the first one
    one way       the true clip in one direction, which leaps back to its start
    cross-fade    from one end of the way to the other and back, without moving
    """
    half = period // 2
    back = [*range(half + 1), *range(half - 1, 0, -1)]
    found: dict[str, list[np.ndarray]] = {}
    for case in cases:
        whole = world.render(case.info.truth)
        fade = cross_fade(whole[0], whole[half], half - 1)
        for name, video in {
            "truth": whole[back],
            "frozen frame": whole[:1].repeat(period, 0),
            "one way": whole[:period],
            "cross-fade": np.concatenate([whole[:1], fade, whole[[half]], fade[::-1]]),
        }.items():
            found.setdefault(name, []).append(video)
    return found


def judge_loop(
    world: World,
    video_THWC: np.ndarray,
    case: Case,
    bars: Bars = LOOP_BARS,
) -> dict[str, float]:
    """Each condition (1.0 or 0.0) and "joint", their product, of one period of a loop.

    The bars are as in `judge`; "direction" is the axis of the way, to and fro alike.
    """
    thing, period = case.info.truth["objects"][0], len(video_THWC)
    closed = np.concatenate([video_THWC, video_THWC[:1]])
    reading = world.parse(closed)
    mine = [one for one in reading.objects if one.colour == thing["colour"]]
    track = mine[0].track_T2 if mine else np.full((len(closed), 2), np.nan)
    one_way = true_track(case.info.truth, period // 2 + 1)
    share, places = presence(world, video_THWC, thing, (0, period), bars)
    short = min(video_THWC.shape[1:3])
    marks = {
        "object": float(share >= bars.object),
        "background": float(reading.tint == case.info.truth["background"]["tint"]),
        "motion": float(path(track) >= bars.motion * 2 * path(one_way)),
        "direction": float(_axis_deg(track, DIRECTIONS[thing["direction"]]) <= bars.angle_deg),
        "continuity": float(
            longest_step(track) <= max(bars.step * longest_step(one_way), bars.slack * short)
            and jump(places) <= bars.jump
        ),
    }
    return marks | {"joint": float(all(marks.values()))}


def seam_score(seams: Mapping[str, Sequence[Seam]]) -> Score:
    """The change of pixels at the wrap over the median change inside: a ratio of means; 1 cannot be
    told from any other step. Beside it the motion, since a frozen clip has perfect seams."""
    ratio = {name: _ratio(found) for name, found in seams.items()}
    motion = {f"motion, {name}": float(np.mean([s.motion for s in found]))
              for name, found in seams.items()}  # fmt: skip
    return score_of(f"capabilities/{TASK}/seam", ratio["model"], "lower",
                    floor=ratio["truth"].value,
                    baselines={NAIVE: ratio[NAIVE].value} | motion)  # fmt: skip


def _ratio(seams: Sequence[Seam]) -> Interval:
    medians = np.array([s.median for s in seams])
    if not (medians > 0).all():
        return Interval(math.nan, math.nan, math.nan, len(seams))
    return clip_bootstrap(np.array([s.wrap for s in seams]) / medians, medians)


def _axis_deg(track_T2: np.ndarray, way_2: tuple[float, float]) -> float:
    """Between the line along which a track lies and a way, 0 to 90 degrees; 90 for no motion."""
    seen = track_T2[np.isfinite(track_T2[:, 0])]
    if len(seen) < 2 or path(seen) < 1e-9:
        return 90.0
    axis = np.linalg.svd(seen - seen.mean(0))[2][0]
    return math.degrees(math.acos(min(1.0, abs(float(axis @ np.asarray(way_2))))))
