"""Suite `vae`: clips through encoder and decoder, against the pixels and against a parser."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.geometry import GeometryConfig
from vidsim.eval import pixels
from vidsim.eval.clips import Alignment, EvalClip, index_clips, world_clips
from vidsim.eval.result import Sample, SuiteResult, View
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import clip_bootstrap, wilson
from vidsim.generate.model import VaeModel
from vidsim.models.codec import decode_clips, encode_clips
from vidsim.worlds.base import World, from_spec
from vidsim.worlds.reader import read_clips

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VaeSuite:
    """What the suite measures on.

    clips        at most so many; of a world, evenly over sizes
    world        specification of a world; not used when `index` is given
    index        an index of the user's own clips ("" = the world)
    skip_frames  of each clip of the index: measure on later frames than these
    max_frames   of a clip of the index
    max_area     pixels of a frame of the index
    shown        clips whose reconstruction is kept to look at
    seed         of the bootstrap
    """

    clips: int = 72
    world: str = "shapes?split=heldout&seed=1"
    index: str = ""
    skip_frames: int = 0
    max_frames: int = 33
    max_area: int = 768 * 768
    shown: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or self.shown < 0 or self.skip_frames < 0:
            raise bad("suite vae", f"{self}", "clips >= 1, shown >= 0, skip_frames >= 0")


def run(model: VaeModel, suite: VaeSuite, progress: Progress | None = None) -> SuiteResult:
    """Codes the clips (the encoder's mean, no noise) and compares."""
    cfg = model.vae.cfg
    world = None if suite.index else from_spec(suite.world)
    if world is not None:
        clips = world_clips(world, suite.clips, Alignment(cfg.time_stride, cfg.space_stride))
    else:
        geometry = GeometryConfig(
            vae_stride=(cfg.time_stride, cfg.space_stride, cfg.space_stride), patch=(1, 1, 1),
            max_area=suite.max_area, max_frames=suite.max_frames, max_tokens=1 << 30,
        )  # fmt: skip
        clips = index_clips(suite.index, suite.clips, geometry, suite.skip_frames)
    videos = [clip.video_THWC for clip in clips]
    made = reconstruct(model, videos, progress)
    scores = pixel_scores(clips, made, suite.seed)
    if world is not None:
        scores += parser_scores(world, clips, made, suite.seed, progress)
    source = f"the world {suite.world}" if world else f"the index {suite.index}"
    later = f", after their first {suite.skip_frames} frames" if suite.skip_frames else ""
    return SuiteResult(
        "vae",
        "VAE reconstruction",
        f"{len(clips)} clips of {source}{later}, through encoder and decoder. PSNR is taken from "
        "the mean squared error of the whole clip, then averaged over clips; the flat colour is "
        "the clip's own mean colour.",
        tuple(scores),
        tuple(_samples(clips, made, suite.shown)),
        {
            "clips": len(clips),
            "compression": f"{cfg.time_stride}×{cfg.space_stride}×{cfg.space_stride}, "
            f"{cfg.latent_channels} channels",
        },
        tuple(
            {"clip": clip.name, "size": clip.size, "frames": len(video),
             "psnr": pixels.psnr(video, clip.video_THWC)}
            for clip, video in zip(clips, made, strict=True)
        ),
    )  # fmt: skip


def reconstruct(
    model: VaeModel, videos: Sequence[np.ndarray], progress: Progress | None = None
) -> list[np.ndarray]:
    """Clips after encoder and decoder, uint8."""

    def stage(name: str) -> Callable[[int, int], None] | None:
        return functools.partial(progress, name) if progress else None

    latents = encode_clips(model.vae, model.params, videos, progress=stage("encode"))
    return decode_clips(model.vae, model.params, latents, progress=stage("decode"))


def pixel_scores(clips: Sequence[EvalClip], made: Sequence[np.ndarray], seed: int) -> list[Score]:
    """PSNR of frames, of boxes and above a flat colour, SSIM; whole and by size."""
    truth = [clip.video_THWC for clip in clips]
    psnr = np.array([pixels.psnr(a, b) for a, b in zip(made, truth, strict=True)])
    flat = np.array([pixels.flat_colour_psnr(video) for video in truth])
    sizes = [clip.size for clip in clips]
    scores = [
        _mean("vae/psnr", psnr, seed, flat),
        _mean("vae/gain_over_flat_colour", psnr - flat, seed),
    ]
    boxed = [i for i, clip in enumerate(clips) if clip.boxes is not None]
    if boxed:
        scores.append(_boxes(clips, made, boxed, seed))
    large = [i for i, video in enumerate(truth) if min(video.shape[1:3]) >= 11]
    if large:
        ssim = np.array([pixels.ssim(made[i], truth[i]) for i in large])
        scores.append(score_of("vae/ssim", clip_bootstrap(ssim, seed=seed), "higher"))
    images = np.array([len(video) == 1 for video in truth])
    if images.any() and not images.all():
        scores.append(_mean("vae/psnr_images", psnr[images], seed, flat[images]))
    if not images.all():
        firsts = [pixels.psnr(made[i][:1], truth[i][:1]) for i in np.flatnonzero(~images).tolist()]
        scores.append(_mean("vae/psnr_first_frames", np.array(firsts), seed))
    for size in dict.fromkeys(clip.size for clip in sorted(clips, key=_area)):
        of = np.array([s == size for s in sizes])
        scores.append(_mean(f"vae/psnr/{size}", psnr[of], seed, flat[of]))
        scores.append(_mean(f"vae/gain_over_flat_colour/{size}", (psnr - flat)[of], seed))
    return scores


def parser_scores(
    world: World,
    clips: Sequence[EvalClip],
    made: Sequence[np.ndarray],
    seed: int,
    progress: Progress | None = None,
) -> list[Score]:
    """What a parser still reads after the round trip, beside what it reads on the clips themselves.

    Clips that were cut shorter than their truth are read by what the cut ones show.
    """
    truths = [clip.truth or {} for clip in clips]
    stage = functools.partial(progress, "parse") if progress else None
    both = read_clips(world, [clip.video_THWC for clip in clips] + list(made), truths * 2, stage)
    before, after = both[: len(clips)], both[len(clips) :]
    chance = world.chance()
    scores = [_kept(before, after, chance, seed)]
    for name in chance:
        have = [i for i, row in enumerate(before) if name in row]
        if have:
            right = sum(after[i].get(name, 0.0) for i in have)
            floor = float(np.mean([before[i][name] for i in have]))
            interval = wilson(right, len(have))
            scores.append(
                score_of(f"vae/parser/{name}", interval, "higher", floor=floor,
                         baselines={"chance": chance[name]}, unit="share")
            )  # fmt: skip
    return scores


def _kept(
    before: Sequence[dict[str, float]],
    after: Sequence[dict[str, float]],
    attributes: dict[str, float],
    seed: int,
) -> Score:
    """Attributes read after the round trip over attributes read before it, over all clips."""
    had = np.array([sum(row.get(name, 0.0) for name in attributes) for row in before])
    kept = np.array([sum(row.get(name, 0.0) for name in attributes) for row in after])
    ratio = np.divide(kept, had, out=np.zeros_like(had), where=had > 0)
    interval = clip_bootstrap(ratio, had, seed=seed)
    return score_of("vae/parser_kept", interval, "higher", floor=1.0, unit="share")


def _boxes(
    clips: Sequence[EvalClip], made: Sequence[np.ndarray], chosen: Sequence[int], seed: int
) -> Score:
    """PSNR inside the objects' boxes; its flat colour is the mean inside the boxes."""
    inside, flat = [], []
    for i in chosen:
        truth = clips[i].video_THWC
        boxes = clips[i].boxes
        assert boxes is not None
        mask = pixels.box_mask(boxes, *truth.shape[1:3])
        value = pixels.masked_psnr(made[i], truth, mask)
        if not math.isnan(value):
            inside.append(value)
            flat.append(pixels.flat_colour_psnr(truth[mask][None, None]))
    return _mean("vae/psnr_boxes", np.array(inside), seed, np.array(flat))


def _area(clip: EvalClip) -> tuple[int, int]:
    return clip.video_THWC[0].size, clip.video_THWC.shape[2]


def _mean(metric: str, values: np.ndarray, seed: int, flat: np.ndarray | None = None) -> Score:
    baselines = {} if flat is None else {"flat colour": float(flat.mean())}
    interval = clip_bootstrap(values, seed=seed)
    return score_of(metric, interval, "higher", baselines=baselines, unit="dB")


def _samples(clips: Sequence[EvalClip], made: Sequence[np.ndarray], shown: int) -> list[Sample]:
    """The first clips of each size in turn, so that sizes are shown evenly."""
    by_size: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        by_size.setdefault(clip.size, []).append(i)
    order = sorted(range(len(clips)), key=lambda i: (by_size[clips[i].size].index(i), i))
    return [
        Sample(
            f"vae {i}",
            clips[i].captions[0],
            (View(clips[i].video_THWC, "original"), View(made[i], "VAE")),
            clips[i].fps,
            "Reconstructions",
            {"PSNR dB": round(pixels.psnr(made[i], clips[i].video_THWC), 2)},
        )
        for i in order[:shown]
    ]
