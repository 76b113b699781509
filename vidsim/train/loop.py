"""The training loop: the one place with files, clocks and signals around the pure step.

At every step, in this order: evaluate, save, next batch, step, write. Numbers of a step are read
while the next one runs.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
from absl import flags
from jax.sharding import Mesh

from vidsim.core.errors import BadInput, bad
from vidsim.core.exits import BadDataLimit, NonFiniteLimit, Preempted
from vidsim.parallel.rules import Rules
from vidsim.parallel.shares import Share
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.workdir import Workdir
from vidsim.train.chips import device_facts, slowest_process
from vidsim.train.events import JsonLines, TensorBoard, WandB, Writer
from vidsim.train.optim import OptimConfig, rate_share
from vidsim.train.profile import StepTrace, profiled_steps
from vidsim.train.program import Program
from vidsim.train.progress import Progress
from vidsim.train.state import TrainState, from_items, items
from vidsim.train.step import LEFT_OUT, Batch
from vidsim.train.stopping import StopRequest
from vidsim.train.watchdog import Watchdog

Evaluation = Callable[[TrainState], Mapping[str, Any]]
Work = Callable[[Batch], Mapping[str, float]]
StepWork = Callable[[int], Mapping[str, float]]
Shares = Callable[[Batch], Share | None]
Weights = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """How long a run is and what it leaves behind.

    steps            optimizer steps
    seed             of the weights and of all noise
    micro_steps      parts that the rows of a step are worked through in (gradient accumulation)
    ema_decay        of the weight average that is sampled from
    save_every, eval_every, log_every   in steps; the last step is always saved and evaluated
    keep, keep_every newest checkpoints kept, and steps kept for ever
    nonfinite_limit  updates left out in a row before the run ends
    bad_data_limit   unreadable clips of a latent cache that are left out of their rows before this
                     start ends; a line names each, and the step's normaliser still counts it
    watchdog_s       seconds without a finished step, evaluation or save before the process ends;
                     None = as long as it takes. Compiling must fit in
    read_threads, read_processes, prefetch   how batches are read ahead; never what they hold
    tensorboard      write event files
    wandb            project of Weights & Biases, None = not used
    profile          "100:105" traces steps 100 to 104 into the work directory's profile/; "" none
    """

    steps: int
    seed: int = 0
    micro_steps: int = 1
    ema_decay: float = 0.999
    save_every: int = 1000
    eval_every: int = 1000
    log_every: int = 10
    keep: int = 3
    keep_every: int | None = None
    nonfinite_limit: int = 20
    bad_data_limit: int = 0
    watchdog_s: float | None = 1800.0
    read_threads: int = 2
    read_processes: int = 0
    prefetch: int = 4
    tensorboard: bool = True
    wandb: str | None = None
    profile: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "micro_steps", "save_every", "eval_every", "log_every", "keep",
                     "nonfinite_limit", "read_threads", "prefetch"):  # fmt: skip
            if getattr(self, name) < 1:
                raise bad(f"run.{name}", f"{getattr(self, name)}", "at least 1")
        if self.keep_every is not None and self.keep_every < 1:
            raise bad("run.keep_every", f"{self.keep_every}", "at least 1, or None")
        for name in ("read_processes", "bad_data_limit"):
            if getattr(self, name) < 0:
                raise bad(f"run.{name}", f"{getattr(self, name)}", "0 or more")
        if not 0 <= self.ema_decay < 1:
            raise bad("run.ema_decay", f"{self.ema_decay}", "from 0 (no average) to below 1")
        profiled_steps(self.profile)


FREE_KEYS = ("save_every", "eval_every", "log_every", "keep", "keep_every", "nonfinite_limit",
             "bad_data_limit", "watchdog_s", "read_threads", "read_processes", "prefetch",
             "tensorboard", "wandb", "profile")  # fmt: skip
"""Fields of RunSpec that may change between starts of one run: they do not touch the weights."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The end of a run: its state, how many steps this start did, how often the step compiled."""

    state: TrainState
    steps_done: int
    compilations: int


def build_program(
    task: Any,
    run: RunSpec,
    optim: OptimConfig,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
) -> Program:
    """The program of a run; `Program.probe` measures its rate before its length is decided."""
    return Program(
        task, optim, seed=run.seed, micro_steps=run.micro_steps, ema_decay=run.ema_decay,
        mesh=mesh, rules=rules,
    )  # fmt: skip


