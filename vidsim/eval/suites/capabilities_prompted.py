"""From prompts alone: pictures, prototypes of them, variations of one prompt, packs of many."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vidsim.eval.result import Sample, View
from vidsim.eval.score import score_of
from vidsim.eval.stats import Interval, clip_bootstrap, paired_bootstrap
from vidsim.eval.suites.capabilities_score import ClipsSuite, Rows, task_scores
from vidsim.eval.suites.vae import reconstruct
from vidsim.generate.bench_prototype import measure
from vidsim.generate.bench_sample import run as bench
from vidsim.generate.grow import sample_grown
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import sample
from vidsim.worlds.base import ClipInfo, World, from_spec

Progress = Callable[[str, int, int], None]
IMAGE_CHECKS = ("colour", "shape", "count", "background", "background_colour")
PINS = ("colour", "shape", "size", "direction", "speed")  # of an object; with those of its scene
APART = 0.1  # short sides between the places of two variations that differ
SMALL = (48, 48)  # a prototype
FACTOR = 2  # by which the sides of its full size are longer
BATCH, BATCH_RUNS = 12, 3  # clips of a pack, and how often each way is timed


class PromptedSuite(ClipsSuite, Protocol):
    """What of the suite's configuration these tasks read."""

    beginnings: int
    training: str
    library: int
    sizes: tuple[tuple[int, int], ...]
    large: tuple[int, int]


def image_rows(
    model: Model, world: World, suite: PromptedSuite, progress: Progress | None = None
) -> Rows:
    """Pictures of held-out prompts: right where all that the prompt says is, in one object."""
    infos = [_scene(world, suite, i, 1) for i in range(suite.clips)]
    training = from_spec(suite.training)
    known = [_scene(training, suite, i, 1) for i in range(suite.library)]
    pictures = np.stack([training.render(info.truth) for info in known])
    truth = [world.render(info.truth) for info in infos]
    requests = [_request(info, suite.seed + k) for k, info in enumerate(infos)]
    videos: dict[str, Sequence[np.ndarray]] = {
        "model": [made.video_THWC for made in sample(model, requests, suite.sampler, progress)],
        "truth": truth,
        "VAE": reconstruct(model.vae, truth),
        "nearest training picture": [pictures[_nearest(info, known)] for info in infos],
        "mean picture": [np.rint(pictures.mean(0)).astype(np.uint8)] * len(infos),
    }
    return _picture_rows("image", world, infos, requests, videos, suite.shown)


def large_rows(
    model: Model, world: World, suite: PromptedSuite, progress: Progress | None = None
) -> Rows:
    """Pictures of a size that training does not show, grown, beside the same sampled at once."""
    height, width = suite.large
    infos = [
        world.scene_for(i, height=height, width=width, num_frames=1) for i in range(suite.clips)
    ]
    requests = [_request(info, suite.seed + k) for k, info in enumerate(infos)]
    whole = dataclasses.replace(suite.sampler, long_rows=True, max_rows=1)
    videos: dict[str, Sequence[np.ndarray]] = {
        "model": [v.video_THWC for v in sample_grown(model, requests, whole, progress)],
        "truth": [world.render(info.truth) for info in infos],
        "sampled at once": [v.video_THWC for v in sample(model, requests, whole, progress)],
    }
    return _picture_rows("large", world, infos, requests, videos, suite.shown)


def _picture_rows(
    task: str,
    world: World,
    infos: Sequence[ClipInfo],
    requests: Sequence[Request],
    videos: Mapping[str, Sequence[np.ndarray]],
    shown: int,
) -> Rows:
    marks = {
        name: [judge_image(world, video, info) for video, info in zip(group, infos, strict=True)]
        for name, group in videos.items()
    }
    samples = [
        Sample(f"{task} {k}", requests[k].prompt,
               tuple(View(videos[name][k], name) for name in ("model", "truth")), 1.0,
               f"{task.capitalize()} pictures", {"seed": requests[k].seed},
               {check: marks["model"][k][check] == 1.0 for check in IMAGE_CHECKS})
        for k in range(min(shown, len(infos)))
    ]  # fmt: skip
    clips = [{"task": task, "prompt": request.prompt, **{n: marks[n][k]["joint"] for n in marks}}
             for k, request in enumerate(requests)]  # fmt: skip
    return Rows(task_scores(task, marks, checks=IMAGE_CHECKS), samples, clips)


def judge_image(world: World, video_THWC: np.ndarray, info: ClipInfo) -> dict[str, float]:
    """Each attribute of IMAGE_CHECKS (1.0 or 0.0) and "joint", their product."""
    read = world.compare(world.parse(video_THWC), info.truth)
    marks = {check: float(read.get(check, 0.0) == 1.0) for check in IMAGE_CHECKS}
    return marks | {"joint": float(all(marks.values()))}


def prototype_rows(
    model: Model, world: World, suite: PromptedSuite, progress: Progress | None = None
) -> Rows:
    """How much nearer a small picture is to the full size of its own seed than of another one."""
    infos = [
        world.scene_for(i, height=SMALL[0], width=SMALL[1], num_frames=1)
        for i in range(suite.clips)
    ]
    prompts = [info.captions[0].text for info in infos]
    found = measure(model, prompts, suite.sampler, SMALL, FACTOR, progress)
    scores = [
        score_of("capabilities/prototype", paired_bootstrap(found.other, found.same), "higher",
                 baselines={"another seed": 0.0}, unit="of 255"),
        score_of("capabilities/prototype/difference", clip_bootstrap(found.same), "lower",
                 baselines={"another seed": float(found.other.mean())}, unit="of 255"),
    ]  # fmt: skip
    clips = [
        {"task": "prototype", "prompt": prompt, "same": float(same), "other": float(other)}
        for prompt, same, other in zip(prompts, found.same, found.other, strict=True)
    ]
    return Rows(scores, [], clips)


