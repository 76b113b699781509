"""What the training loop asks of anything that is learnt."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Task(Protocol):
    """A differentiable loss over batches; pure functions of their arguments.

    name  what is learnt, for logs and checkpoints
    """

    name: str

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 weights, a plain tree."""
        ...

    def param_axes(self) -> dict[str, Any]:
        """Logical axis names of every weight, a tree like that of `init` with tuples as leaves."""
        ...

    def loss(
        self, params: Params, batch: Batch, *, seed: int | jax.Array, step: int | jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The batch's part of the step's loss.

        batch    any share of the rows of one optimiser step, with the step's totals as scalars
        seed     of the run
        step     of the run; all randomness is keyed by (seed, step, clip key)
        Returns  (f32[], metrics f32[]); both are already divided by the step's totals, so adding
                 them over the micro-batches of a step gives the step's values, whatever the split
        """
        ...
