"""Suite `prompts`: clips made from prompts of a world, read back by the world's parser."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.clips import Alignment, variety
from vidsim.eval.result import Sample, SuiteResult, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import wilson
from vidsim.eval.suites.vae import reconstruct
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, Video, lay_out, sample
from vidsim.worlds.base import ClipInfo, World, from_spec
from vidsim.worlds.reader import read_clips

Progress = Callable[[str, int, int], None]
# What a short caption states, in the parser's words; the rows' names differ for one of them.
SHORT = ("colour", "background", "background_colour", "shape", "count", "direction")
ROW_NAMES = {"direction": "motion"}


@dataclass(frozen=True)
class PromptsSuite:
    """Which prompts, and how clips are made from them.

    prompts     number of prompts, evenly over sizes, for each size evenly over durations
    world       specification of the world that words them; one object unless it says otherwise
    caption     kind of caption: short or descriptive
    attributes  scored; () = those that such a caption states
    sizes       (height, width) in pixels; () = all of the world's that the model can make
    frames      durations; () = all of the world's that the model can make
    vae_prompts of the first so many, the true renders are also read after the VAE's round trip
    seed        of the first clip's noise; the others follow
    shown       clips kept to look at
    sampler     how clips are made
    """

    prompts: int = 270
    world: str = "shapes?split=heldout&seed=2&objects=1"
    caption: str = "short"
    attributes: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    frames: tuple[int, ...] = ()
    vae_prompts: int = 72
    seed: int = 0
    shown: int = 36
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.shown < 0:
            raise bad("suite prompts", f"{self.prompts} prompts, {self.shown} shown", "at least 1")
        if self.caption not in ("short", "descriptive"):
            raise bad("suite prompts", f"caption {self.caption!r}", "short or descriptive")


def run(model: Model, suite: PromptsSuite, progress: Progress | None = None) -> SuiteResult:
    """Makes the clips, reads them, and reads the true renders and their round trip beside them."""
    world = from_spec(suite.world)
    infos = draw_prompts(model, world, suite)
    prompts = [_caption(info, suite.caption) for info in infos]
    requests = [
        Request(prompt, info.height, info.width, info.num_frames, info.fps, suite.seed + i)
        for i, (prompt, info) in enumerate(zip(prompts, infos, strict=True))
    ]
    videos = sample(model, requests, suite.sampler, progress)
    some = [world.render(info.truth) for info in infos[: suite.vae_prompts]]
    through = reconstruct(model.vae, some, progress) if some else []
    clips = [video.video_THWC for video in videos] + through
    truths = [info.truth for info in infos]
    stage = functools.partial(progress, "parse") if progress else None
    rows = read_clips(world, clips, truths + truths[: len(some)], stage)
    floor = _read_renders(world, suite.world, infos, stage)
    read = {"made": rows[: len(infos)], "render": floor, "VAE": rows[len(infos) :]}
    attributes = suite.attributes or _stated(world, suite.caption)
    scores = attribute_scores(read, infos, world.chance(), attributes)
    guidance = suite.sampler.guidance.scale
    return SuiteResult(
        "prompts",
        "Prompts never seen in training",
        f"{len(infos)} {suite.caption} prompts of the world {suite.world}, evenly over "
        f"{len({(i.height, i.width) for i in infos})} frame sizes. The world's parser reads every "
        "clip. The floor is what it reads from the true renders; VAE, from the first "
        f"{len(some)} of them after the VAE's round trip.",
        tuple(scores),
        tuple(_samples(videos, read["made"], attributes, suite.shown)),
        {
            "prompts": len(infos), "solver": suite.sampler.solver, "steps": suite.sampler.steps,
            "guidance": guidance, "first seed": suite.seed,
        },
        tuple(
            {"prompt": v.request.prompt, "size": f"{v.request.width}x{v.request.height}",
             "frames": v.request.num_frames, "seed": v.request.seed, **row}
            for v, row in zip(videos, read["made"], strict=True)
        ),
    )  # fmt: skip


def draw_prompts(model: Model, world: World, suite: PromptsSuite) -> list[ClipInfo]:
    """The suite's prompts: prompt i has size i mod sizes, and durations in turn for each size.

    Raises  BadInput when the model cannot make one of them, before anything is compiled
    """
    cfg = model.vae.vae.cfg
    patch = model.task.cfg.latent.patch
    have = variety(world, Alignment(cfg.time_stride, cfg.space_stride * patch[1]))
    sizes, frames = suite.sizes or have.sizes, suite.frames or have.frames
    infos = []
    for i in range(suite.prompts):
        height, width = sizes[i % len(sizes)]
        duration = frames[i // len(sizes) % len(frames)]
        infos.append(world.scene_for(i, height=height, width=width, num_frames=duration))
    lay_out(model, [
        Request(_caption(info, suite.caption), info.height, info.width, info.num_frames)
        for info in infos
    ])  # fmt: skip
    return infos


# The same for every model, and half of the reading where many are measured: kept.
_renders_read: dict[tuple[str, tuple[tuple[int, int, int], ...]], list[dict[str, float]]] = {}


def _read_renders(
    world: World, spec: str, infos: Sequence[ClipInfo],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, float]]:  # fmt: skip
    """What the parser reads from the true render of each prompt of `draw_prompts`."""
    key = spec, tuple((info.height, info.width, info.num_frames) for info in infos)
    if key not in _renders_read:
        truths = [info.truth for info in infos]
        renders = [world.render(truth) for truth in truths]
        _renders_read[key] = read_clips(world, renders, truths, progress)
    return _renders_read[key]


def attribute_scores(
    read: dict[str, list[dict[str, float]]],
    infos: Sequence[ClipInfo],
    chance: dict[str, float],
    attributes: Sequence[str],
) -> list[Score]:
    """Rows for each attribute: over all prompts, and for each size."""
    sizes = [f"{info.width}x{info.height}" for info in infos]
    top: list[Score] = []
    details: list[Score] = []
    for name in attributes:
        asked = [i for i, row in enumerate(read["render"]) if name in row]
        if not asked:
            continue

        def row(metric: str, chosen: Sequence[int], name: str = name) -> Score:
            def right(kind: str) -> list[float]:
                return [read[kind][i].get(name, 0.0) for i in chosen if i < len(read[kind])]

            baselines = {"chance": chance.get(name, 0.0)}
            if right("VAE"):
                baselines["VAE"] = float(np.mean(right("VAE")))
            interval = wilson(sum(right("made")), len(chosen))
            floor = float(np.mean(right("render")))
            return score_of(
                metric, interval, "higher", floor=floor, baselines=baselines, unit="share"
            )

        label = f"prompts/{ROW_NAMES.get(name, name)}"
        top.append(row(label, asked))
        details += [
            row(f"{label}/{size}", [i for i in asked if sizes[i] == size])
            for size in dict.fromkeys(sizes[i] for i in asked)
        ]
    return top + details


def _stated(world: World, caption: str) -> tuple[str, ...]:
    known = world.chance()
    return tuple(known) if caption == "descriptive" else tuple(n for n in SHORT if n in known)


def _caption(info: ClipInfo, kind: str) -> str:
    for caption in info.captions:
        if caption.kind == kind:
            return caption.text
    raise bad("suite prompts", f"the world has no {kind} caption")


def _samples(
    videos: Sequence[Video],
    rows: Sequence[dict[str, float]],
    attributes: Sequence[str],
    shown: int,
) -> list[Sample]:
    """So many clips evenly over the suite, and so over sizes and durations; none picked."""
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(shown, len(videos))).round().astype(int))
    return [
        Sample(
            f"prompt {i}",
            videos[i].request.prompt,
            (View(videos[i].video_THWC),),
            videos[i].fps,
            "Samples, none picked",
            {"seed": videos[i].request.seed},
            {ROW_NAMES.get(n, n): rows[i][n] == 1.0 for n in attributes if n in rows[i]},
        )
        for i in chosen.tolist()
    ]
