"""What the rows of a planned step hold, from numbers: a cache's own clips, reference clips, or an
assumption that is stated.
"""

import dataclasses
from pathlib import Path

from vidsim.core.errors import bad
from vidsim.data.pipeline import make_plan
from vidsim.data.plan import Plan, PlanConfig
from vidsim.runs import DenoiserRun
from vidsim.scaling.compute import step_counts
from vidsim.scaling.families import FAMILIES
from vidsim.scaling.reference import reference_plan
from vidsim.train.flops import Counts

EQUAL_CLIPS = 8
STEPS = 8  # of the plan, averaged
CAPTION = 128  # text tokens of an assumed clip, where they fit


@dataclasses.dataclass(frozen=True)
class RowContent:
    """What rows hold on average.

    plan   capacities
    mean   `Counts` of one row
    told   where that comes from, for people
    """

    plan: PlanConfig
    mean: Counts
    told: str

    def live(self, rows: int) -> Counts:
        """What exists in so many rows."""
        fields = dataclasses.asdict(self.mean)
        return Counts(**{name: round(value * rows) for name, value in fields.items()})

    def padded(self, rows: int) -> Counts:
        """What whole rows would hold."""
        n, m, slots = self.plan.row_tokens, self.plan.row_text, self.plan.row_segments
        return Counts(
            patches=rows * n, texts=rows * m, clips=rows * slots, levels=rows * (slots + 1),
            self_pairs=rows * n * n, cross_pairs=rows * n * m, text_pairs=rows * m * m,
        )  # fmt: skip


def row_content(run: DenoiserRun, clips: int | None = None) -> RowContent:
    """What the rows of a run hold.

    clips  equal clips a row, assumed; None: those of the run's cache where that exists, those of
           the preset family with the same rows, or else EQUAL_CLIPS
    """
    if clips is not None:
        return equal_clips(run.plan, clips)
    if Path(run.data.cache).is_dir():
        plan = make_plan(run.data.open(), run.plan, run.run.seed, run.captions)
        return _averaged(run.plan, plan, f"clips of {run.data.cache}")
    for family in FAMILIES.values():
        if family.plan == run.plan:
            plan = reference_plan(family.reference, family.geometry, family.max_text, run.plan)
            told = f"reference clips '{family.reference}' of the {family.name} family"
            return _averaged(run.plan, plan, told)
    return equal_clips(run.plan, EQUAL_CLIPS)


def equal_clips(plan: PlanConfig, clips: int) -> RowContent:
    """Rows filled by so many clips of one length each, with captions of one length."""
    if not 1 <= clips <= min(plan.row_segments, plan.row_tokens, plan.row_text):
        raise bad("--clips", f"{clips} clips a row", f"1 to {plan.row_segments}")
    n, m = plan.row_tokens // clips, min(CAPTION, plan.row_text // clips)
    mean = Counts(
        patches=clips * n, texts=clips * m, clips=clips, levels=clips + 1,
        self_pairs=clips * n * n, cross_pairs=clips * n * m, text_pairs=clips * m * m,
    )  # fmt: skip
    return RowContent(plan, mean, f"assumed: {clips} clips of {n:,} tokens a row")


def _averaged(config: PlanConfig, plan: Plan, told: str) -> RowContent:
    steps = min(STEPS, plan.num_steps(0))
    counts = [dataclasses.asdict(step_counts(plan, plan.step(s))) for s in range(steps)]
    rows = steps * config.rows_per_step
    mean = {name: sum(c[name] for c in counts) / rows for name in counts[0]}
    return RowContent(config, Counts(**mean), f"{told}, first {steps} steps")  # type: ignore[arg-type]
