"""Suite `loss`: the denoiser's error on held-out clips at fixed times with fixed noise."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.patching import patchify
from vidsim.data.geometry import GeometryConfig
from vidsim.diffusion.losses import velocity_weight
from vidsim.eval.clips import Alignment, EvalClip, index_clips, world_clips
from vidsim.eval.result import SuiteResult
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import clip_bootstrap
from vidsim.generate.model import Model
from vidsim.generate.pack import Request, build_batch, pack_rows
from vidsim.models.codec import encode_clips
from vidsim.models.latents import channel_weights, normalise
from vidsim.tasks.base import Batch, Params
from vidsim.tasks.denoising import Denoising
from vidsim.worlds.base import from_spec

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LossSuite:
    """What the loss is measured on.

    clips     at most so many; of a world, evenly over sizes
    world     specification of a world; not used when `index` is given
    index     an index of the user's own clips ("" = the world)
    times     noise times, one in the middle of each band
    wrong     attributes of a world's captions whose word is replaced by another: how much that
              adds to the loss shows whether the model listens to the word at all, long before its
              clips do
    given     latent frames at the start of each clip that are given clean: with the first given,
              place and looks are known, and what is left to tell is where things go
    channel_weight  exponent of the channels' gains: 1 weighs them as they show in pixels
    max_rows  rows of a batch
    seed      of the noise and of the bootstrap; noise is the same for every model and time
    """

    clips: int = 144
    world: str = "shapes?split=heldout&seed=3"
    index: str = ""
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    wrong: tuple[str, ...] = ()
    given: int = 0
    channel_weight: float = 0.0
    max_rows: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or self.max_rows < 1:
            raise bad("suite loss", f"{self.clips} clips, {self.max_rows} rows", "at least 1")
        if not self.times or not all(0 < t <= 1 for t in self.times):
            raise bad("suite loss", f"times {self.times}", "above 0, at most 1")
        if self.given < 0 or not 0.0 <= self.channel_weight <= 1.0:
            what = f"given {self.given}, channel_weight {self.channel_weight}"
            raise bad("suite loss", what, "0 frames or more; an exponent from 0 to 1")
        if self.wrong and self.index:
            raise bad("suite loss", f"wrong {self.wrong} with an index", "attributes of a world")


def run(model: Model, suite: LossSuite, progress: Progress | None = None) -> SuiteResult:
    """Encodes the clips, packs them and averages the velocity-weighted error of each clip."""
    clips = _clips(model, suite)
    _check_given(model, suite, clips)
    told = {name: reworded_captions(suite, clips, name) for name in suite.wrong}  # refused early
    latents = encode_clips(
        model.vae.vae, model.vae.params, [clip.video_THWC for clip in clips],
        progress=(lambda done, of: progress("encode", done, of)) if progress else None,
    )  # fmt: skip
    losses_NK, power_N = clip_losses(model, suite, clips, latents, progress)
    scores = loss_scores(clips, losses_NK, power_N, suite, model.task.cfg.time_floor)
    for name, pairs in told.items():
        scores += wrong_word_scores(model, suite, clips, latents, name, pairs)
    return SuiteResult(
        "loss",
        "Validation loss",
        f"{len(clips)} clips of {suite.index or suite.world}: squared error of the velocity, mean "
        "over a clip's numbers, at fixed times with fixed noise"
        + (f", the first {suite.given} latent frames given" * bool(suite.given))
        + (
            f", channels weighted by gain ^ {2 * suite.channel_weight:g}"
            * bool(suite.channel_weight)
        )
        + ". Beside it the cost of two answers "
        "without a network: the mean latent, and the best guess for Gaussian latents."
        + (" wrong_…: what another word for that attribute adds." if told else ""),
        tuple(scores),
        (),
        {
            "clips": len(clips),
            "times": ", ".join(f"{t:g}" for t in suite.times),
            "seed": suite.seed,
        },
        tuple(
            {"clip": clip.name, "size": clip.size, "losses": row.tolist()}
            for clip, row in zip(clips, losses_NK, strict=True)
        ),
    )


def clip_losses(
    model: Model,
    suite: LossSuite,
    clips: Sequence[EvalClip],
    latents: Sequence[np.ndarray],
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """float64[n, times] loss of each clip; float64[n] mean square of its normalised latents."""
    cfg, patch = model.task.cfg, model.task.cfg.latent.patch
    requests = _requests(clips)
    grids = [model.grid.grid(request) for request in requests]
    weight_P = np.asarray(channel_weights(cfg.latent, model.patch_width, suite.channel_weight))
    text = [model.tokenizer(model.limits.text).encode(request.prompt) for request in requests]
    rows = pack_rows([int(np.prod(g)) for g in grids], [len(t) for t in text], model.limits)
    times = jnp.asarray(suite.times)
    losses, power = np.zeros((len(clips), len(suite.times))), np.zeros(len(clips))
    for start in range(0, len(rows), suite.max_rows):
        part = rows[start : start + suite.max_rows]
        batch = build_batch(
            requests, grids, text, part, model.limits, suite.max_rows, model.patch_width
        )
        for r, row in enumerate(part):
            patches = [patchify(latents[i], patch) for i in row]
            joined = np.concatenate(patches)
            batch["patches"][r, : len(joined)] = joined
            for i, own in zip(row, patches, strict=True):
                noisy = own[suite.given * len(own) // grids[i][0] :]
                x = np.asarray(normalise(cfg.latent, jnp.asarray(noisy)))
                power[i] = (np.square(x) * weight_P).mean()
        found_RSK = np.asarray(
            _validate(model.task, model.params, batch, times, suite.seed, suite.given,
                      suite.channel_weight)
        )  # fmt: skip
        for r, row in enumerate(part):
            for s, i in enumerate(row):
                losses[i] = found_RSK[r, s]
        if progress:
            progress("loss", min(start + suite.max_rows, len(rows)), len(rows))
    return losses, power


@functools.partial(jax.jit, static_argnames=("task", "given", "channel_weight"))
def _validate(
    task: Denoising,
    params: Params,
    batch: Batch,
    times: jax.Array,
    seed: int,
    given: int,
    channel_weight: float,
) -> jax.Array:
    """f32[R,S,times]; compiled once for all checkpoints of one architecture."""
    return task.validation(
        params, batch, times=times, seed=seed, given=given, channel_weight=channel_weight
    )


def loss_scores(
    clips: Sequence[EvalClip],
    losses_NK: np.ndarray,
    power_N: np.ndarray,
    suite: LossSuite,
    time_floor: float,
) -> list[Score]:
    """Rows over everything, for each time, for each size."""
    times = np.asarray(suite.times)
    weight_K = np.asarray(velocity_weight(jnp.asarray(times, jnp.float32), time_floor))
    # x = 0 errs by x itself; for x ~ N(0, 1) the best guess from x_t errs by t^2 / (t^2 + (1-t)^2).
    mean_NK = power_N[:, None] * weight_K
    gauss_K = weight_K * times**2 / (times**2 + (1 - times) ** 2)

    def row(metric: str, of: np.ndarray, k: int | None = None) -> Score:
        pick = slice(None) if k is None else [k]
        interval = clip_bootstrap(losses_NK[of][:, pick].mean(1), seed=suite.seed)
        baselines = {
            "mean latent": float(mean_NK[of][:, pick].mean()),
            "Gaussian latents": float(gauss_K[pick].mean()),
        }
        return score_of(metric, interval, "lower", baselines=baselines)

    everything = np.ones(len(clips), bool)
    scores = [row("loss/velocity", everything)]
    scores += [row(f"loss/time/{t:g}", everything, k) for k, t in enumerate(suite.times)]
    sizes = np.array([clip.size for clip in clips])
    scores += [row(f"loss/size/{size}", sizes == size) for size in sorted(set(sizes.tolist()))]
    return scores


def reworded_captions(
    suite: LossSuite, clips: Sequence[EvalClip], attribute: str
) -> dict[int, tuple[str, str]]:
    """Clip -> its short caption, and that with another word for the attribute.

    Raises BadInput for an attribute that the world does not have, or that no caption states
    """
    world, told = from_spec(suite.world), {}
    for i, clip in enumerate(clips):
        pair = world.reworded(dict(clip.truth or {}), attribute, suite.seed + i)
        if pair:
            told[i] = (pair[0][0].text, pair[1][0].text)
    if not told:
        raise bad("suite loss", f"no caption of {suite.world} states {attribute!r}",
                  "attributes that its clips have")  # fmt: skip
    return told


def wrong_word_scores(
    model: Model,
    suite: LossSuite,
    clips: Sequence[EvalClip],
    latents: Sequence[np.ndarray],
    attribute: str,
    told: dict[int, tuple[str, str]],
) -> list[Score]:
    """What another word for an attribute adds to the loss, over all times and for each.

    Paired: the same clip, noise, time and sentence but for that word. 0: the word is not used.
    """
    losses = []
    for side in (0, 1):
        asked = [dataclasses.replace(clips[i], captions=(pair[side],)) for i, pair in told.items()]
        losses.append(clip_losses(model, suite, asked, [latents[i] for i in told])[0])
    added_NK = losses[1] - losses[0]

    def row(metric: str, added_N: np.ndarray) -> Score:
        interval = clip_bootstrap(added_N, seed=suite.seed)
        return score_of(metric, interval, "higher", baselines={"word unused": 0.0})

    name = f"loss/wrong_{attribute}"
    each = [row(f"{name}/{t:g}", added_NK[:, k]) for k, t in enumerate(suite.times)]
    return [row(name, added_NK.mean(1)), *each]


def _requests(clips: Sequence[EvalClip]) -> list[Request]:
    """The clips as a sampler would be asked for them; their numbers are the keys of their noise."""
    return [
        Request(
            clip.captions[0],
            clip.video_THWC.shape[1],
            clip.video_THWC.shape[2],
            len(clip.video_THWC),
            clip.fps,
            i,
        )
        for i, clip in enumerate(clips)
    ]


def _check_given(model: Model, suite: LossSuite, clips: Sequence[EvalClip]) -> None:
    """Raises BadInput unless frames are left to denoise in every clip."""
    for clip, request in zip(clips, _requests(clips), strict=True):
        if (frames := model.grid.grid(request)[0]) <= suite.given:
            raise bad(
                "suite loss", f"given {suite.given} of clip {clip.name}, which has {frames}",
                "fewer latent frames than every clip has", "choose longer clips",
            )  # fmt: skip


def _clips(model: Model, suite: LossSuite) -> list[EvalClip]:
    cfg, patch = model.vae.vae.cfg, model.task.cfg.latent.patch
    if suite.index:
        stride = (cfg.time_stride, cfg.space_stride, cfg.space_stride)
        geometry = GeometryConfig(
            vae_stride=stride, patch=patch, max_tokens=model.limits.tokens, over_tokens="shorten"
        )
        return index_clips(suite.index, suite.clips, geometry)
    longest = model.limits.tokens * patch[0]  # cells of as many latents, in tokens of patches
    align = Alignment(cfg.time_stride, cfg.space_stride * patch[1], longest)
    return world_clips(from_spec(suite.world), suite.clips, align)
