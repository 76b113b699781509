"""Memory of a sampling run, planned from shapes before anything is compiled.

Stages follow each other and do not overlap: the denoiser on its largest batch of rows, the decoder
on its largest call, and, where a picture grows, the encoder on it. Each is walked through operation
by operation (core/liveness.py). Where a picture is too large to be decoded whole, tiles are chosen
(models/tiles.py).
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from vidsim.core.errors import BadInput, bad
from vidsim.core.liveness import peak_bytes, tree_bytes
from vidsim.data.packing import RowLimits
from vidsim.generate.grow import SHARE, sizes
from vidsim.generate.model import Model
from vidsim.generate.pack import Request, bucket
from vidsim.generate.sample import SamplerConfig, lay_out
from vidsim.models.codec import plan_jobs
from vidsim.models.tiles import decoder_reach, spans
from vidsim.models.vae_stream import decode_chunk, encode_chunk
from vidsim.tasks.denoising import Denoising

SOLVER_ARRAYS = 8  # x, its noise, what multistep solvers keep, and sums on the way between them
FIXED_BYTES = 400 << 20  # compiler and runtime, beyond what the process holds already
# A picture of so many pixels, or a row longer than any trained with, is worth planning.
LARGE_PIXELS = 512 * 512
TILES_A_ROW = round(1 / SHARE)  # of a growing picture, at most
TILES = (128, 64, 32, 16, 8)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What a run is expected to need at most, in bytes, beside the weights.

    denoise    the denoiser on its largest batch, with the solver's arrays
    decode     the decoder on its largest call, with the finished pixels
    encode     the encoder on the largest picture that grows or is given, 0 without one
    available  free on the device (or in the machine) now
    config     the sampler with the tiles that were chosen
    tokens     of the longest row; trained, of the longest row in training
    """

    denoise: int
    decode: int
    encode: int
    available: int
    config: SamplerConfig
    tokens: int
    trained: int

    @property
    def needed(self) -> int:
        """Bytes at the highest of the peaks."""
        return max(self.denoise, self.decode, self.encode) + FIXED_BYTES

    def lines(self) -> list[str]:
        """The plan for the user."""
        tile = f" in tiles of {self.config.tile} latents" if self.config.tile else ""
        encoder = f"encoder {_gb(self.encode)}, " if self.encode else ""
        made = [f"memory: about {_gb(self.needed)} of {_gb(self.available)} free "
                f"(denoiser {_gb(self.denoise)}, decoder{tile} {_gb(self.decode)}, "
                f"{encoder}fixed {_gb(FIXED_BYTES)})"]  # fmt: skip
        if self.tokens > self.trained:
            made.append(f"a row of {self.tokens:,} tokens; trained with up to {self.trained:,}")
        return made

    def check(self) -> None:
        """Raises BadInput with the figures when it does not fit."""
        if self.needed > self.available:
            raise bad("sample", self.lines()[0], "no more than what is free",
                      "a smaller --size, fewer --frames, or --guidance 1")  # fmt: skip


def worth_planning(model: Model, requests: Sequence[Request], config: SamplerConfig) -> bool:
    """Whether any picture or row is large enough to ask for its memory."""
    layout = lay_out(model, requests, True)
    pixels = max(r.height * r.width for r in requests)
    return pixels >= LARGE_PIXELS or layout.limits.tokens > model.limits.tokens


def fit_memory(
    model: Model, requests: Sequence[Request], config: SamplerConfig, grows: bool = True
) -> tuple[SamplerConfig, list[str]]:
    """The sampler with the tiles that fit, and what to say of it; nothing where all is small.

    grows   as in `plan_memory`
    Raises  BadInput as `lay_out`, or with the figures where the memory does not suffice
    """
    lay_out(model, [_tile(model, r) for r in requests] if grows else requests, config.long_rows)
    if not worth_planning(model, requests, config):
        return config, []
    plan = plan_memory(model, requests, config, grows=grows)
    plan.check()
    return plan.config, plan.lines()


