"""Any size from one model: prompts read back at each, some of aspect ratios never trained."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.clips import Alignment, variety
from vidsim.eval.result import Sample, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import clip_bootstrap
from vidsim.eval.suites.capabilities_score import Rows
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, sample
from vidsim.worlds.base import ClipInfo, World, from_spec
from vidsim.worlds.reader import read_clips

Progress = Callable[[str, int, int], None]
Size = tuple[int, int]
STATED = ("colour", "background", "background_colour", "shape", "count", "direction")
# (height, width) in pixels: eight that the world draws, then eight of aspect ratios it never has
SIZES: tuple[Size, ...] = (
    (48, 48), (48, 96), (64, 64), (64, 96), (96, 64), (64, 112), (96, 96), (96, 144),
    (48, 64), (64, 48), (64, 80), (80, 64), (80, 96), (96, 80), (96, 48), (96, 112),
)  # fmt: skip


class SizesSuite(Protocol):
    """What of the suite's configuration sizes read."""

    sizes: tuple[Size, ...]
    size_clips: int
    training: str
    frames: int
    seed: int
    shown: int
    sampler: SamplerConfig


def size_rows(
    model: Model, world: World, suite: SizesSuite, progress: Progress | None = None
) -> Rows:
    """Samples `size_clips` prompts at every size in one pack and reads them.

    The same prompts and seeds at every size, so that sizes differ in nothing else.
    """
    if not suite.sizes or suite.size_clips < 1:
        raise bad("suite capabilities", "no sizes", "at least one, with a clip each")
    infos = [
        world.scene_for(i, height=height, width=width, num_frames=suite.frames)
        for height, width in suite.sizes
        for i in range(suite.size_clips)
    ]
    requests = [
        Request(info.captions[0].text, info.height, info.width, info.num_frames, info.fps,
                suite.seed + k % suite.size_clips)
        for k, info in enumerate(infos)
    ]  # fmt: skip
    videos = [video.video_THWC for video in sample(model, requests, suite.sampler, progress)]
    stage = functools.partial(progress, "parse") if progress else None
    truths = [info.truth for info in infos]
    renders = [world.render(truth) for truth in truths]
    read = read_clips(world, [*videos, *renders], truths * 2, stage)
    made, true = (
        [share_right(row) for row in part] for part in (read[: len(infos)], read[len(infos) :])
    )
    new = new_aspects(model, from_spec(suite.training), suite.sizes)
    scores = size_scores(infos, made, true, new, world.chance())
    clips = [{"task": "sizes", "size": _name(info), "right": right, **row}
             for info, right, row in zip(infos, made, read, strict=False)]  # fmt: skip
    samples = [
        Sample(f"size {_name(infos[k])}", infos[k].captions[0].text, (View(videos[k]),),
               infos[k].fps, "Any size: the first prompt at each", {"seed": requests[k].seed})
        for k in range(0, len(infos) if suite.shown else 0, suite.size_clips)
    ]  # fmt: skip
    return Rows(scores, samples, clips)


def share_right(row: dict[str, float]) -> float:
    """Of the attributes that a short caption states and that apply, the share that is right."""
    return float(np.mean([row[name] for name in STATED if name in row]))


def new_aspects(model: Model, training: World, sizes: Sequence[Size]) -> set[Size]:
    """The sizes whose ratio of sides no training clip has."""
    cfg, patch = model.vae.vae.cfg, model.task.cfg.latent.patch
    drawn = variety(training, Alignment(cfg.time_stride, cfg.space_stride * patch[1])).sizes
    known = {height / width for height, width in drawn}
    return {size for size in sizes if not np.isclose(size[0] / size[1], list(known)).any()}


def size_scores(
    infos: Sequence[ClipInfo],
    made: Sequence[float],
    true: Sequence[float],
    new: set[Size],
    chance: dict[str, float],
) -> list[Score]:
    """Over all sizes, over those of new aspect ratios, and a row a size."""
    guess = float(np.mean([chance[name] for name in STATED if name in chance]))

    def row(name: str, chosen: Sequence[int]) -> Score:
        return score_of(
            f"capabilities/{name}", clip_bootstrap(np.array([made[k] for k in chosen])), "higher",
            floor=float(np.mean([true[k] for k in chosen])), baselines={"chance": guess},
            unit="share",
        )  # fmt: skip

    size = [(info.height, info.width) for info in infos]
    rows = [row("sizes", range(len(infos)))]
    fresh = [k for k in range(len(infos)) if size[k] in new]
    if fresh:
        rows.append(row("sizes_new_aspects", fresh))
    for one in dict.fromkeys(size):
        where = "new_aspect" if one in new else "trained_aspect"
        rows.append(row(f"sizes/{where}/{one[1]}x{one[0]}",
                        [k for k in range(len(infos)) if size[k] == one]))  # fmt: skip
    return rows


def _name(info: ClipInfo) -> str:
    return f"{info.width}x{info.height}"
