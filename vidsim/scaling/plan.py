"""Plans without hardware: compiles the real program for a TPU slice and says what it would take.

Everything here is the compiler's word or arithmetic; nothing was timed. Memory is
`memory_analysis().peak_memory_in_bytes` of one device; collectives are read from the HLO text.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from vidsim.core.errors import bad
from vidsim.models.vae_presets import PRESETS as VAES
from vidsim.models.vae_presets import VaeConfig
from vidsim.models.vae_presets import preset as vae_preset
from vidsim.parallel.mesh import build_mesh
from vidsim.runs import DenoiserRun, Run, VaeRun
from vidsim.scaling.plan_hlo import Program, read_hlo
from vidsim.scaling.plan_programs import (
    ClipSize,
    Job,
    codec_job,
    sample_job,
    train_denoiser_job,
    train_vae_job,
)
from vidsim.scaling.plan_roofline import MFU, Roofline, roofline, sent_bytes
from vidsim.scaling.plan_rows import RowContent, equal_clips, row_content
from vidsim.scaling.topology import Topology, describe

WHATS = ("train", "sample", "encode", "decode")
_SIZE = r"([\d.]+)([KMGT]?)"
_OVER = (
    re.compile(f"Used {_SIZE} of {_SIZE} hbm", re.IGNORECASE),
    re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
GUIDANCE = 3.0  # as `vidsim sample` by default


@dataclasses.dataclass(frozen=True)
class Ask:
    """What is planned beside the configuration.

    what      one of WHATS
    rows      of a sampling call; None: one for each device along data and fsdp
    clips     equal clips a row, assumed; None: see `plan_rows.row_content`
    clip      for sample: the row holds this one clip; for encode and decode: the video
    vae       preset of the autoencoder, or preset:dtype with the precision of its products; None:
              the one whose patches the denoiser takes
    chunk     latent frames of one call of encode and decode
    mfu       assumed share of the peak
    guidance  scale of sampling
    quick     the compiler takes a shorter road: a quarter of the time, a program whose peak differs
              by a few percent and that would run slower
    """

    what: str = "train"
    rows: int | None = None
    clips: int | None = None
    clip: ClipSize | None = None
    vae: str | None = None
    chunk: int = 1
    mfu: float = MFU
    guidance: float = GUIDANCE
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Summary:
    """A plan. Bytes are those of a chip (its devices together), times those of a step.

    over_bytes    by how much a program that does not fit is too large; else negative, what is left
    peak_bytes    of the program; for one that does not fit, what the compiler wanted
    tokens        useful patch tokens, room all of the rows'
    flops         live pairs only (sum of squared clip lengths); padded_flops row length squared
    collectives   kind -> count, bytes and sent (bytes) of a device
    """

    what: str
    topology: str
    slices: int
    chips: int
    devices: int
    mesh: Mapping[str, int]
    attention: Mapping[str, str]
    kernels: int
    remat: str
    rows: int
    fits: bool
    peak_bytes: int
    usable_bytes: int
    over_bytes: int
    weight_bytes: int
    average_bytes: int
    optimizer_bytes: int
    tokens: float
    room: float
    flops: float
    padded_flops: float
    told: str
    collectives: Mapping[str, Mapping[str, float]]
    largest: Mapping[str, Any] | None
    unknown_loops: int
    roofline: Roofline | None
    compile_s: float
    quick: bool
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def prepare(run: Run, topology: Topology, ask: Ask) -> tuple[Run, Mesh, RowContent | None]:
    """The run on the topology's slices, its mesh, and what its rows hold.

    Raises  BadInput before anything is compiled: unknown `what`, mesh and topology that do not fit
            each other, rows and tokens that the mesh does not divide
    """
    if ask.what not in WHATS:
        raise bad("--what", repr(ask.what), f"one of {', '.join(WHATS)}")
    parallel = dataclasses.replace(run.parallel, slices=topology.slices)
    run = dataclasses.replace(run, parallel=parallel)
    parallel.shape(topology.devices)  # refuses before libtpu is asked for anything
    mesh = build_mesh(parallel, describe(topology))
    if not isinstance(run, DenoiserRun) or ask.what in ("encode", "decode"):
        return run, mesh, None
    if ask.what == "sample" and ask.clip is not None:
        run = _one_clip(run, ask)
        return run, mesh, equal_clips(run.plan, 1)
    return run, mesh, row_content(run, ask.clips)


def make_job(run: Run, mesh: Mesh, content: RowContent | None, ask: Ask) -> Job:
    """The program that is asked for. Raises BadInput where the run does not have it."""
    if ask.what in ("encode", "decode"):
        if ask.clip is None:
            raise bad("plan", f"--what {ask.what} without a clip", "--size WxH --frames N")
        return codec_job(find_vae(run, ask.vae), ask.what, ask.clip, ask.chunk, mesh)
    if isinstance(run, VaeRun):
        if ask.what != "train":
            raise bad("--what", f"{ask.what!r} of an autoencoder", "train, encode or decode")
        return train_vae_job(run, mesh)
    assert content is not None
    if ask.what == "train":
        return train_denoiser_job(run, mesh, content)
    from vidsim.diffusion.guidance import GuidanceConfig

    rows = ask.rows or mesh.shape["data"] * mesh.shape["fsdp"]
    return sample_job(
        run.denoising, run.plan, rows, mesh, content, GuidanceConfig(scale=ask.guidance)
    )


def make_plan(run: Run, topology: Topology, ask: Ask = Ask()) -> Summary:  # noqa: B008 (frozen)
    """Compiles and sums up. Raises BadInput as `prepare` and `make_job`."""
    run, mesh, content = prepare(run, topology, ask)
    return compile_job(make_job(run, mesh, content, ask), run, mesh, topology, ask, content)


def compile_job(
    job: Job, run: Run, mesh: Mesh, topology: Topology, ask: Ask, content: RowContent | None
) -> Summary:
    """The summary of a job; a program that does not fit is an answer, not an error."""
    start, chip = time.perf_counter(), topology.chip
    program, memory, over = Program((), 0, 0), None, 0
    try:
        with _least_effort(ask.quick):
            executable = job.compile()
        memory = executable.memory_analysis()
        program = read_hlo(executable.as_text())
        peak = memory.peak_memory_in_bytes * chip.devices
        usable = chip.usable_bytes
    except jax.errors.JaxRuntimeError as error:
        used = over_use(str(error))
        if used is None:
            raise
        peak, usable = (part * chip.devices for part in used)
    over = peak - usable
    bound = None
    if memory is not None:
        inside, between = sent_bytes(program, topology)
        io = memory.argument_size_in_bytes + memory.output_size_in_bytes
        bound = roofline(topology, job.flops, io, inside, between, ask.mfu)
    shape = dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    largest = program.largest()
    return Summary(
        what=ask.what, topology=topology.name, slices=topology.slices, chips=topology.chips,
        devices=topology.devices, mesh=shape, attention=dict(job.attention),
        kernels=program.kernels,
        remat=run.denoising.dit.remat if isinstance(run, DenoiserRun) else "none", rows=job.rows,
        fits=memory is not None, peak_bytes=peak, usable_bytes=usable, over_bytes=over,
        weight_bytes=job.weight_bytes * chip.devices,
        average_bytes=job.average_bytes * chip.devices,
        optimizer_bytes=job.optimizer_bytes * chip.devices, tokens=job.tokens, room=job.room,
        flops=job.flops, padded_flops=job.padded_flops, told=content.told if content else "",
        collectives=program.by_kind(),
        largest=None if largest is None else {
            "kind": largest.kind, "bytes": largest.bytes, "over": list(largest.axes(shape)),
            "times": largest.times,
        },
        unknown_loops=program.unknown_loops, roofline=bound,
        compile_s=time.perf_counter() - start, quick=ask.quick,
        versions=_versions(),
    )  # fmt: skip


@contextlib.contextmanager
def _least_effort(wanted: bool) -> Iterator[None]:
    """Where wanted, the compiler's lowest level of optimization."""
    name = "jax_optimization_level"
    before = jax.config.values[name]
    jax.config.update(name, "O0" if wanted else before)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "libtpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def over_use(message: str) -> tuple[int, int] | None:
    """(wanted, usable) bytes of one device in the compiler's refusal; None for another error.

    Where temporaries alone are too much, the refusal counts nothing else.
    """
    found = [match.groups() for way in _OVER if (match := way.search(message))]
    if not found:
        return None
    used, used_unit, usable, unit = found[0]
    return (
        int(float(used) * _UNITS[used_unit.upper()]), int(float(usable) * _UNITS[unit.upper()])
    )  # fmt: skip


