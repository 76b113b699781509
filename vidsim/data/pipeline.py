"""The denoiser's training data: step number to packed batch, through Grain.

The batch of step s depends on (source, config, seed, s) alone. Grain adds reading ahead in threads
or processes; neither their number nor the number of hosts changes a value.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import grain
import numpy as np

from vidsim.core.batch import LETTERS
from vidsim.core.errors import BadInput, bad
from vidsim.data.assemble import DrawnText, LatentSource, assemble
from vidsim.data.captions import CaptionConfig
from vidsim.data.plan import Plan, PlanConfig, Rows, StepRows


class _StepToBatch(grain.transforms.Map):
    def __init__(
        self,
        source: LatentSource,
        plan: Plan,
        text: DrawnText,
        rows: np.ndarray | slice,
        tokens: slice | None,
        tolerant: bool,
    ) -> None:
        self.source, self.plan, self.text, self.rows = source, plan, text, rows
        self.tolerant = tolerant
        self.tokens = None if tokens == slice(0, plan.config.row_tokens) else tokens

    def map(self, step: int) -> dict[str, np.ndarray]:
        """The packed batch of a step."""
        step_rows, config = self.plan.step(int(step)), self.plan.config
        if self.tolerant:
            return self._without_unreadable(step_rows)
        if self.tokens is None:
            return assemble(self.source, config, step_rows, self.text, self.rows)
        rows = step_rows.rows.take(np.arange(len(step_rows.rows))[self.rows])
        near = _Near(self.source, _meeting(rows, self.plan.tokens, self.tokens))
        batch = assemble(near, config, step_rows, self.text, self.rows)
        cut = {k for k, letters in LETTERS.items() if letters.startswith("RN")} | {"midstream"}
        return {k: x[:, self.tokens] if k in cut else x for k, x in batch.items()}

    def _without_unreadable(self, step: StepRows) -> dict[str, np.ndarray]:
        """The batch, unreadable clips left out as if unplanned; "left_out" i32[R] counts them."""
        mine = step.rows.take(np.arange(len(step.rows))[self.rows])
        step, config = dataclasses.replace(step, rows=mine), self.plan.config
        left_out = np.zeros(len(mine), np.int32)
        try:
            return assemble(self.source, config, step, self.text) | {"left_out": left_out}
        except (BadInput, OSError):
            readable = np.array([self._readable(step, piece) for piece in mine.piece], bool)
        rows = np.repeat(np.arange(len(mine)), np.diff(mine.offset))
        np.add.at(left_out, rows[~readable], 1)
        count = np.bincount(rows[readable], minlength=len(mine))
        kept = Rows(np.concatenate([[0], np.cumsum(count)]), mine.piece[readable])
        step = dataclasses.replace(step, rows=kept)
        return assemble(self.source, config, step, self.text) | {"left_out": left_out}

    def _readable(self, step: StepRows, piece: int) -> bool:
        one = np.array([piece])
        try:
            self.source.latents(one)
            self.source.captions(self.text.numbers(step.epoch, one))
        except (BadInput, OSError) as error:
            line = " ".join(str(error).split())
            print(f"data: epoch {step.epoch} step {step.step}: clip {int(self.source.clip[piece])} "
                  f"is left out: {line}", file=sys.stderr, flush=True)  # fmt: skip
            return False
        return True


def _meeting(rows: Rows, tokens: np.ndarray, part: slice) -> np.ndarray:
    """bool: which clips of these rows, in order, have tokens in that part of their row."""
    count = tokens[rows.piece].astype(np.int64)
    total = np.concatenate([[0], np.cumsum(count)])
    start = total[:-1] - np.repeat(total[rows.offset[:-1]], np.diff(rows.offset))
    return (start < part.stop) & (start + count > part.start)


class _Near:
    """A source that reads only some of the clips that one batch asks for; zeros for the others."""

    def __init__(self, source: LatentSource, wanted: np.ndarray) -> None:
        self._source, self._wanted = source, wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def latents(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The latents of the clips of the batch, in its order."""
        return self._read(self._source.latents, pieces)

    def midstream(self, pieces: np.ndarray) -> list[np.ndarray]:
        """As `latents`."""
        return self._read(self._source.midstream, pieces)

    def _read(self, read: Any, pieces: np.ndarray) -> list[np.ndarray]:
        found = iter(read(pieces[self._wanted]))
        shapes = (self._source.grid[pieces] * np.array(self._source.patch)).tolist()
        nothing = np.zeros((), np.float32)
        return [
            next(found) if wanted else np.broadcast_to(nothing, (*shape, self._source.channels))
            for wanted, shape in zip(self._wanted.tolist(), shapes, strict=True)
        ]


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
    tokens: slice | None = None,
    tolerant: bool = False,
) -> grain.MapDataset:
    """The data set whose element s is the packed batch of step s.

    plan       from `make_plan` over the same source
    num_steps  its length; epochs follow one another as long as needed
    rows       rows of each step that this process reads, e.g. from the batch's sharding
    tokens     patch tokens of these rows that it reads; None for all
    tolerant   clips that cannot be read are left out of their rows, counted in "left_out" i32[R];
               the totals num_clips and num_tokens stay the plan's. Wants whole rows: processes that
               read parts of one row would disagree about it
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
    if tolerant and tokens not in (None, slice(0, plan.config.row_tokens)):
        raise bad("run.bad_data_limit", "above 0 where processes share a row", "0",
                  "or choose a mesh whose context axis stays within a process")  # fmt: skip
    read = _StepToBatch(source, plan, plan.text, rows, tokens, tolerant)
    return grain.MapDataset.range(num_steps).map(read)
