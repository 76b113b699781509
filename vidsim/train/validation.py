"""Fixed-noise validation: the loss of held-out clips at fixed times, by time and by size.

The clips, their noise and the times are the same at every call, so two numbers of a run, or of two
runs, differ by the weights alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidsim.core.errors import bad
from vidsim.data.assemble import LatentSource
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.parallel.place import place_batch, replicated
from vidsim.train.state import TrainState
from vidsim.train.step import Batch


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """What is held fixed.

    times    noise times, one in the middle of each band of (0, 1)
    batches  packed steps of held-out clips, at most one pass over them
    seed     of their order and noise
    """

    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    batches: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.times or not all(0.0 < t <= 1.0 for t in self.times):
            raise bad("validation.times", f"{self.times}", "one or more times in (0, 1]")
        if self.batches < 1:
            raise bad("validation.batches", f"{self.batches}", "at least 1")


class Validated(Protocol):
    """A task whose loss can be taken clip by clip at given times."""

    def validation(
        self, params: Any, batch: Any, *, times: jax.Array, seed: int | jax.Array
    ) -> jax.Array:
        """f32[R,S,bands]: loss of each clip at each time; anything in empty slots."""


def make_validation(
    task: Validated, held_out: LatentSource, plan: PlanConfig, cfg: ValidationConfig
) -> Callable[[TrainState], dict[str, Any]]:
    """The evaluation of a denoiser on held-out latents, packed like the training data."""
    order = make_plan(held_out, plan, cfg.seed)
    steps = min(cfg.batches, order.num_steps(0))
    batches = packed_batches(held_out, order, steps)
    return fixed_noise(task, [batches[s] for s in range(steps)], cfg)


def fixed_noise(
    task: Validated, batches: Sequence[Batch], cfg: ValidationConfig
) -> Callable[[TrainState], dict[str, Any]]:
    """An evaluation for `train` over host batches; reads the averaged weights.

    Returns a function of the state giving {"loss": mean over clips and times, "n": clips,
    "t=0.10": mean at that time, ..., "by_size": {"64x48": {"loss": ..., "n": ...}, ...}}, sizes
    being height x width. Every clip counts the same.
    """
    times = np.asarray(cfg.times, np.float32)

    def losses_of(params: Any, batch: Any) -> jax.Array:
        return task.validation(params, batch, times=jnp.asarray(times), seed=cfg.seed)

    @functools.cache
    def compiled(mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
        return jax.jit(losses_of, out_shardings=replicated(mesh))

    def evaluate(state: TrainState) -> dict[str, Any]:
        mesh = jax.tree.leaves(state.ema)[0].sharding.mesh
        found = []
        with jax.set_mesh(mesh):
            for batch in batches:
                loss_RSB = jax.device_get(compiled(mesh)(state.ema, place_batch(batch, mesh)))
                found.append(_real(loss_RSB, batch))
        losses = np.concatenate([loss for loss, _ in found]).astype(np.float64)
        sizes = np.concatenate([size for _, size in found])
        return summarise(losses, sizes, cfg.times)

    return evaluate


def summarise(losses: np.ndarray, sizes: np.ndarray, times: Sequence[float]) -> dict[str, Any]:
    """Means of losses [clips, bands] of clips with sizes i[clips, 2], as `fixed_noise` returns."""
    by_size = {}
    for size in np.unique(sizes, axis=0):
        chosen = losses[(sizes == size[None]).all(1)]
        height, width = size.tolist()
        by_size[f"{height}x{width}"] = {"loss": float(chosen.mean()), "n": len(chosen)}
    bands = {f"t={t:.2f}": float(losses[:, i].mean()) for i, t in enumerate(times)}
    return {"loss": float(losses.mean()), "n": len(losses), **bands, "by_size": by_size}


def _real(loss_RSB: np.ndarray, batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    real_RS = np.asarray(batch["clip_key"]) > 0
    return loss_RSB[real_RS], np.asarray(batch["size"])[real_RS]