def find_vae(run: Run, name: str | None) -> VaeConfig:
    """The autoencoder of a run: named, its own, or the preset whose patches the denoiser takes.

    Raises BadInput when none or several presets would do.
    """
    if name is not None:
        found, _, dtype = name.partition(":")
        cfg = vae_preset(found)
        return dataclasses.replace(cfg, dtype=dtype) if dtype else cfg
    if isinstance(run, VaeRun):
        return run.autoencoding.vae
    patch = run.denoising.latent.patch[0] * run.denoising.latent.patch[1]
    patch *= run.denoising.latent.patch[2]
    width = run.denoising.dit.patch_width
    known = [n for n, cfg in VAES.items() if cfg.latent_channels * patch == width and n != "tiny"]
    if len(known) != 1:
        raise bad("--vae", f"patches of {width} numbers fit {known or 'no preset'}",
                  f"one of {', '.join(VAES)}", "name it")  # fmt: skip
    return VAES[known[0]]


def clip_tokens(cfg: VaeConfig, patch: tuple[int, int, int], clip: ClipSize) -> int:
    """Patch tokens of a clip. Raises BadInput for a size off the grid."""
    from vidsim.generate.pack import Request, TokenGrid

    grid = TokenGrid(cfg.time_stride, cfg.space_stride, patch)
    t, h, w = grid.grid(Request("", clip.height, clip.width, clip.frames))
    return t * h * w


def _one_clip(run: DenoiserRun, ask: Ask) -> DenoiserRun:
    """Rows that hold one clip, and no more text than one caption may have."""
    assert ask.clip is not None
    tokens = clip_tokens(find_vae(run, ask.vae), run.denoising.latent.patch, ask.clip)
    plan = dataclasses.replace(
        run.plan, row_tokens=tokens, row_segments=1, row_text=min(run.plan.row_text, 1024)
    )
    return dataclasses.replace(run, plan=plan)
