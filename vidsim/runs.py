"""What a training configuration means: from plain data to a finished work directory.

A configuration names its task; each task has one dataclass here. The resolved configuration is
written to the work directory's config.json, from which models are loaded again.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import numpy as np

from vidsim.config import from_dict, to_dict
from vidsim.core.errors import bad, nearest
from vidsim.core.trees import as_float32
from vidsim.data.captions import CaptionConfig
from vidsim.data.crops import CropConfig, crop_batches
from vidsim.data.index import ClipIndex
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import Plan, PlanConfig
from vidsim.generate.model import vae_folder
from vidsim.models.grow import grown_facts
from vidsim.models.latents import LatentConfig
from vidsim.models.vae import Vae, VaeConfig
from vidsim.models.vae_linear import BlockMoments
from vidsim.parallel.mesh import ParallelConfig, build_mesh
from vidsim.parallel.place import on_host
from vidsim.parallel.processes import agree, check_devices, wait_for_all
from vidsim.parallel.shares import Share, share_of
from vidsim.starts import denoiser_start, first_weights, vae_start
from vidsim.store.joined import JoinedCache, open_caches
from vidsim.store.shards import LatentCache
from vidsim.store.weights import load_model, save_model
from vidsim.store.workdir import Workdir, code_facts
from vidsim.tasks.autoencoding import (
    Autoencoding,
    AutoencodingConfig,
    load_perceptual,
    to_signed,
)
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.tasks.encoding import EncodeConfig, plan_cache, write_cache
from vidsim.tasks.latent_facts import latent_facts
from vidsim.train.flops import crop_work, packed_work, planned_work
from vidsim.train.loop import FREE_KEYS, RunSpec, Trained, build_program, train
from vidsim.train.optim import OptimConfig
from vidsim.train.program import Program
from vidsim.train.validation import ValidationConfig, make_validation

VAE_FOLDER = "vae"
PRINCIPAL_BATCHES = 64  # steps of crops whose principal components start a linear autoencoder


@dataclasses.dataclass(frozen=True)
class VaeData:
    """Clips for the autoencoder.

    index             Parquet index
    crops             canvases and batch sizes
    statistics_clips  clips over which the latents' mean and deviation are measured at the end
    """

    index: str
    crops: CropConfig
    statistics_clips: int = 256


@dataclasses.dataclass(frozen=True)
class LatentData:
    """Latents for the denoiser.

    cache             what to train on
    validation_cache  held out for the fixed-noise loss
    more              further caches of the same autoencoder and vocabulary, mixed with the first
                      piece by piece: images of one source, clips of another
    """

    cache: str
    validation_cache: str | None = None
    more: tuple[str, ...] = ()

    def open(self) -> LatentCache | JoinedCache:
        """What to train on, as one. Raises BadInput as `open_caches`."""
        return open_caches(self.cache, self.more)


@dataclasses.dataclass(frozen=True)
class VaeRun:
    """Training of a video autoencoder.

    start  an autoencoder (its folder, a work directory, a shipped model) whose weights the run
           starts from; "" = none. Where the decoder alone learns (`autoencoding.learn`), latents
           and their statistics are kept: denoisers trained on them go on with the new decoder, and,
           where latent_channels are added, with the wider latents. Read at the begin and the end
    """

    data: VaeData
    autoencoding: AutoencodingConfig
    run: RunSpec
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    task: Literal["autoencoding"] = "autoencoding"
    start: str = ""

    def __post_init__(self) -> None:
        if self.autoencoding.learn == "decoder" and not self.start:
            raise bad("config.start", "''", "an autoencoder, where the decoder alone learns")


@dataclasses.dataclass(frozen=True)
class DenoiserRun:
    """Training of a denoiser on a latent cache.

    Patch width, latent statistics and `longest`, the latent frames of the longest clip (the window
    of long videos), come from the cache: what the configuration says of them is replaced when the
    run is resolved.

    start  a denoiser (work directory, exported folder, shipped model) whose averaged weights the
           run starts from, e.g. one trained on images; "" = random ones. Optimizer, average and
           step count are new. It is read once: a run that resumes does not need it
    """

    data: LatentData
    denoising: DenoisingConfig
    plan: PlanConfig
    run: RunSpec
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    captions: CaptionConfig = CaptionConfig()
    validation: ValidationConfig = ValidationConfig()
    task: Literal["denoising"] = "denoising"
    start: str = ""
    vae_hash: str = ""
    longest: int = 0


RUNS: dict[str, type[VaeRun] | type[DenoiserRun]] = {
    "autoencoding": VaeRun,
    "denoising": DenoiserRun,
}
Run = VaeRun | DenoiserRun


def build_run(data: Mapping[str, Any]) -> Run:
    """The typed configuration. Raises BadInput for unknown tasks and keys."""
    name = data.get("task")
    if name not in RUNS:
        raise bad("config", f"task {name!r}", nearest(str(name), RUNS), "set config.task")
    if "mesh" in data and "parallel" not in data:  # the key's name in older work directories
        rest = {key: value for key, value in data.items() if key != "mesh"}
        data = rest | {"parallel": {"preset": "fsdp_context_tensor", **data["mesh"]}}
    return from_dict(RUNS[name], data)


def run_training(run: Run, workdir: str | Path) -> Trained:
    """Trains (or resumes) what the configuration says; see `train_vae`, `train_denoiser`."""
    return train_vae(run, workdir) if isinstance(run, VaeRun) else train_denoiser(run, workdir)


def train_vae(run: VaeRun, workdir: str | Path, program: Program | None = None) -> Trained:
    """Trains an autoencoder and exports its averaged weights and latent statistics to vae/.

    program  `vae_program` of this run at any length, when a probe has compiled it already
    """
    index = ClipIndex.open(run.data.index)
    every = vae_batches(run, index)
    agree({"config": to_dict(run), "index": index.hash, "code": code_facts()["vidsim"]})
    program = program or vae_program(run, every)
    moments = program.task.moments
    weights = first_weights(
        run.start, workdir, lambda: vae_start(run.start, run.autoencoding, run.run.seed, moments)
    )
    _check_chips(program)
    shares = vae_shares(run, program)
    mine = {clips: share.rows for clips, share in shares.items()}
    batches = crop_batches(index, run.data.crops, run.run.seed, mine.__getitem__)
    folder = Workdir.open(workdir, to_dict(run), {"index": index.hash}, _free(), _understood)
    try:
        done = train(program, batches, run.run, folder, label="vae", work=crop_work(program.task),
                     share=lambda batch: shares[int(batch["num_clips"])],
                     weights=weights)  # fmt: skip
        params = on_host(done.state.ema["vae"], program.mesh)
        if run.autoencoding.learn == "decoder":  # an average of equal numbers is rounded
            kept = done.state.params["vae"]["encoder"]
            params |= {"encoder": on_host(kept, program.mesh)}
        if jax.process_index() == 0 and not (folder.path / VAE_FOLDER).exists():
            export_vae(run, index, params, folder.path / VAE_FOLDER)
        wait_for_all("export")
    finally:
        folder.close()
    return done


def vae_program(run: VaeRun, batches: grain.MapDataset) -> Program:
    """The program of an autoencoder's run; a principal start looks at the first batches."""
    task = Autoencoding(run.autoencoding, load_perceptual(run.autoencoding))
    if run.autoencoding.start == "principal":
        moments = BlockMoments(task.vae)
        for step in range(PRINCIPAL_BATCHES):
            moments.add(np.asarray(to_signed(batches[step]["video"])))
        task = dataclasses.replace(task, moments=moments)
    return build_program(task, run.run, run.optim, build_mesh(run.parallel))


