"""Text to video: the one sampler. Requests of any sizes go through the denoiser in packed rows.

A clip is a function of its request and the sampler's settings. Its noise is keyed by (seed, step,
place in the clip) and attention stays inside a clip, so neighbours in the batch change a clip by
rounding alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.patching import unpatchify
from vidsim.data.packing import RowLimits
from vidsim.data.tokenizer import clean
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.segments import spread
from vidsim.diffusion.solvers import check_solver, integrate, make_solver
from vidsim.diffusion.times import time_grid
from vidsim.generate.conditions import Condition, place, steer
from vidsim.generate.model import Model
from vidsim.generate.noise import Noise, check_kind
from vidsim.generate.pack import Request, bucket, build_batch, fit_rows, pack_rows, row_spans
from vidsim.models.codec import CodecConfig, decode_clips
from vidsim.models.latents import denormalise
from vidsim.models.tiles import decode_tiled
from vidsim.nn.attention import current_platform
from vidsim.tasks.base import Batch, Params
from vidsim.tasks.denoising import Denoising
from vidsim.tasks.prompting import Text

Progress = Callable[[str, int, int], None]
MAX_ROWS = 8  # of a batch on an accelerator
_LONG = 128  # rows longer than those of training are multiples of this


@dataclass(frozen=True)
class SamplerConfig:
    """How noise becomes clips.

    solver    name in `diffusion.solvers`: euler, heun, ..., or one that draws noise: sde-euler, ...
    steps     of the solver
    guidance  how strongly prompts are followed
    noise     "shared": sizes of one seed share their coarse noise; "token": nothing in common
    sde       0..1, how much noise a solver that draws it adds at each step
    max_rows  rows of one batch at most, which bounds memory; None: 8 on an accelerator, one on CPU,
              where several at once are slower (experiments/RESULTS.md)
    codec     how much the VAE decodes at once
    tile      latents a side of the tiles that pictures are decoded in (exact); 0: whole
    long_rows a clip longer than any row of training gets a row of its own length
    """

    solver: str = "heun"
    steps: int = 20
    guidance: GuidanceConfig = GuidanceConfig(scale=3.0)
    noise: str = "shared"
    sde: float = 1.0
    max_rows: int | None = None
    codec: CodecConfig = field(default_factory=CodecConfig)
    tile: int = 0
    long_rows: bool = False

    def __post_init__(self) -> None:
        check_solver(self.solver, self.sde)
        check_kind(self.noise)
        if self.steps < 1:
            raise bad("--steps", f"{self.steps}", "at least 1")
        if self.max_rows is not None and self.max_rows < 1:
            raise bad("SamplerConfig.max_rows", f"{self.max_rows}", "at least 1")
        if self.tile < 0:
            raise bad("SamplerConfig.tile", f"{self.tile}", "0 (whole) or more")

    @property
    def rows_at_once(self) -> int:
        """Rows of one batch at most, here."""
        return self.max_rows or (1 if current_platform() == "cpu" else MAX_ROWS)


@dataclass(frozen=True)
class Video:
    """A finished clip: pixels uint8 [T,H,W,3], frames a second, what was asked for."""

    video_THWC: np.ndarray
    fps: float
    request: Request


@dataclass(frozen=True)
class Layout:
    """Where each request lies: its token grid and text, the rows, the size of a row."""

    grids: list[tuple[int, int, int]]
    prompts: list[np.ndarray]
    negatives: list[np.ndarray]
    rows: list[list[int]]
    limits: RowLimits


def lay_out(
    model: Model, requests: Sequence[Request], long_rows: bool = False, rows_at_once: int = MAX_ROWS
) -> Layout:
    """Checks requests and gives them places, before anything is compiled.

    long_rows, rows_at_once  as in SamplerConfig
    Raises  BadInput for no requests, a size off the grid (naming the nearest), a prompt or a clip
            that no row holds
    """
    if not requests:
        raise bad("sample", "no prompts", "at least one")
    grids = [model.grid.grid(request) for request in requests]
    prompts = [_tokens(model, request.prompt) for request in requests]
    negatives = [_tokens(model, request.negative) for request in requests]
    tokens = [int(np.prod(grid)) for grid in grids]
    # Both texts of a clip use the same rows, so the longer one counts.
    text = [max(len(a), len(b)) for a, b in zip(prompts, negatives, strict=True)]
    if long_rows and max(tokens) > model.limits.tokens:
        length = -(-max(tokens) // _LONG) * _LONG
        limits = dataclasses.replace(model.limits, tokens=length)
        rows = pack_rows(tokens, text, limits)
    else:
        limits, rows = fit_rows(tokens, text, model.limits, rows_at_once)
    return Layout(grids, prompts, negatives, rows, limits)


def sample(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Video]:
    """Makes the requested clips.

    progress  called as (stage, done, of): "denoise" counts solver steps, "decode" clips
    Returns   one video a request, in order
    Raises    BadInput as `lay_out`
    """
    latents = sample_latents(model, requests, config, progress)
    videos = decode(model, latents, config, progress)
    return [
        Video(video, request.fps, request) for video, request in zip(videos, requests, strict=True)
    ]


def check_negative(negative: str, guidance: GuidanceConfig) -> None:
    """Refuses what nothing would read: a negative prompt without guidance."""
    if negative and not guidance.needed:
        what = f"{negative!r} with guidance {guidance.scale:g}"
        allowed = "a guidance above 1, which leads away from it"
        raise bad("--negative", what, allowed, "e.g. --guidance 3")


def decode(
    model: Model,
    latents: Sequence[np.ndarray],
    config: SamplerConfig,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Pixels of whole clips, uint8 [T,H,W,3] each; in tiles where the configuration says so."""
    show = functools.partial(progress, "decode") if progress else None
    vae, params = model.vae.vae, model.vae.params
    if config.tile:
        return decode_tiled(vae, params, latents, config.tile, config.codec, show)
    return decode_clips(vae, params, latents, config.codec, show)


