"""The denoiser's training data: step number to packed batch, through Grain.

The batch of step s depends on (source, config, seed, s) alone. Grain adds reading ahead in threads
or processes; neither their number nor the number of hosts changes a value.
"""

from pathlib import Path

import grain
import numpy as np

from vidsim.core.errors import bad
from vidsim.data.assemble import DrawnText, LatentSource, assemble
from vidsim.data.plan import Plan, PlanConfig


class _StepToBatch(grain.transforms.Map):
    def __init__(self, source: LatentSource, plan: Plan, rows: np.ndarray | slice) -> None:
        self.source, self.plan, self.rows = source, plan, rows

    def map(self, step: int) -> dict[str, np.ndarray]:
        """The packed batch of a step."""
        rows = self.plan.step(int(step))
        return assemble(self.source, self.plan.config, rows, self.plan.seed, self.rows)


def make_plan(
    source: LatentSource,
    config: PlanConfig,
    seed: int,
    content_hash: str = "",
    table_dir: str | Path | None = None,
) -> Plan:
    """The plan over a source's pieces, with the captions each epoch draws."""
    tokens = source.grid.astype(np.int64).prod(1)
    return Plan(tokens, DrawnText(source, seed), config, seed, content_hash, table_dir)


def packed_batches(
    source: LatentSource,
    plan: Plan,
    num_steps: int,
    rows: np.ndarray | slice = slice(None),
) -> grain.MapDataset:
    """The data set whose element s is the packed batch of step s.

    plan       from `make_plan` over the same source
    num_steps  its length; epochs follow one another as long as needed
    rows       rows of each step that this process reads, e.g. from the batch's sharding
    Use        `packed_batches(...)[start:].to_iter_dataset(grain.ReadOptions(...))` to train from
               step `start`
    """
    if num_steps < 1:
        raise bad("packed_batches", f"num_steps {num_steps}", "at least 1")
    if len(plan.tokens) != len(source.clip):
        raise bad("packed_batches", f"a plan of {len(plan.tokens)} pieces",
                  f"{len(source.clip)}, the source's")  # fmt: skip
    return grain.MapDataset.range(num_steps).map(_StepToBatch(source, plan, rows))