def train(
    program: Program,
    batches: grain.MapDataset,
    run: RunSpec,
    workdir: Workdir,
    *,
    evaluations: Mapping[str, Evaluation] | None = None,
    work: Work | None = None,
    step_work: StepWork | None = None,
    share: Shares | None = None,
    weights: Weights | None = None,
    label: str = "train",
) -> Trained:
    """Trains from the newest whole checkpoint of `workdir` (or from the start) to `run.steps`.

    program      from `build_program` with the same run
    batches      element s is the host batch of step s
    evaluations  name -> function(state) -> numbers to record; called every `eval_every` steps
    work         function(host batch) -> {unit: amount}, e.g. {"tokens": 4096.0}; the first entry is
                 the one shown. By default tokens where the batch states them, else clips.
    step_work    function(step) -> the same, for processes that see a part of the batch
    share        function(host batch) -> the part of its step that it holds; None: all of it
    weights      called where there is no checkpoint yet: the weights to start from; by default they
                 are drawn from the seed
    Raises       Preempted (saved), NonFiniteLimit, BadDataLimit, DiskFull, NoValidCheckpoint,
                 BadInput. A hang ends the process with code 43: see train/watchdog.py
    """
    if len(batches) < run.steps:
        raise bad("run.steps", f"{run.steps}", f"the data has {len(batches)} steps", "repeat it")
    amounts = work or _default_work
    each = (
        (lambda step, batch: amounts(batch))
        if step_work is None
        else (lambda step, batch: step_work(step))
    )
    loop = _Loop(program, run, workdir, evaluations or {}, each, share, weights, label)
    with loop.watchdog:
        return loop.run(batches)