def vae_shares(run: VaeRun, program: Program) -> dict[int, Share]:
    """What this process reads of a step, by the step's number of clips."""
    crops = run.data.crops
    counts = {crops.batch_size, crops.image_batch_size or crops.batch_size}
    return {n: share_of(program.mesh, n, 0, run.run.micro_steps) for n in counts}


def vae_batches(run: VaeRun, index: ClipIndex) -> grain.MapDataset:
    """Crops of every step. Raises BadInput when a canvas does not fit the autoencoder's grid."""
    vae = Autoencoding(run.autoencoding).vae
    for canvas in run.data.crops.canvases:
        vae.check_video((1, *canvas, 3))
    return crop_batches(index, run.data.crops, run.run.seed)


def export_vae(run: VaeRun, index: ClipIndex, params: Any, folder: Path) -> str:
    """Measures the latents over clips spread through the index and saves the autoencoder. Channels
    whose encoder was kept keep their statistics too."""
    facts = latent_facts(Vae(run.autoencoding.vae), params, index, run.data.statistics_clips)
    if run.autoencoding.learn == "decoder":
        facts = grown_facts(load_model(vae_folder(run.start)).extra, facts)
    return save_model(folder, to_dict(run.autoencoding.vae), jax.device_get(params), facts)


def encode_index(
    index: ClipIndex,
    vae: str | Path,
    out: str | Path,
    config: EncodeConfig,
    *,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
    process: int = 0,
    processes: int = 1,
) -> LatentCache | None:
    """Writes a latent cache with a copy of its VAE, after telling its size.

    vae      exported autoencoder, the folder that holds one in vae/, or the name of an asset
    say      takes lines of text for the user
    Returns  the cache, or None when other processes still have shards to write
    """
    folder = vae_folder(vae)
    model = load_model(folder)
    autoencoder = Vae(from_dict(VaeConfig, model.config, f"{folder}"))
    plan = plan_cache(index, autoencoder, model.hash, model.extra, out, config)
    for line in plan.report.lines():
        say(line)
    if plan.cut_captions:
        say(f"captions       {plan.cut_captions} longer than {config.max_text} tokens are cut")
    say(f"forecast       {plan.bytes / 1e6:,.1f} MB in {plan.writer.shards} shards")
    copy_vae(folder, Path(out) / VAE_FOLDER, model.hash)
    params = as_float32(model.params)
    write_cache(plan, index, autoencoder, params, config,
                process=process, processes=processes, progress=progress)  # fmt: skip
    return LatentCache.open(out, model.hash) if processes == 1 else None


