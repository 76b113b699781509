"""The denoiser's training data: step number to packed batch, through Grain.

The batch of step s depends on (source, config, seed, s) alone. Grain adds reading ahead in threads
or processes; neither their number nor the number of hosts changes a value.
"""

from pathlib import Path

import grain
import numpy as np

from vidsim.core.errors import bad
from vidsim.data.assemble import DrawnText, LatentSource, assemble
from vidsim.data.captions import CaptionConfig
from vidsim.data.plan import Plan, PlanConfig


class _StepToBatch(grain.transforms.Map):
    def __init__(
        self, source: LatentSource, plan: Plan, text: DrawnText, rows: np.ndarray | slice
    ) -> None:
        self.source, self.plan, self.text, self.rows = source, plan, text, rows

    def map(self, step: int) -> dict[str, np.ndarray]:
        """The packed batch of a step."""
        rows = self.plan.step(int(step))
        return assemble(self.source, self.plan.config, rows, self.text, self.rows)


def make_plan(
    source: LatentSource,
    config: PlanConfig,
    seed: int,
    captions: CaptionConfig | None = None,
    table_dir: str | Path | None = None,
) -> Plan:
    """The plan over a source's pieces, with the captions each epoch draws.

    captions   how often each kind of caption is drawn
    table_dir  where rows per window are kept, e.g. the cache's folder
    """
    captions = captions or CaptionConfig()
    tokens = source.grid.astype(np.int64).prod(1)
    content = f"{source.hash} {captions}"
    return Plan(tokens, DrawnText(source, captions, seed), config, seed, content, table_dir)


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
    if not isinstance(plan.text, DrawnText):
        raise bad("packed_batches", "a plan without captions", "one from make_plan")
    return grain.MapDataset.range(num_steps).map(_StepToBatch(source, plan, plan.text, rows))
