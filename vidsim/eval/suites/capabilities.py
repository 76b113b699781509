"""Suite `capabilities`: images, animate, extend, join, loop clips and prompts, blend, edit, several
beginnings of one end, any size, long videos, scored on clips whose truth is known.

Every score is joint (see capabilities_score.py) and stands beside what costs nothing: the frozen
frame, the nearest training clip, the mean clip, the cross-fade.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.eval.result import Sample, SuiteResult, View
from vidsim.eval.score import Score
from vidsim.eval.suites.capabilities_beginnings import beginning_rows
from vidsim.eval.suites.capabilities_cases import (
    TASKS,
    Case,
    Library,
    draw_cases,
    make_library,
    outcome_rows,
    trivial,
)
from vidsim.eval.suites.capabilities_edit import edit_rows
from vidsim.eval.suites.capabilities_long import long_rows
from vidsim.eval.suites.capabilities_loops import loop_rows
from vidsim.eval.suites.capabilities_meetings import blend_rows, stranger_rows
from vidsim.eval.suites.capabilities_prompted import (
    batch_rows,
    image_rows,
    large_rows,
    prototype_rows,
    variation_rows,
)
from vidsim.eval.suites.capabilities_score import CHECKS, Rows, judge, task_scores
from vidsim.eval.suites.capabilities_sizes import SIZES, size_rows
from vidsim.eval.suites.vae import reconstruct
from vidsim.generate.extend import animate, extend
from vidsim.generate.join import join
from vidsim.generate.loop import loop_clip
from vidsim.generate.made import Made, require_training
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out
from vidsim.worlds.base import World, from_spec

Progress = Callable[[str, int, int], None]
Marks = dict[str, list[dict[str, float]]]
Task = Callable[[Model, World, Any, Progress | None], Rows]
# Tasks with rows of their own: where given frames lead (a loop's reference does), and where the
# prompt alone says what is to be seen.
GIVEN: dict[str, Task] = {
    "loop_prompt": loop_rows, "strangers": stranger_rows, "beginnings": beginning_rows,
}  # fmt: skip
PROMPTED: dict[str, Task] = {
    "edit": edit_rows, "image": image_rows, "prototype": prototype_rows,
    "variations": variation_rows, "sizes": size_rows, "large": large_rows, "batch": batch_rows,
    "blend": blend_rows, "long": long_rows,
}  # fmt: skip
FEW = ("edit", "beginnings", "variations", "large")  # tasks that cost several clips each
ALL = (*TASKS, *GIVEN, *PROMPTED)
NEEDS = {"animate": "animate", "forward": "extend forward", "backward": "extend backward",
         "join": "join", "loop": "join", "strangers": "join",
         "beginnings": "extend backward"}  # fmt: skip


@dataclass(frozen=True)
class CapabilitiesSuite:
    """Which tasks, on which clips, how they are sampled.

    tasks      of ALL
    clips      of each task
    few        clips at most of tasks that cost several of the others (FEW)
    world      specification of the held-out world; one object
    training   specification of the world that the trivial clips come from
    library    clips of it
    size       (height, width) in pixels
    frames     of a whole clip
    strengths  of edits, one row each
    beginnings made for each given end; as many variations of a prompt
    sizes      (height, width) of prompts sampled at many sizes; `size_clips` prompts each
    large      (height, width) of pictures larger than those of training
    long_clips, long_s, long_fps   long videos: how many, their seconds, frames a second
    seed       of the first clip's noise; the others follow
    shown      clips of each task kept to look at
    sampler    how clips are made
    prompted   guidance scale instead of the sampler's where the prompt leads (PROMPTED)
    """

    tasks: tuple[str, ...] = ALL
    clips: int = 32
    few: int = 16
    world: str = "shapes?split=heldout&seed=3&objects=1"
    training: str = "shapes?split=train&seed=0&objects=1"
    library: int = 256
    size: tuple[int, int] = (64, 64)
    frames: int = 17
    strengths: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85, 0.9)
    beginnings: int = 4
    sizes: tuple[tuple[int, int], ...] = SIZES
    size_clips: int = 16
    large: tuple[int, int] = (256, 256)
    long_clips: int = 8
    long_s: float = 60.0
    long_fps: float = 8.0
    seed: int = 0
    shown: int = 4
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    prompted: float = 3.0

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in ALL:
                raise bad("suite capabilities", f"task {task!r}", nearest(task, ALL))
        if min(self.clips, self.few, self.library, self.long_clips) < 1 or self.shown < 0:
            raise bad("suite capabilities", f"{self.clips} clips, library of {self.library}",
                      "at least 1")  # fmt: skip
        if "edit" in self.tasks and not self.strengths:
            raise bad("suite capabilities", "no strengths for task 'edit'",
                      "at least one in [0, 1]", "name strengths or leave the task out")  # fmt: skip


def run(model: Model, suite: CapabilitiesSuite, progress: Progress | None = None) -> SuiteResult:
    """Makes the clips of every task, judges them beside the truth and the trivial ones."""
    world, stride = from_spec(suite.world), model.grid.time_stride
    height, width = suite.size
    sizes = suite.sizes if "sizes" in suite.tasks else ()
    lay_out(model, [Request("", *size, suite.frames) for size in ((height, width), *sizes)])
    if "large" in suite.tasks:
        lay_out(model, [Request("", *suite.large)], long_rows=True)
    scores: list[Score] = []
    samples: list[Sample] = []
    clips: list[dict[str, Any]] = []
    tasks = [task for task in suite.tasks if task in TASKS]
    for task in suite.tasks:
        if task in NEEDS:
            require_training(model, NEEDS[task], "suite capabilities")
    drawn = {  # all of them first: hours later is no time to miss some
        task: draw_cases(task, world, suite.clips, suite.size, suite.frames, stride)
        for task in tasks
    }
    library = make_library(from_spec(suite.training), suite.library, suite.size, suite.frames)
    for task, cases in drawn.items():
        made = make(model, cases, suite, progress)
        through = round_trip(model, cases)
        marks, videos = judge_all(world, cases, made, library, progress, through)
        scores += task_scores(task, marks)
        samples += _samples(task, cases, videos, marks, suite)
        clips += outcome_rows(marks, cases)
    for task in (*GIVEN, *PROMPTED):
        if task in suite.tasks:
            found = more_rows(task, model, world, suite, progress)
            scores += found.scores
            samples += found.samples
            clips += found.clips
    return SuiteResult(
        "capabilities",
        "One model, every capability",
        f"{suite.clips} clips of {suite.world} for each task, {width}x{height}, {suite.frames} "
        "frames. A clip counts only when its new frames show the object, the background and the "
        "motion of the truth without a jump. Skill: 0 is the best of the clips that cost nothing, "
        "1 the truth.",
        tuple(scores),
        tuple(samples),
        {"clips": suite.clips, "solver": suite.sampler.solver, "steps": suite.sampler.steps,
         "guidance": suite.sampler.guidance.scale, "of prompts alone": suite.prompted,
         "first seed": suite.seed},
        tuple(clips),
    )  # fmt: skip


def more_rows(
    task: str, model: Model, world: World, suite: CapabilitiesSuite, progress: Progress | None
) -> Rows:
    """The rows of a task of GIVEN or PROMPTED, which has its own number of clips and guidance."""
    if task in FEW:
        suite = dataclasses.replace(suite, clips=min(suite.clips, suite.few))
    if task in GIVEN:
        return GIVEN[task](model, world, suite, progress)
    guidance = dataclasses.replace(suite.sampler.guidance, scale=suite.prompted)
    sampler = dataclasses.replace(suite.sampler, guidance=guidance)
    return PROMPTED[task](model, world, dataclasses.replace(suite, sampler=sampler), progress)


def make(
    model: Model, cases: Sequence[Case], suite: CapabilitiesSuite, progress: Progress | None
) -> list[np.ndarray]:
    """The model's whole clip for each case."""
    videos = []
    for number, case in enumerate(cases):
        info = case.info
        request = Request(case.prompt, info.height, info.width, 1, info.fps, suite.seed + number)
        videos.append(_one(model, case, request, suite.sampler).video_THWC)
        if progress:
            progress(f"make {case.task}", number + 1, len(cases))
    return videos