def variation_rows(
    model: Model, world: World, suite: PromptedSuite, progress: Progress | None = None
) -> Rows:
    """Several seeds of each prompt: pairs that both obey it and do not begin in one place.

    The floor is as many scenes of the same words, drawn.
    """
    count = suite.beginnings
    infos = [_scene(world, suite, i, suite.frames) for i in range(suite.clips)]
    requests = [_request(info, suite.seed + k * count + j)
                for k, info in enumerate(infos) for j in range(count)]  # fmt: skip
    made = [one.video_THWC for one in sample(model, requests, suite.sampler, progress)]
    rows: list[dict[str, Any]] = []
    samples = []
    for k, info in enumerate(infos):
        ours = made[k * count : (k + 1) * count]
        drawn = [world.render(one.truth) for one in _same_words(world, info, k, count)]
        rows.append({
            "task": "variations", "prompt": info.captions[0].text,
            "model": pairs_right(world, ours, info), "truth": pairs_right(world, drawn, info),
        })  # fmt: skip
        if k < suite.shown:
            samples.append(Sample(
                f"variations {k}", info.captions[0].text,
                tuple(View(video, f"variation {j + 1}") for j, video in enumerate(ours)),
                info.fps, "Variations of one prompt", {"first seed": suite.seed + k * count},
            ))  # fmt: skip
    score = score_of(
        "capabilities/variations", clip_bootstrap(np.array([row["model"] for row in rows])),
        "higher", floor=float(np.mean([row["truth"] for row in rows])),
        baselines={f"one clip {count} times": 0.0}, unit="share",
    )  # fmt: skip
    return Rows([score], samples, rows)


def pairs_right(world: World, videos: Sequence[np.ndarray], info: ClipInfo) -> float:
    """Of all pairs of clips, the share that both show one object of the prompt's colour and shape
    before its background, in places APART when they begin."""
    asked = info.truth
    places = []
    for video in videos:
        reading = world.parse(video)
        marks = world.compare(reading, asked)
        right = all(marks.get(check, 0.0) == 1.0 for check in IMAGE_CHECKS)
        places.append(reading.objects[0].track_T2[0] if right else np.full(2, np.nan))
    least = APART * min(asked["height"], asked["width"])
    return float(np.mean([bool(np.hypot(*(a - b)) >= least)
                          for a, b in itertools.combinations(places, 2)]))  # fmt: skip


def batch_rows(
    model: Model, world: World, suite: PromptedSuite, progress: Progress | None = None
) -> Rows:
    """Clips of several sizes and durations in packed rows, against the same one at a time."""
    lasting = sorted({1, (suite.frames - 1) // 2 // model.grid.time_stride
                      * model.grid.time_stride + 1, suite.frames})  # fmt: skip
    infos = [
        world.scene_for(i, height=height, width=width, num_frames=lasting[i % len(lasting)])
        for i, (height, width) in enumerate(itertools.islice(itertools.cycle(suite.sizes), BATCH))
    ]
    requests = [_request(info, suite.seed + k) for k, info in enumerate(infos)]
    if progress:
        progress("batch", 0, 1)
    found = bench(model, requests, suite.sampler, BATCH_RUNS)

    def alone(value: float, n: int) -> Interval:
        return Interval(value, float("nan"), float("nan"), n)

    scores = [
        score_of("capabilities/batch_speed", alone(found.ratio, BATCH_RUNS), "higher",
                 baselines={"one at a time": 1.0}),
        score_of("capabilities/batch_speed/largest_difference", alone(found.gap, found.clips),
                 "lower"),
    ]  # fmt: skip
    return Rows(scores, [], [{"task": "batch", **dataclasses.asdict(found)}])


def _scene(world: World, suite: PromptedSuite, i: int, frames: int) -> ClipInfo:
    return world.scene_for(i, height=suite.size[0], width=suite.size[1], num_frames=frames)


def _request(info: ClipInfo, seed: int) -> Request:
    return Request(info.captions[0].text, info.height, info.width, info.num_frames, info.fps, seed)


def _words(info: ClipInfo) -> Mapping[str, Any]:
    thing, ground = info.truth["objects"][0], info.truth["background"]
    return {"colour": thing["colour"], "shape": thing["shape"], **ground}


def _nearest(info: ClipInfo, known: Sequence[ClipInfo]) -> int:
    """The training picture with most of the prompt's words: colour, shape, pattern, tint."""
    asked = _words(info)

    def agree(other: ClipInfo) -> int:
        theirs = _words(other)
        return sum(theirs[name] == asked[name] for name in ("colour", "shape", "pattern", "tint"))

    return max(range(len(known)), key=lambda k: agree(known[k]))


def _same_words(world: World, info: ClipInfo, number: int, count: int) -> list[ClipInfo]:
    """Scenes whose words are those of one scene, and whose places are drawn."""
    truth, thing = info.truth, info.truth["objects"][0]
    ground = truth["background"]
    pins = {"pattern": ground["pattern"], "tint": ground["tint"], "style": truth["style"]}
    pins |= {name: thing[name] for name in PINS if thing[name]}
    return [
        world.scene_for(10_000 + number * count + j, height=info.height, width=info.width,
                        num_frames=info.num_frames, **pins)
        for j in range(count)
    ]  # fmt: skip