class _Loop:
    """One start of a run."""

    def __init__(
        self,
        program: Program,
        run: RunSpec,
        workdir: Workdir,
        evaluations: Mapping[str, Evaluation],
        work: Callable[[int, Batch], Mapping[str, float]],
        share: Shares | None,
        weights: Weights | None,
        label: str,
    ) -> None:
        self.program, self.spec, self.workdir = program, run, workdir
        self.weights = weights
        self.evaluations, self.work, self.label = evaluations, work, label
        self.share = share or (lambda _: None)
        self.left_out = 0
        self.watchdog = Watchdog(run.watchdog_s, label)
        self.store = CheckpointStore(workdir.checkpoints, run.keep, run.keep_every)
        self.pending: tuple[int, Any, Mapping[str, float]] | None = None

    def run(self, batches: grain.MapDataset) -> Trained:
        state, start = self._begin()
        self.progress = Progress(self.label, start, self.spec.steps, quiet=not _is_primary())
        self.writers = self._open_writers(start)
        self.since_s = time.perf_counter()
        self.trace = StepTrace(self.spec.profile if _is_primary() else "", self.workdir.path)
        stream = _read_ahead(batches, start, self.spec)
        try:
            with StopRequest() as stop:
                for step in itertools.count(start):
                    last, asked = step == self.spec.steps, stop.asked(step)
                    if step > start:
                        self._at_boundary(state, step, last, asked)
                    if last:
                        return Trained(state, step - start, self.program.step.compilations)
                    if asked:
                        raise Preempted(f"{self.label}: stopped and saved at step {step}")
                    if traced := self.trace.before(step, state):
                        self.progress.say(f"{self.label}: steps {self.spec.profile} in {traced}")
                    state = self._advance(state, step, stream)
            raise AssertionError("unreachable")
        finally:
            self._end(stream)

    def _begin(self) -> tuple[TrainState, int]:
        self.store.clean()
        found = self.store.restore(items(self.program.abstract))
        if found is None:
            given = self.weights() if self.weights else None
            state, start = self.program.init(given), 0
        else:
            for line in found.passed_over:
                _print(f"{self.label}: passed over a damaged checkpoint, {line}")
            _print(f"{self.label}: resuming at step {found.step}")
            state, start = from_items(found.items), found.step
        self.workdir.record_start(start, {"devices": _devices()})
        return state, start

    def _open_writers(self, start: int) -> list[Writer]:
        if not _is_primary():
            return []
        writers: list[Writer] = [JsonLines(self.workdir.metrics, start)]
        if self.spec.tensorboard:
            writers.append(TensorBoard(self.workdir.path, start))
        if self.spec.wandb is not None:
            facts = dataclasses.asdict(self.spec)
            writers.append(WandB(self.spec.wandb, self.workdir.path, facts))
        return writers

    def _at_boundary(self, state: TrainState, step: int, last: bool, asked: bool) -> None:
        """Evaluates and saves when due. What was measured up to here is written first."""
        evaluate = last or step % self.spec.eval_every == 0
        save = last or asked or step % self.spec.save_every == 0
        if not (evaluate or save):
            return
        self._flush()
        for name, evaluation in self.evaluations.items() if evaluate else ():
            values = evaluation(state)
            self.watchdog.beat(f"{name} of step {step}")
            self._write(step, name, values)
            shown = (f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float))
            self.progress.say(f"{self.label} step {step}: {name} {', '.join(shown)}")
        if save:
            self.store.save(step, items(state), {"seed": self.spec.seed})
            self.watchdog.beat(f"starting to save step {step}")
        self.since_s = time.perf_counter()

    def _advance(self, state: TrainState, step: int, stream: Iterator[Any]) -> TrainState:
        """Takes the next batch, starts its step, and reads the numbers of the step before."""
        asked_s = time.perf_counter()
        batch = self._read(step, stream)
        wait_s = time.perf_counter() - asked_s
        placed = self.program.step.place(batch, self.share(batch))
        share = rate_share(self.program.optim, self.spec.steps, step)
        compiled = self.program.step.compilations
        state, metrics = self.program.step(state, placed, share)
        if self.program.step.compilations > compiled:
            self.progress.say(f"{self.label}: compiled in {self.program.step.compile_s:.1f} s")
            self.since_s = time.perf_counter()
            self.watchdog.beat("compiling")
        self._flush()
        work = self.work(step, batch)
        facts = {"lr": share * self.program.optim.lr, "data_wait_s": wait_s, **work}
        self.pending = (step + 1, metrics, facts)
        return state

    def _read(self, step: int, stream: Iterator[Any]) -> Batch:
        """The host batch of a step. Raises BadDataLimit when it cannot be read."""
        try:
            batch = next(stream)
        except (BadInput, OSError) as error:
            line = " ".join(str(error).split())
            raise BadDataLimit(
                f"{self.label}: the data of step {step} cannot be read: {line}"
            ) from error
        if batch is None:
            raise bad("data", f"step {step} has no batch", "one batch for each step")
        return batch

    def _flush(self) -> None:
        """Reads and writes the numbers of the step that was started last."""
        if self.pending is None:
            return
        step, metrics, facts = self.pending
        self.pending = None
        values = {k: _number(v) for k, v in jax.device_get(metrics).items()}
        self.watchdog.beat(f"step {step}")
        now_s = time.perf_counter()
        step_s, self.since_s = now_s - self.since_s, now_s
        amounts = {k: v for k, v in facts.items() if k not in ("lr", "data_wait_s")}
        unit = next(iter(amounts), "steps")
        rates = {f"{k}_per_s": v / step_s for k, v in amounts.items()}
        machine = device_facts(rates, list(self.program.mesh.devices.flat))
        if values["skipped_in_a_row"]:
            self.progress.say(
                f"{self.label} step {step}: loss or gradient not finite, update left out "
                f"({values['skipped_in_a_row']} in a row)"
            )
        if step % self.spec.log_every == 0 or step == self.spec.steps or values["skipped_in_a_row"]:
            slowest = slowest_process(facts["data_wait_s"])
            numbers = {**values, **facts, **rates, **machine, **slowest, "step_s": step_s}
            self._write(step, "train", numbers)
        self.progress.update(step, values | machine, facts.get(unit, 1.0), unit)
        if values["skipped_in_a_row"] >= self.spec.nonfinite_limit:
            raise NonFiniteLimit(
                f"{self.label}: {values['skipped_in_a_row']} updates in a row were not finite at "
                f"step {step}; run.nonfinite_limit={self.spec.nonfinite_limit}; lower optim.lr or "
                "look at the data of these steps"
            )
        self.left_out += int(values.get(LEFT_OUT, 0))
        if self.left_out > self.spec.bad_data_limit:
            raise BadDataLimit(
                f"{self.label}: {self.left_out} clips could not be read up to step {step}; "
                f"run.bad_data_limit={self.spec.bad_data_limit}; encode them again"
            )

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write(step, kind, values)

    def _end(self, stream: Any) -> None:
        """Commits the save under way and closes everything, whatever happened."""
        self.trace.close()
        self.progress.close()
        for writer in self.writers:
            writer.close()
        if hasattr(stream, "close"):
            stream.close()
        self.store.wait()


def _read_ahead(batches: grain.MapDataset, start: int, spec: RunSpec) -> Iterator[Any]:
    """Host batches of steps start, start + 1, ..., read ahead by threads or processes."""
    if start >= spec.steps:
        return iter(())
    options = grain.ReadOptions(
        num_threads=spec.read_threads,
        prefetch_buffer_size=max(spec.prefetch, spec.read_threads),
    )
    ahead = batches[start : spec.steps].to_iter_dataset(options, allow_nones=True)
    if spec.read_processes:
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which we do not use
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=spec.read_processes))
    return iter(ahead)


def _default_work(batch: Batch) -> Mapping[str, float]:
    if "num_tokens" in batch:
        return {"tokens": float(batch["num_tokens"])}
    return {"clips": float(max(len(x) for x in batch.values() if getattr(x, "ndim", 0)))}


def _number(value: Any) -> int | float:
    return int(value) if value.dtype.kind in "iu" else float(value)


def _is_primary() -> bool:
    return jax.process_index() == 0


def _print(line: str) -> None:
    if _is_primary():
        print(line, flush=True)


def _devices() -> str:
    first = jax.devices()[0]
    return f"{jax.device_count()} x {first.device_kind}"