def _one(model: Model, case: Case, request: Request, config: SamplerConfig) -> Made:
    count = case.new[1] - case.new[0]
    if case.task == "animate":
        asked = dataclasses.replace(request, num_frames=len(case.truth_THWC))
        return animate(model, case.before[0], [asked], config)[0]
    if case.task == "forward":
        return extend(model, case.before, [request], count, "forward", config)[0]
    if case.task == "backward":
        return extend(model, case.after, [request], count, "backward", config)[0]
    if case.task == "join":
        return join(model, case.before, case.after, [request], count, config)[0]
    return loop_clip(model, case.before, [request], count, config)[0]


def round_trip(model: Model, cases: Sequence[Case]) -> list[np.ndarray]:
    """The cases with their true new frames as the autoencoder gives them back: what no denoiser of
    its latents can be expected to surpass."""
    whole = []
    for case in cases:
        spare = (1 - len(case.truth_THWC)) % model.grid.time_stride
        whole.append(np.concatenate([case.truth_THWC, case.truth_THWC[-1:].repeat(spare, 0)]))
    made = reconstruct(model.vae, whole)
    return [c.with_new(video[slice(*c.new)]) for c, video in zip(cases, made, strict=True)]


def judge_all(
    world: World,
    cases: Sequence[Case],
    made: Sequence[np.ndarray] | None,
    library: Library,
    progress: Progress | None = None,
    through: Sequence[np.ndarray] = (),
) -> tuple[Marks, dict[str, list[np.ndarray]]]:
    """Marks of every case: the model's (if any), the truth's, the trivial ones', and of `through`,
    the truth after the autoencoder's round trip (if any), as "VAE"; and the clips."""
    videos: dict[str, list[np.ndarray]] = {"model": list(made)} if made is not None else {}
    if through:
        videos["VAE"] = list(through)
    videos["truth"] = [case.truth_THWC for case in cases]
    for case in cases:
        for name, clip in trivial(case, library).items():
            videos.setdefault(name, []).append(clip)
    marks: Marks = {}
    done, of = 0, len(videos) * len(cases)
    for name, group in videos.items():
        marks[name] = []
        for case, clip in zip(cases, group, strict=True):
            marks[name].append(judge(world, clip, case.info.truth, case.track_T2, case.new))
            done += 1
            if progress:
                progress(f"judge {case.task}", done, of)
    return marks, videos


def _samples(
    task: str,
    cases: Sequence[Case],
    videos: Mapping[str, Sequence[np.ndarray]],
    marks: Marks,
    suite: CapabilitiesSuite,
) -> list[Sample]:
    """The first cases as they come."""
    made = []
    for i, case in enumerate(cases[: suite.shown]):
        views = tuple(
            View(videos[name][i], name) for name in ("model", "truth", "nearest training clip")
        )
        given = f"{len(case.before)} before, {len(case.after)} after"
        made.append(Sample(
            f"{task} {i}", case.prompt, views, case.info.fps, f"{task.capitalize()}",
            {"seed": suite.seed + i, "given frames": given},
            {check: marks["model"][i][check] == 1.0 for check in CHECKS},
        ))  # fmt: skip
    return made