def sample_latents(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    conditions: Sequence[Condition | None] | None = None,
) -> list[np.ndarray]:
    """The clips before the VAE: raw latents float32 [t,h,w,c], one a request.

    conditions  what is given of each clip, None for nothing
    """
    for request in requests:
        check_negative(request.negative, config.guidance)
    at_once = config.rows_at_once
    layout = lay_out(model, requests, config.long_rows, at_once)
    model = model.for_rows(layout.limits.tokens)
    batches = [
        layout.rows[start : start + at_once] for start in range(0, len(layout.rows), at_once)
    ]
    if progress:
        progress("denoise", 0, len(batches) * config.steps)
    latents: dict[int, np.ndarray] = {}
    patch = model.task.cfg.latent.patch
    for number, rows in enumerate(batches):

        def report(done: int, steps: int, before: int = number) -> None:
            if progress:
                progress("denoise", before * steps + done, len(batches) * steps)

        most = at_once if len(batches) > 1 else bucket(len(rows), at_once)
        x_RNP = np.asarray(
            _sample_rows(model, requests, layout, rows, most, config, report, conditions)
        )
        for i, (r, span) in row_spans(rows, layout.grids).items():
            latents[i] = unpatchify(x_RNP[r, span], layout.grids[i], patch)
    return [latents[i] for i in range(len(requests))]


def _sample_rows(
    model: Model,
    requests: Sequence[Request],
    layout: Layout,
    rows: Sequence[Sequence[int]],
    num_rows: int,
    config: SamplerConfig,
    report: Callable[[int, int], None],
    conditions: Sequence[Condition | None] | None = None,
) -> jax.Array:
    """Raw latent patches f32[R,N,P] of one batch of rows."""
    task, params = model.task, model.params
    batch, negative = (
        build_batch(requests, layout.grids, text, rows, layout.limits, num_rows, model.patch_width)
        for text in (layout.prompts, layout.negatives)
    )
    spans = row_spans(rows, layout.grids)
    latent = task.cfg.latent
    placed = (
        place(conditions, spans, layout.grids, rows, batch, latent.patch) if conditions else None
    )
    text = _encode(task, params, batch)
    if config.guidance.needed:
        text = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), text,
                            _encode(task, params, negative))  # fmt: skip
    noise = Noise(config.noise, batch, spans, layout.grids, rows, latent.patch)
    facts = {name: jnp.asarray(value) for name, value in batch.items() if name != "patches"}
    tokens_RS = jnp.asarray(batch["grid"].prod(-1))

    said_RNP = jnp.zeros(batch["patches"].shape) if task.cfg.dit.self_condition else None

    def network(
        x_RNP: jax.Array, t_RS: jax.Array, condition_RN: jax.Array, position_RN3: jax.Array
    ) -> jax.Array:
        where = facts | {"patch_position": position_RN3}
        asked = x_RNP, t_RS, condition_RN, said_RNP
        # Waiting here keeps the progress honest: the host would otherwise run ahead.
        made_RNP: jax.Array = jax.block_until_ready(
            _denoise(task, config.guidance, params, where, text, *asked)
        )
        return made_RNP

    steered, noise_RNP, start_RS = steer(
        placed, latent, facts["patch_segment"], facts["patch_position"], noise.start(), network
    )

    def denoise(x_RNP: jax.Array, t_RS: jax.Array) -> jax.Array:
        nonlocal said_RNP
        made_RNP = steered(x_RNP, t_RS)  # blends are told what they were made
        said_RNP = None if said_RNP is None else made_RNP
        return made_RNP

    x_RNP = integrate(
        denoise,
        noise_RNP,
        time_grid(task.cfg.times, config.steps, tokens_RS, start_RS),
        make_solver(config.solver, noise.at, config.sde),
        lambda t_RS: _lift(t_RS, facts["patch_segment"]),
        report,
    )
    return denormalise(task.cfg.latent, x_RNP)


@functools.partial(jax.jit, static_argnames=("task", "guidance"))
def _denoise(
    task: Denoising,
    guidance: GuidanceConfig,
    params: Params,
    batch: Batch,
    text: Text,
    x_RNP: jax.Array,
    t_RS: jax.Array,
    condition_RN: jax.Array,
    estimate_RNP: jax.Array | None,
) -> jax.Array:
    """The guided prediction of x. The only program that holds the network: one compile a shape."""
    return task.denoise(
        params, batch, text, guidance, x_RNP, t_RS, condition_RN, None, estimate_RNP
    )


@functools.partial(jax.jit, static_argnames=("task",))
def _encode(task: Denoising, params: Params, batch: Batch) -> Text:
    return task.encode_text(params, batch, jnp.zeros(batch["clip_key"].shape, bool))


@jax.jit
def _lift(value_RS: jax.Array, segment_RN: jax.Array) -> jax.Array:
    """The clip's value for each token; 1 for padding, since solvers divide by times."""
    return spread(value_RS, segment_RN, 1)[..., None]


def _tokens(model: Model, text: str) -> np.ndarray:
    """Tokens of a text. Raises BadInput when a row of text is too short for it."""
    plain, most = clean(text), model.limits.text
    tokenizer = model.tokenizer(most)
    count = tokenizer.count(plain)
    if count > most:
        kept = tokenizer.decode(tokenizer.encode(plain))
        raise bad("--prompt", f"{count - 1} tokens", f"at most {most - 1}",
                  f"shorten it, or --cut-prompt: {count - most} tokens are cut and it ends at "
                  f"'...{kept[-24:]}'")  # fmt: skip
    return tokenizer.encode(plain)