def plan_memory(
    model: Model, requests: Sequence[Request], config: SamplerConfig, available: int | None = None,
    grows: bool = True,
) -> MemoryPlan:  # fmt: skip
    """The plan of `sample_grown(model, requests, config)`; nothing is compiled.

    grows      whether large pictures do; else all are made at once, from what is encoded
    available  bytes; None asks the device
    Raises     BadInput as `lay_out`
    """
    available = available_bytes() if available is None else available
    growing = [r for r in requests if grows and len(sizes(model, r)) > 1]
    together = [r for r in requests if r not in growing]
    tiles = [_tile(model, r) for r in growing for _ in range(config.rows_at_once * TILES_A_ROW)]
    batches = [batch for batch in (together, tiles) if batch]
    denoise = max(_denoise_bytes(model, batch, config) for batch in batches)
    tokens = max(
        lay_out(model, batch, config.long_rows, config.rows_at_once).limits.tokens
        for batch in batches
    )
    pixels = sum(r.height * r.width * r.num_frames * 3 for r in requests)
    space, time = model.vae.vae.cfg.space_stride, model.vae.vae.cfg.time_stride
    shapes = [
        (1 + (r.num_frames - 1) // time, r.height // space, r.width // space) for r in requests
    ]
    decode = decode_bytes(model, shapes, config)
    chosen = config
    if decode + FIXED_BYTES > available and not config.tile:
        chosen, decode = _tiled(model, shapes, config, decode, available - FIXED_BYTES)
    encode = max((encode_bytes(model, r) for r in (growing if grows else requests)), default=0)
    return MemoryPlan(denoise, decode + 2 * pixels, encode + 2 * pixels * bool(encode), available,
                      chosen, tokens, model.limits.tokens)  # fmt: skip


def _tile(model: Model, request: Request) -> Request:
    """A growing picture's first size, which is also that of its tiles."""
    height, width = sizes(model, request)[0]
    return dataclasses.replace(request, height=height, width=width)


def _denoise_bytes(model: Model, batch: Sequence[Request], config: SamplerConfig) -> int:
    layout = lay_out(model, batch, config.long_rows, config.rows_at_once)
    rows = bucket(len(layout.rows), config.rows_at_once)
    return denoise_bytes(model.for_rows(layout.limits.tokens), rows, layout.limits, config)


def denoise_bytes(model: Model, rows: int, limits: RowLimits, config: SamplerConfig) -> int:
    """Peak of a guided prediction for `rows` rows of `limits`, and of the solver around it."""
    R, N, M, S = rows, limits.tokens, limits.text, limits.segments
    P, i32 = model.patch_width, jnp.int32

    def shape(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    task: Denoising = model.task
    batch = {
        "patch_segment": shape(R, N, dtype=i32), "patch_position": shape(R, N, 3, dtype=i32),
        "action": shape(R, N, dtype=i32), "fps": shape(R, S), "size": shape(R, S, 2, dtype=i32),
        "grid": shape(R, S, 3, dtype=i32),
    }  # fmt: skip
    width, twice = task.cfg.dit.text_width, 2 if config.guidance.needed else 1
    text = {
        "text": shape(twice * R, M, width),
        "text_segment": shape(twice * R, M, dtype=i32),
        "text_position": shape(twice * R, M, dtype=i32),
    }
    peak = peak_bytes(
        lambda params, batch, text, x, t, given, said: task.denoise(
            params, batch, text, config.guidance, x, t, given, None, said
        ),
        jax.eval_shape(lambda: model.params), batch, text, shape(R, N, P), shape(R, S),
        shape(R, N, dtype=bool), shape(R, N, P) if task.cfg.dit.self_condition else None,
    )  # fmt: skip
    return peak + SOLVER_ARRAYS * 4 * R * N * P + tree_bytes(text)


def encode_bytes(model: Model, request: Request) -> int:
    """Peak of the encoder on one picture, with its pixels as floats."""
    vae, params = model.vae.vae, jax.eval_shape(lambda: model.vae.params)
    pixels = jax.ShapeDtypeStruct((1, 1, request.height, request.width, 3), jnp.float32)
    valid = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return peak_bytes(
        lambda params, pixels, valid: encode_chunk(vae, params, None, pixels, valid),
        params, pixels, valid,
    )  # fmt: skip


def decode_bytes(
    model: Model, shapes: Sequence[tuple[int, int, int]], config: SamplerConfig
) -> int:
    """Peak of the largest call of the decoder, with the floats of its pixels on the host."""
    vae, params = model.vae.vae, jax.eval_shape(lambda: model.vae.params)
    stride = vae.cfg.time_stride, vae.cfg.space_stride
    if config.tile:
        reach = decoder_reach(vae.cfg)
        shapes = [
            (t, y[0][1] - y[0][0], x[0][1] - x[0][0])
            for t, h, w in shapes
            for y in spans(h, config.tile, reach)
            for x in spans(w, config.tile, reach)
        ]
    peak = 0
    for job in plan_jobs(shapes, stride, config.codec):
        frames = max(shapes[i][0] for i in job.clips)
        valid = jax.ShapeDtypeStruct((job.batch, 2), jnp.int32)
        state = None
        for length in (1, job.chunk)[: 1 + (frames > 1)]:
            size = (job.batch, length, *job.canvas, vae.cfg.latent_channels)
            latent = jax.ShapeDtypeStruct(size, jnp.float32)

            def decode(params, state, latent, valid):
                return decode_chunk(vae, params, state, latent, valid)

            made = jax.eval_shape(decode, params, state, latent, valid)
            # on the host the pixels are clipped and rounded in float32: two more copies
            here = peak_bytes(decode, params, state, latent, valid) + 2 * tree_bytes(made[1])
            peak = max(peak, here + tree_bytes(state))
            state = made[0]
    return peak


def _tiled(
    model: Model, shapes: Sequence[tuple[int, int, int]], config: SamplerConfig, whole: int,
    room: int,
) -> tuple[SamplerConfig, int]:  # fmt: skip
    """The largest tiles that fit, or the smallest; the whole where the decoder has no tiles."""
    chosen, decode = config, whole
    try:
        decoder_reach(model.vae.vae.cfg)
    except BadInput:
        return chosen, decode
    codec = dataclasses.replace(config.codec, batch=1)  # one tile at a time
    for tile in TILES:
        chosen = dataclasses.replace(config, tile=tile, codec=codec)
        decode = decode_bytes(model, shapes, chosen)
        if decode <= room:
            break
    return chosen, decode


def available_bytes() -> int:
    """Free memory of the first device, or of this machine where it computes on the processor."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(_machine_bytes(), _group_bytes())


def _machine_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_bytes() -> int:
    """What a container's limit leaves; a number beyond any memory without one."""
    root, old = Path("/sys/fs/cgroup"), "memory/memory."
    for most, used in (("memory.max", "memory.current"),
                       (f"{old}limit_in_bytes", f"{old}usage_in_bytes")):  # fmt: skip
        try:
            return int((root / most).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):
            continue
    return 1 << 62


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
