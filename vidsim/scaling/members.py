"""Prepares the data of a comparison once and trains its chains, each claimed by one process.

    DIR/scaling_run.json    what is compared; another comparison in the same folder is refused
    DIR/data/               index, autoencoder, latents; may be copied from another comparison, so
                            that both are measured on the same latents
    DIR/runs/<job>/         work directories; a job whose last checkpoint is there is done
    DIR/eval/<job>-<step>/  results of the suites

Jobs started with the same command on the same folder share the chains among them by file locks.
"""

import contextlib
import copy
import dataclasses
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vidsim.config import to_dict
from vidsim.core.errors import bad
from vidsim.data.index import ClipIndex, build_index
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.quickstart import WORLD, encode_config, vae_run
from vidsim.runs import (
    VAE_FOLDER,
    copy_vae,
    denoiser_program,
    encode_index,
    resolve_denoiser,
    train_vae,
)
from vidsim.scaling.families import Family
from vidsim.scaling.jobs import Chain, Job, members_of, seed_members, size_chain, trunk_chain
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.manifest import write_atomic
from vidsim.store.shards import LatentCache
from vidsim.store.workdir import Workdir
from vidsim.train.flops import packed_work
from vidsim.train.loop import FREE_KEYS, train
from vidsim.train.program import Program

