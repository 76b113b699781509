"""One optimizer step: a pure function, and the same function compiled for a mesh."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidsim.core.errors import bad
from vidsim.core.trees import global_norm
from vidsim.parallel.place import batch_sharding, put
from vidsim.parallel.shares import Share, place_share
from vidsim.train.state import TrainState, ema_decay

LEFT_OUT = "left_out"  # i32[R] clips of each row that could not be read; may be absent
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_step(task: Any, tx: optax.GradientTransformation, decay: float, seed: int) -> Step:
    """The pure step.

    task     `loss(params, batch, *, seed, step) -> (loss, metrics)`; both are shares of the step,
             divided by the whole step's normaliser, so micro-batches add up
    tx       chain from `build_optimizer`
    decay    of the weight average
    Returns  step(state, batch, share) -> (state, metrics); arrays of the batch are [G, r, ...], G
             micro-steps of r rows, scalars belong to the whole step, and share f32[] is that of the
             peak learning rate. When the loss or a gradient is not finite the update is left out
             and counted, on all devices alike.
    """

    def loss(params: Any, micro: Batch, step: jax.Array) -> tuple[jax.Array, Metrics]:
        return task.loss(params, micro, seed=seed, step=step)

    def train_step(state: TrainState, batch: Batch, share: jax.Array) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), grads = _accumulate(gradient, state, batch)
        norm = global_norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, share=share)
        params = optax.apply_updates(state.params, updates)
        d = ema_decay(decay, state.step)
        ema = jax.tree.map(lambda e, p: d * e + (1.0 - d) * p, state.ema, params)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        missed = jnp.where(finite, 0, 1).astype(jnp.int32)
        new = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            skipped=state.skipped + missed,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * missed,
        )
        facts = {
            "loss": value, "grad_norm": norm, "skipped": new.skipped,
            "skipped_in_a_row": new.skipped_in_a_row,
        }  # fmt: skip
        if LEFT_OUT in batch:
            facts[LEFT_OUT] = jnp.sum(batch[LEFT_OUT])
        return new, {**metrics, **facts}

    return train_step


def split_micro(batch: Batch, micro_steps: int, ways: int = 1) -> dict[str, np.ndarray]:
    """Host batch [R, ...] to [G, R/G, ...] (a view); scalars stay.

    ways     devices that share the rows of a micro-step
    Raises   BadInput when the rows do not divide
    """
    split: dict[str, np.ndarray] = {}
    for name, value in batch.items():
        x = np.asarray(value)
        if x.ndim:
            rows = x.shape[0]
            if rows % (micro_steps * ways):
                raise bad(
                    "batch",
                    f"{name} has {rows} rows for {micro_steps} micro-steps over {ways} devices",
                    f"a multiple of {micro_steps * ways}",
                    "change the rows of a step, run.micro_steps or the mesh",
                )
            x = x.reshape(micro_steps, rows // micro_steps, *x.shape[1:])
        split[name] = x
    return split


@dataclasses.dataclass
class CompiledStep:
    """The step compiled ahead of time for a mesh, once for each set of batch shapes.

    Calling it with other shapes compiles once more and counts; it can never recompile unseen.

    compiler_options  of XLA, e.g. those of one TPU generation
    """

    step: Step
    mesh: Mesh
    state_shardings: TrainState
    micro_steps: int
    compile_s: float = 0.0
    compiler_options: dict[str, str | bool] | None = None

    def __post_init__(self) -> None:
        self._compiled: dict[tuple[Any, ...], Any] = {}
        self._copy = NamedSharding(self.mesh, PartitionSpec())

    @property
    def compilations(self) -> int:
        """How often the step was compiled."""
        return len(self._compiled)

    def place(self, batch: Batch, share: Share | None = None) -> dict[str, jax.Array]:
        """Puts a host batch on the mesh: micro-steps first, then as `batch_sharding` says.

        share  what of the step `batch` holds, where each process reads a part
        """
        if share is not None:
            return place_share(batch, self.mesh, share, self.micro_steps)
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        split = split_micro(batch, self.micro_steps, ways)
        return {k: put(x, self._sharding(k, x.shape)) for k, x in split.items()}

    def _sharding(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """Of a batch array with the micro-steps in front."""
        if not shape:
            return self._copy
        spec = batch_sharding(self.mesh, name, shape[1:]).spec
        return NamedSharding(self.mesh, PartitionSpec(None, *spec))

    def compiled(self, state: TrainState, batch: Mapping[str, Any]) -> Any:
        """The executable for a placed batch (or ShapeDtypeStructs with shardings)."""
        key = tuple(sorted((k, x.shape, str(x.dtype)) for k, x in batch.items()))
        if key not in self._compiled:
            start = time.perf_counter()
            share = jax.ShapeDtypeStruct((), jnp.float32, sharding=self._copy)
            jitted = jax.jit(
                self.step,
                in_shardings=(
                    self.state_shardings,
                    {k: self._sharding(k, x.shape) for k, x in batch.items()},
                    self._copy,
                ),
                out_shardings=(self.state_shardings, self._copy),
                donate_argnums=0,
            )
            with jax.set_mesh(self.mesh):
                lowered = jitted.lower(state, batch, share)
                self._compiled[key] = lowered.compile(compiler_options=self.compiler_options)
            self.compile_s += time.perf_counter() - start
        return self._compiled[key]

    def __call__(
        self, state: TrainState, batch: Mapping[str, jax.Array], share: float
    ) -> tuple[TrainState, Metrics]:
        """Runs one step; `state` is donated. Nothing may move to or from the host unasked."""
        executable = self.compiled(state, batch)
        placed = put(np.asarray(share, np.float32), self._copy)
        with jax.transfer_guard("disallow"):
            return executable(state, batch, placed)


def _accumulate(gradient: Any, state: TrainState, batch: Batch) -> tuple[Any, Any]:
    """Sums loss, metrics and gradients over the micro-steps, in float32."""
    scalars = {k: x for k, x in batch.items() if x.ndim == 0}
    stacked = {k: x for k, x in batch.items() if x.ndim}

    def one(micro: Batch) -> Any:
        return gradient(state.params, {**scalars, **micro}, state.step)

    first = {k: x[0] for k, x in stacked.items()}
    if next(iter(stacked.values())).shape[0] == 1:
        return one(first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, first))

    def add(total: Any, micro: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(micro)), None

    return jax.lax.scan(add, zeros, stacked)[0]
