"""A task made ready to train on a mesh: shapes, shardings, optax chain and compiled step."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vidsim.core.keys import stream
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.rules import Rules
from vidsim.train.optim import OptimConfig, build_optimizer
from vidsim.train.state import TrainState, init_state, state_shardings
from vidsim.train.step import Batch, CompiledStep, make_step


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a short probe measured, in seconds."""

    compile_s: float
    step_s: float


class Program:
    """Everything about a run that does not depend on its length or its folder.

    task         `init(key) -> params`, `loss(params, batch, *, seed, step)`, `param_axes()`
    optim        optimizer and schedule
    seed         of the weights and of every random stream of the loss
    micro_steps  gradient accumulation
    ema_decay    of the weight average
    mesh, rules  where the arrays live; by default all devices, split by rows
    """

    def __init__(
        self,
        task: Any,
        optim: OptimConfig,
        *,
        seed: int,
        micro_steps: int = 1,
        ema_decay: float = 0.999,
        mesh: Mesh | None = None,
        rules: Rules | None = None,
    ) -> None:
        self.task, self.optim, self.seed = task, optim, seed
        self.mesh = build_mesh(MeshConfig()) if mesh is None else mesh
        axes = task.param_axes()
        self.tx = build_optimizer(optim, axes)
        plain = jax.eval_shape(self._make)
        places = state_shardings(plain, axes, self.mesh, rules or Rules())
        self.abstract: TrainState = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), plain, places
        )
        pure = make_step(task, self.tx, ema_decay, seed)
        self.step = CompiledStep(pure, self.mesh, places, micro_steps)

    def init(self, weights: Any = None) -> TrainState:
        """The state before the first step, equal for every mesh.

        weights  host arrays in the tree of the task's weights; None: drawn from the run's seed
        """
        places = self.step.state_shardings
        if weights is None:
            return jax.jit(self._make, out_shardings=places)()
        return jax.jit(lambda params: init_state(params, self.tx), out_shardings=places)(weights)

    def probe(self, batch: Batch, steps: int = 15) -> Rate:
        """Compiles the step and times it on one host batch, on weights that are thrown away."""
        placed = self.step.place(batch)
        state, metrics = self.step(self.init(), placed, 0.0)
        jax.block_until_ready(metrics)
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            state, metrics = self.step(state, placed, 0.0)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        return Rate(self.step.compile_s, float(np.median(times)))

    def _make(self) -> TrainState:
        return init_state(self.task.init(stream(self.seed, "init")), self.tx)