RUN_FILE = "scaling_run.json"
FREE = ("parallel", "mesh", *(f"run.{key}" for key in FREE_KEYS))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared, and on how much data.

    family       shapes, rates and base compute (its debug form where asked)
    by           "steps" or "size"
    presets      members that are shown side by side; those between them are trained along
    seeds        of the members up to 4x
    clips        training clips; vae_steps of the autoencoder
    sweep        by size: the learning rate is swept at both ends
    """

    family: Family
    by: str
    presets: tuple[str, ...]
    seeds: int
    clips: int
    vae_steps: int
    sweep: bool = False

    def __post_init__(self) -> None:
        if self.family.reference != "shapes":
            raise bad("--family", repr(self.family.name), "laptop or gpu, on clips made here",
                      f"train its members with experiments/{self.family.name}.py")  # fmt: skip
        members_of(self.presets)
        if self.sweep and self.by != "size":
            raise bad("--sweep", f"with --by {self.by}", "--by size, whose models differ")
        if self.seeds < 1:
            raise bad("--seeds", f"{self.seeds}", "at least 1")

    @property
    def identity(self) -> dict[str, Any]:
        """What may not differ between two starts in one folder."""
        return {
            "family": self.family.name, "by": self.by, "base_flops": self.family.base_flops,
            "clips": self.clips, "vae_steps": self.vae_steps, "sweep": self.sweep,
        }  # fmt: skip


class Members:
    """The trainings of a comparison in a folder; every part that is finished is not done again."""

    def __init__(self, what: Comparison, workdir: Path, say: Callable[[str], None],
                 progress: Any) -> None:  # fmt: skip
        self.what, self.folder, self.say, self.progress = what, workdir, say, progress
        self.data = workdir / "data"
        self._programs: dict[Any, Program] = {}
        self._enter()

    def _enter(self) -> None:
        """Raises BadInput when the folder belongs to another comparison or to something else."""
        known = self.folder / RUN_FILE
        identity = json.loads(json.dumps(self.what.identity))
        if known.exists():
            found = json.loads(known.read_text())
            for key, value in identity.items():
                if found.get(key) != value:
                    raise bad(f"{self.folder}", f"holds a comparison with {key} {found.get(key)!r}",
                              f"this one has {value!r}", "another --workdir")  # fmt: skip
            return
        if self.folder.exists() and not self._empty():
            raise bad(f"{self.folder}", "holds other files", "a new or empty folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(known, json.dumps(identity, indent=1).encode())

    def _empty(self) -> bool:
        """Nothing is there, or only the data of another comparison, put there to be shared."""
        return self.folder.is_dir() and all(p.name == "data" for p in self.folder.iterdir())

    @property
    def cache(self) -> Path:
        """The training latents."""
        return self.data / "latents"

    def prepare(self) -> LatentCache:
        """Index, autoencoder and latents; a second process waits for the first."""
        with self.wait("data"):
            index = self.data / "train.parquet"
            self.data.mkdir(exist_ok=True)
            if not index.exists():
                spec = WORLD.format(split="train", size=self.what.clips, seed=0)
                self.say("\n".join(build_index(spec, index).lines()))
            vae = self.data / "vae"
            if not (vae / VAE_FOLDER).exists():
                train_vae(vae_run(str(index), self.what.vae_steps), vae)
            with self.progress("encode", "pieces") as show:
                made = encode_index(ClipIndex.open(index), vae, self.cache, encode_config(),
                                    say=self.say, progress=show)  # fmt: skip
        return made or LatentCache.open(self.cache)

    def chains(self, cache: LatentCache, rates: Mapping[str, float]) -> list[Chain]:
        """Every chain, the longest first.

        rates  by size: member -> factor on its learning rates, 1 where it has none
        """
        members, chains = members_of(self.what.presets), list[Chain]()
        for seed in range(self.what.seeds):
            mine = seed_members(members, seed)
            plan = make_plan(cache, self.what.family.plan, seed, self.what.family.captions,
                             self.cache / "plans")  # fmt: skip
            about = (seed, plan, str(self.cache), lambda run: resolve_denoiser(run, cache))
            if self.what.by == "steps":
                chains.append(trunk_chain(self.what.family, mine, *about))
            else:
                chains += [size_chain(self.what.family, name, *about, rates.get(name, 1.0))
                           for name in mine]  # fmt: skip
        return sorted(chains, key=lambda chain: -chain[-1].flops)

    def workdir(self, job: Job | str) -> Path:
        """The work directory of a job."""
        return self.folder / "runs" / (job if isinstance(job, str) else job.name)

    def is_done(self, job: Job) -> bool:
        """Whether the job's last checkpoint is there."""
        return job.steps in CheckpointStore(self.workdir(job) / "checkpoints").steps()

    @contextlib.contextmanager
    def wait(self, name: str) -> Iterator[None]:
        """Holds what only one process does while the others wait for it."""
        with _claim(self.folder / "locks" / f"{name}.lock", wait=True):
            yield

    @contextlib.contextmanager
    def claim(self, chain: Chain) -> Iterator[bool]:
        """Holds a chain for this process; yields False when another process is at it."""
        lock = self.folder / "locks" / f"{chain[0].name.replace('/', '-')}.lock"
        with _claim(lock) as mine:
            yield mine
        self._programs.clear()

    def train_chain(self, chain: Chain, cache: LatentCache) -> None:
        """Trains what is missing of a chain that this process holds."""
        for job in chain:
            if not self.is_done(job):
                self._train(job, cache)

    def _train(self, job: Job, cache: LatentCache) -> None:
        run = resolve_denoiser(job.run, cache)
        program = self._program(run, cache)
        plan = make_plan(cache, run.plan, run.run.seed, run.captions, self.cache / "plans")
        folder = Workdir.open(self.workdir(job), to_dict(run), {"cache": cache.hash}, FREE)
        start_s = time.perf_counter()
        try:
            copy_vae(self.cache / VAE_FOLDER, folder.path / VAE_FOLDER, run.vae_hash)
            if job.start is not None:
                branch(self.workdir(job.start), job.start_step, folder.path)
            done = train(
                program, packed_batches(cache, plan, run.run.steps), run.run, folder,
                work=packed_work(run.denoising), label=job.name,
            )  # fmt: skip
        finally:
            folder.close()
        took_s = time.perf_counter() - start_s
        self.say(f"{job.name}: step {job.steps}, {job.flops:.3g} FLOPs spent; {done.steps_done} "
                 f"steps in {took_s:.0f} s")  # fmt: skip

    def _program(self, run: Any, cache: LatentCache) -> Program:
        """One compiled step for all lengths and schedules of a model and seed: neither is in it."""
        key = (run.denoising, run.run.seed)
        if key not in self._programs:
            self._programs[key] = denoiser_program(run, cache)[0]
        program = copy.copy(self._programs[key])
        program.optim = run.optim
        return program


def branch(source: Path, step: int, target: Path) -> None:
    """Copies a checkpoint into a run that has none, so that it goes on from there.

    Nothing is copied when the run already has a checkpoint. Raises BadInput when there is no such
    step.
    """
    checkpoints = target / "checkpoints"
    if CheckpointStore(checkpoints).steps():
        return
    found = source / "checkpoints" / str(step)
    if not found.is_dir():
        raise bad(f"{source}", f"no checkpoint {step}", "the start of a branch", "train it first")
    checkpoints.mkdir(parents=True, exist_ok=True)
    draft = checkpoints / f"{step}.saving"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(found, draft)
    draft.rename(checkpoints / str(step))


@contextlib.contextmanager
def _claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """An advisory lock on a file; yields False when another process holds it and wait is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
