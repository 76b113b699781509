"""Suite `retrieval`: does each caption of a small set bring back its own clip?

For runs that are meant to learn a handful of clips by heart, the proof that the whole road works on
a user's own videos. A clip is told from the others by nearest neighbour among all of them, at one
common small size, so that clips of different sizes and durations can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from vidsim.core.errors import bad
from vidsim.data.geometry import GeometryConfig
from vidsim.eval import pixels
from vidsim.eval.clips import EvalClip, index_clips
from vidsim.eval.result import Sample, SuiteResult, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import clip_bootstrap, wilson
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out, sample

Progress = Callable[[str, int, int], None]
_SIDE, _FRAMES = 32, 8


@dataclass(frozen=True)
class RetrievalSuite:
    """Which clips, and how they are made.

    index    of the clips the model was trained on, each with its own caption
    clips    at most so many
    seed     of the first clip's noise; the others follow
    sampler  how clips are made
    """

    index: str = ""
    clips: int = 8
    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise bad("suite retrieval", f"{self.clips} clips", "at least 2")


def run(model: Model, suite: RetrievalSuite, progress: Progress | None = None) -> SuiteResult:
    """Asks for every clip by its caption, by no caption, and at the size of the next clip."""
    clips = _clips(model, suite)
    n = len(clips)
    own = [_request(clip, clip.captions[0], suite.seed + i) for i, clip in enumerate(clips)]
    empty = [_request(clip, "", suite.seed + i) for i, clip in enumerate(clips)]
    # The caption of one clip at the size and duration of the next: the words must decide.
    other = [
        _request(clips[(i + 1) % n], clip.captions[0], suite.seed + i)
        for i, clip in enumerate(clips)
    ]
    made = [v.video_THWC for v in sample(model, own + empty + other, suite.sampler, progress)]
    small = [thumbnail(clip.video_THWC) for clip in clips]
    nearest = [nearest_clip(video, small) for video in made]
    wanted = list(range(n))
    by_own, by_empty, by_other = nearest[:n], nearest[n : 2 * n], nearest[2 * n :]
    psnr = [pixels.psnr(video, clip.video_THWC) for video, clip in zip(made, clips, strict=False)]
    empty_psnr = [
        pixels.psnr(video, clip.video_THWC) for video, clip in zip(made[n:], clips, strict=False)
    ]
    flat = float(np.mean([pixels.flat_colour_psnr(clip.video_THWC) for clip in clips]))
    chance = {"chance": 1.0 / n}
    scores = (
        _share("retrieval/own_caption", by_own, wanted, "higher", chance),
        _share("retrieval/caption_at_another_size", by_other, wanted, "higher", chance),
        _share("retrieval/empty_prompt", by_empty, wanted, "lower", chance),
        score_of("retrieval/psnr", clip_bootstrap(np.array(psnr)), "higher",
                 baselines={"flat colour": flat, "empty prompt": float(np.mean(empty_psnr))},
                 unit="dB"),
        Score("retrieval/psnr_worst_clip", min(psnr), float("nan"), float("nan"), n, "higher",
              unit="dB"),
    )  # fmt: skip
    return SuiteResult(
        "retrieval",
        "Each caption brings back its own clip",
        f"{n} clips of {suite.index}. A made clip counts as right when the nearest of the {n} "
        "clips is the one that the caption belongs to. With an empty prompt, or at the size of "
        "another clip, only the words (or their absence) can decide.",
        scores,
        tuple(_samples(clips, made, nearest, psnr)),
        {"clips": n, "solver": suite.sampler.solver, "steps": suite.sampler.steps,
         "guidance": suite.sampler.guidance.scale},
        tuple(
            {"clip": clip.name, "nearest": clips[a].name, "nearest, no prompt": clips[b].name,
             "psnr": value}
            for clip, a, b, value in zip(clips, by_own, by_empty, psnr, strict=True)
        ),
    )  # fmt: skip


def thumbnail(video_THWC: np.ndarray) -> np.ndarray:
    """float64 [8,32,32,3]: a clip at one common size; frames evenly spread, areas averaged."""
    chosen = np.linspace(0, len(video_THWC) - 1, _FRAMES).round().astype(int)
    frames = [
        Image.fromarray(video_THWC[t]).resize((_SIDE, _SIDE), Image.Resampling.BOX) for t in chosen
    ]
    return np.stack([np.asarray(frame, np.float64) for frame in frames])


def nearest_clip(video_THWC: np.ndarray, thumbnails: Sequence[np.ndarray]) -> int:
    """Index of the clip with the smallest mean squared error at the common size."""
    ours = thumbnail(video_THWC)
    return int(np.argmin([np.square(ours - theirs).mean() for theirs in thumbnails]))


def _clips(model: Model, suite: RetrievalSuite) -> list[EvalClip]:
    """Clips as the model saw them, checked before anything is compiled."""
    if not suite.index:
        raise bad("suite retrieval", "no index", "the index that the model was trained on")
    cfg = model.vae.vae.cfg
    geometry = GeometryConfig(
        vae_stride=(cfg.time_stride, cfg.space_stride, cfg.space_stride),
        patch=model.task.cfg.latent.patch, max_tokens=model.limits.tokens, over_tokens="shorten",
    )  # fmt: skip
    clips = index_clips(suite.index, suite.clips, geometry)
    if len(clips) < 2:
        raise bad("suite retrieval", f"{len(clips)} clips in {suite.index}", "at least 2")
    lay_out(model, [_request(clip, clip.captions[0], 0) for clip in clips])
    return clips


def _request(clip: EvalClip, prompt: str, seed: int) -> Request:
    T, H, W, _ = clip.video_THWC.shape
    return Request(prompt, H, W, T, clip.fps, seed)


def _share(
    metric: str, found: Sequence[int], wanted: Sequence[int], direction, chance: dict[str, float]
) -> Score:
    right = sum(a == b for a, b in zip(found, wanted, strict=True))
    return score_of(metric, wilson(right, len(wanted)), direction, baselines=chance, unit="share")


def _samples(
    clips: Sequence[EvalClip],
    made: Sequence[np.ndarray],
    nearest: Sequence[int],
    psnr: Sequence[float],
) -> list[Sample]:
    n = len(clips)
    samples = [
        Sample(
            f"own {i}",
            clip.captions[0],
            (View(clip.video_THWC, "the clip"), View(made[i], "made from its caption")),
            clip.fps,
            "Own captions",
            {"PSNR dB": round(psnr[i], 2)},
            {"nearest is its own": nearest[i] == i},
        )
        for i, clip in enumerate(clips)
    ]
    for group, first, prompts in (
        ("Empty prompts", n, [""] * n),
        ("Captions at another clip's size", 2 * n, [clip.captions[0] for clip in clips]),
    ):
        samples += [
            Sample(
                f"{group} {i}",
                prompts[i],
                (View(made[first + i]),),
                clips[(i + 1) % n if prompts[i] else i].fps,
                group,
                {"nearest clip": nearest[first + i] + 1},
            )
            for i in range(n)
        ]
    return samples