def resolve_denoiser(run: DenoiserRun, cache: LatentCache | JoinedCache) -> DenoiserRun:
    """Fills in what the cache decides: patch width, latent statistics, the VAE's identity."""
    meta = cache.meta
    latent = LatentConfig(
        cache.patch, meta.latent_mean, meta.latent_std, meta.latent_gain or (1.0,)
    )
    text = run.denoising.text
    width = math.prod(cache.patch) * cache.channels
    dit = dataclasses.replace(
        run.denoising.dit, patch_width=width, text_width=text.width if text else cache.text_width
    )
    if (text is None) != bool(cache.text_width):
        raise bad("config.denoising.text", "does not fit the captions of the cache",
                  f"cache {cache.meta.text} with width {cache.text_width}",
                  "set denoising.text for byte tokens, none for a frozen encoder")  # fmt: skip
    if text is not None:
        text = dataclasses.replace(text, words=tuple(meta.words))
    task = dataclasses.replace(run.denoising, dit=dit, latent=latent, text=text)
    longest = int(cache.grid[:, 0].max()) * cache.patch[0]
    return dataclasses.replace(
        run, denoising=task, vae_hash=cache.meta.vae_hash, longest=longest
    )  # fmt: skip


def train_denoiser(
    run: DenoiserRun, workdir: str | Path, prepared: tuple[Program, Plan] | None = None
) -> Trained:
    """Trains a denoiser; the cache's VAE is copied beside it, so that the folder samples alone.

    prepared  `denoiser_program` of this run at any length, when a probe has compiled it already
    """
    cache = run.data.open()
    run = resolve_denoiser(run, cache)
    agree({"config": to_dict(run), "cache": cache.hash, "code": code_facts()["vidsim"]})
    program, plan = prepared or denoiser_program(run, cache)
    agree({"plan": plan.digest(0)})
    _check_chips(program)
    share = share_of(
        program.mesh, run.plan.rows_per_step, run.plan.row_tokens, run.run.micro_steps
    )  # fmt: skip
    batches = packed_batches(
        cache, plan, run.run.steps, share.rows, share.tokens, tolerant=run.run.bad_data_limit > 0
    )
    vae = Path(run.data.cache) / VAE_FOLDER
    weights = first_weights(
        run.start, workdir,
        lambda: denoiser_start(run.start, run.denoising, vae, run.vae_hash, run.run.seed),
    )  # fmt: skip
    folder = Workdir.open(workdir, to_dict(run), {"cache": cache.hash}, _free(), _understood)
    try:
        if jax.process_index() == 0:
            copy_vae(vae, folder.path / VAE_FOLDER, run.vae_hash)
        evaluations = {}
        if run.data.validation_cache is not None:
            held_out = LatentCache.open(run.data.validation_cache, run.vae_hash)
            if held_out.meta.words != cache.meta.words:
                raise bad(f"cache {held_out.folder}", "has another vocabulary",
                          f"that of {cache.folder}", "encode it with --words-from")  # fmt: skip
            evaluations["validation"] = make_validation(
                program.task, held_out, run.plan, run.validation
            )
        return train(
            program, batches, run.run, folder,
            evaluations=evaluations, work=packed_work(run.denoising),
            step_work=None if share.whole else planned_work(run.denoising, plan),
            share=lambda _: share, label="denoiser",
            weights=weights,
        )  # fmt: skip
    finally:
        folder.close()


def denoiser_program(run: DenoiserRun, cache: LatentCache | JoinedCache) -> tuple[Program, Plan]:
    """The program and the epoch plan of a resolved run.

    Raises BadInput when a clip is longer than attention is told
    """
    plan = make_plan(
        cache, run.plan, run.run.seed, run.captions, Path(run.data.cache) / "plans"
    )  # fmt: skip
    longest, told = int(plan.tokens.max()), run.denoising.dit.longest_clip
    if told and longest > told:
        where = "config.denoising.dit.longest_clip"
        raise bad(where, f"{told}", f"a clip of the cache has {longest} tokens", "raise it, or 0")
    mesh = build_mesh(run.parallel)
    return build_program(Denoising(run.denoising), run.run, run.optim, mesh), plan


def copy_vae(source: Path, target: Path, expected: str) -> None:
    """Copies an exported autoencoder. Raises BadInput when it is not the one of the latents."""
    model = load_model(source)
    if model.hash != expected:
        raise bad(f"{source}", f"is VAE {model.hash[:12]}", f"latents are of {expected[:12]}",
                  "encode again with this VAE")  # fmt: skip
    save_model(target, model.config, model.params, model.extra)


def _check_chips(program: Program) -> None:
    """The start-up check, wherever a chip may be broken or out of reach."""
    if jax.process_count() > 1 or program.mesh.devices.flat[0].platform != "cpu":
        check_devices(program.mesh)


def _understood(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A work directory's configuration with today's settings, defaults for those it lacks."""
    return to_dict(build_run(stored))


def _free() -> tuple[str, ...]:
    """What may change between starts of one run: where it computes, and what it leaves behind."""
    return ("parallel", "mesh", "longest", *(f"run.{key}" for key in FREE_KEYS))
