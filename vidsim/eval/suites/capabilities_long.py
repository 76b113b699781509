"""A long video, window by window of five seconds: is the object still there, still moving?

No truth exists for a minute, and none is needed: each window must show one object of the prompt's
colour on the prompt's background, as large as it is over the whole video (a short prompt names no
size), and the object must travel. A frozen or empty window fails.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import Interval, clip_bootstrap
from vidsim.eval.suites.capabilities_score import Bars, Rows, path, presence
from vidsim.generate.long import make_windows, one_clip, stream_frames
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig
from vidsim.worlds.base import ClipInfo, World
from vidsim.worlds.shapes import vocabulary as v

Progress = Callable[[str, int, int], None]
WINDOW_S = 5.0
EDGE_S = 10.0  # seconds at either end that are compared
LOOKED = 48  # frames of a video whose object is measured
CHECKS = ("object", "background", "motion")


class LongSuite(Protocol):
    """What of the suite's configuration long videos read."""

    long_clips: int
    long_s: float
    long_fps: float
    size: tuple[int, int]
    frames: int
    seed: int
    sampler: SamplerConfig


def judge_window(
    world: World, video_THWC: np.ndarray, info: ClipInfo, fps: float, bars: Bars
) -> dict[str, float]:
    """Marks of one window: each condition and "joint".

    motion  the object's path is at least bars.motion of the slowest that its prompt's world draws
    """
    thing = info.truth["objects"][0]
    reading = world.parse(video_THWC)
    mine = [one for one in reading.objects if one.colour == thing["colour"]]
    short, seconds = min(video_THWC.shape[1:3]), (len(video_THWC) - 1) / fps
    least = bars.motion * v.SPEEDS["slow"][0] * short * seconds
    seen, _ = presence(world, video_THWC, thing, (0, len(video_THWC)), bars)
    marks = {
        "object": float(seen >= bars.object),
        "background": float(reading.tint == info.truth["background"]["tint"]),
        "motion": float(bool(mine) and path(mine[0].track_T2) >= least),
    }
    return marks | {"joint": float(all(marks.values()))}


def own_size(world: World, video_THWC: np.ndarray, info: ClipInfo) -> ClipInfo:
    """The scene, its first object as large as the video shows it: the median over LOOKED frames of
    what has its colour. The scene as it is where there is nothing of that colour.
    """
    thing, *others = info.truth["objects"]
    frames = np.unique(np.linspace(0, len(video_THWC) - 1, LOOKED).round().astype(int))
    read = [world.parse(video_THWC[t : t + 1]).objects for t in frames]
    areas = [one.area for objects in read for one in objects if one.colour == thing["colour"]]
    if not areas:
        return info
    pixels = float(np.median(areas)) * video_THWC.shape[1] * video_THWC.shape[2]
    seen = {**thing, "half_extent": math.sqrt(pixels / v.AREA[thing["shape"]])}
    return dataclasses.replace(info, truth={**info.truth, "objects": [seen, *others]})


def windows_of(video_THWC: np.ndarray, fps: float) -> list[np.ndarray]:
    """The video in windows of WINDOW_S; a rest shorter than half of one joins the last."""
    length = max(2, round(WINDOW_S * fps))
    count = max(1, round(len(video_THWC) / length))
    return [video_THWC[i * length : (i + 1) * length if i + 1 < count else None]
            for i in range(count)]  # fmt: skip


def long_rows(
    model: Model, world: World, suite: LongSuite, progress: Progress | None = None
) -> Rows:
    """Makes `long_clips` long videos from prompts of moving objects and judges their windows.

    Each by rolling windows ("long") and as one clip of the denoiser ("one_clip").
    """
    found, bars = Rows([], [], []), Bars()
    frames = 1 + round(suite.long_s * suite.long_fps / model.grid.time_stride) * (
        model.grid.time_stride
    )
    rows: dict[str, list[list[dict[str, float]]]] = {way: [] for way in WAYS}
    frozen = []
    for n, info in enumerate(_moving(world, suite)):
        request = Request(
            info.captions[0].text, *suite.size, frames, suite.long_fps, suite.seed + n
        )
        views = []
        for way, make in WAYS.items():
            video = make(model, request, suite.sampler)
            own = own_size(world, video, info)
            marks = [judge_window(world, part, own, suite.long_fps, bars)
                     for part in windows_of(video, suite.long_fps)]  # fmt: skip
            rows[way].append(marks)
            found.clips += [{"task": way, "clip": n, "window": k, **m}
                            for k, m in enumerate(marks)]  # fmt: skip
            right = sum(m["joint"] for m in marks)
            views.append(View(video, f"{way}: {right:.0f} of {len(marks)} windows right"))
        still = np.repeat(views[0].video_THWC[:1], round(WINDOW_S * suite.long_fps), 0)
        own = own_size(world, still, info)
        frozen.append(judge_window(world, still, own, suite.long_fps, bars)["joint"])
        found.samples.append(Sample(
            f"long {n}", request.prompt, tuple(views), suite.long_fps, "Long video",
            {"seed": request.seed},
        ))  # fmt: skip
        if progress:
            progress("long", n + 1, suite.long_clips)
    for way in WAYS:
        found.scores += long_scores(way, rows[way], float(np.mean(frozen)))
    return found


def _rolled(model: Model, request: Request, config: SamplerConfig) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        make_windows(model, request, parts, config)
        return np.stack(list(stream_frames(model, parts, request.num_frames)))


def _at_once(model: Model, request: Request, config: SamplerConfig) -> np.ndarray:
    return one_clip(model, request, config).video_THWC


WAYS: dict[str, Callable[[Model, Request, SamplerConfig], np.ndarray]] = {
    "long": _rolled, "one_clip": _at_once,
}  # fmt: skip


def long_scores(way: str, rows: list[list[dict[str, float]]], frozen: float) -> list[Score]:
    """Rows over videos: all windows, the first and the last ten seconds, each condition."""
    edge = max(1, round(EDGE_S / WINDOW_S))

    def over(name: str, part: slice) -> np.ndarray:
        return np.array([np.mean([m[name] for m in marks[part]]) for marks in rows])

    whole, parts = slice(None), {"first_10s": slice(edge), "last_10s": slice(-edge, None)}
    scores = [
        score_of(f"capabilities/{way}", clip_bootstrap(over("joint", whole)), "higher",
                 baselines={"frozen frame": frozen}, unit="share")
    ]  # fmt: skip
    for name, part in parts.items():
        scores.append(score_of(f"capabilities/{way}/{name}", clip_bootstrap(over("joint", part)),
                               "higher", unit="share"))  # fmt: skip
    first, last = (float(over("joint", part).mean()) for part in parts.values())
    ratio = Interval(last / first if first > 0 else math.nan, math.nan, math.nan, len(rows))
    scores.append(score_of(f"capabilities/{way}/last_over_first", ratio, "higher"))
    for check in CHECKS:
        scores.append(score_of(f"capabilities/{way}/{check}", clip_bootstrap(over(check, whole)),
                               "higher", unit="share"))  # fmt: skip
    return scores


def _moving(world: World, suite: LongSuite) -> list[ClipInfo]:
    """The first scenes of the world whose object moves."""
    infos: list[ClipInfo] = []
    number = 0
    while len(infos) < suite.long_clips:
        info = world.scene_for(
            number, height=suite.size[0], width=suite.size[1], num_frames=suite.frames
        )
        number += 1
        if info.truth["objects"][0]["speed"]:
            infos.append(info)
    return infos
