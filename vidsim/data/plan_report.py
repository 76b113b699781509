"""What a plan achieves: fill, waiting, variation; and the row length that suits a data set."""

from dataclasses import dataclass

import numpy as np

from vidsim.data.packing import RowLimits, lower_bound, pack_window
from vidsim.data.plan import Plan, row_cost


@dataclass(frozen=True)
class PlanReport:
    """Figures of one epoch.

    fill, text_fill      used share of the patch and text tokens of all rows, empty rows included
    busy                 per micro-step, mean over its rows of the cost over the largest; then mean
    busy_plain           the same with the rows in random order
    busy_hosts           per optimiser step over `hosts` that split every group evenly
    clips_mean, clips_cv clips of an optimiser step, and their standard deviation over their mean
    clips_cv_plain       the same with the rows in random order
    lower_bound          rows that no packing of these pieces can beat
    """

    pieces: int
    rows: int
    steps: int
    lower_bound: int
    fill: float
    text_fill: float
    busy: float
    busy_plain: float
    hosts: int
    busy_hosts: float
    clips_mean: float
    clips_cv: float
    clips_cv_plain: float

    def lines(self) -> list[str]:
        """The report as text."""
        return [
            f"plan           {self.pieces} pieces in {self.rows} rows, {self.steps} steps; no "
            f"packing needs fewer than {self.lower_bound} rows",
            f"fill           {self.fill:.4f} of patch tokens, {self.text_fill:.3f} of text tokens",
            f"busy           {self.busy:.4f} within groups (in random order "
            f"{self.busy_plain:.3f}), {self.busy_hosts:.4f} over {self.hosts} hosts a step",
            f"clips a step   {self.clips_mean:.1f}, cv {self.clips_cv:.2f} "
            f"(in random order {self.clips_cv_plain:.2f})",
        ]


def plan_report(plan: Plan, epoch: int = 0, hosts: int = 1) -> PlanReport:
    """Measures an epoch of a plan.

    hosts  number of equal shares of a group that `busy_hosts` compares
    """
    config, steps = plan.config, plan.num_steps(epoch)
    size = config.group_rows
    everything = np.arange(len(plan.tokens))
    text = plan.text_tokens(epoch, everything)
    cost_of = row_cost(plan.tokens, config.cost_width)
    cost = np.zeros((steps, config.rows_per_step), np.int64)
    clips = np.zeros((steps, config.rows_per_step), np.int64)
    first = sum(plan.num_steps(e) for e in range(epoch))
    for i in range(steps):
        rows = plan.step(first + i).rows
        cost[i] = rows.sums(cost_of[rows.piece])
        clips[i] = np.diff(rows.offset)
    windows = len(plan.table(epoch)) - 1
    packed = [plan.window(epoch, i) for i in range(windows)]
    plain_cost = np.concatenate([rows.sums(cost_of[rows.piece]) for rows in packed])
    plain_clips = np.concatenate([np.diff(rows.offset) for rows in packed])
    order = np.random.default_rng(0).permutation(len(plain_cost))
    whole = len(order) // config.rows_per_step * config.rows_per_step
    plain_cost = plain_cost[order][:whole].reshape(-1, size)
    plain_clips = plain_clips[order][:whole].reshape(-1, config.rows_per_step).sum(1)
    per_host = cost.reshape(steps, -1, hosts, size // hosts).sum((1, 3))
    volume = steps * config.rows_per_step
    return PlanReport(
        pieces=len(plan.tokens),
        rows=plan.num_rows(epoch),
        steps=steps,
        lower_bound=lower_bound(plan.tokens, text, config.limits),
        fill=float(plan.tokens.sum() / (volume * config.row_tokens)),
        text_fill=float(text.sum() / (volume * config.row_text)),
        busy=busy_fraction(cost.reshape(-1, size)),
        busy_plain=busy_fraction(plain_cost),
        hosts=hosts,
        busy_hosts=busy_fraction(per_host),
        clips_mean=float(clips.sum(1).mean()),
        clips_cv=_variation(clips.sum(1)),
        clips_cv_plain=_variation(plain_clips),
    )


def busy_fraction(cost: np.ndarray) -> float:
    """Mean over the first axis of (mean / largest) over the second; idle entries are left out."""
    largest = cost.max(1, initial=0)
    active = largest > 0
    return float((cost[active].mean(1) / largest[active]).mean()) if active.any() else 1.0


@dataclass(frozen=True)
class RowLength:
    """A row length tried on a sample of clips: capacities, fill of patch tokens, clips a row."""

    row_tokens: int
    row_text: int
    fill: float
    clips_per_row: float


def recommend_row_length(
    tokens: np.ndarray,
    text: np.ndarray,
    row_segments: int = 64,
    largest: int = 0,
    unit: int = 1_024,
) -> tuple[RowLength, list[RowLength]]:
    """Tries row lengths on a sample and names the shortest that fills nearly as well as the best.

    tokens, text  i64[n] of each piece
    largest       longest row that fits in memory, patch tokens; 0 = four times the longest clip
    unit          row lengths are multiples of this (the block of the attention kernel)
    Returns       the recommended length, and every length tried; each with two and a half times the
                  text tokens of an average row, so that text does not limit the fill
    """
    pick = np.random.default_rng(0).permutation(len(tokens))[:8_192]
    longest, longest_text = int(tokens.max()), int(text.max())
    tokens, text = tokens[pick].astype(np.int64), text[pick].astype(np.int64)
    largest = max(largest or 4 * longest, longest)
    lengths = np.geomspace(longest, largest, 25)
    # Lengths that just hold a few of the longest clips suit data cut to one limit.
    multiples = longest * np.arange(1, largest // longest + 1)
    lengths = np.concatenate([lengths, multiples, 1.01 * multiples])
    tried = []
    for length in sorted({-(-int(x) // unit) * unit for x in lengths}):
        usual = 2.5 * length * text.sum() / tokens.sum()
        row_text = -(-max(longest_text, int(usual)) // 128) * 128
        _, rows = pack_window(tokens, text, RowLimits(length, row_text, row_segments))
        fill = float(tokens.sum() / (rows * length))
        tried.append(RowLength(length, row_text, fill, len(tokens) / rows))
    enough = max(t.fill for t in tried) - 0.005
    return next(t for t in tried if t.fill >= enough), tried


def _variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean()) if len(values) and values.mean() else 0.0
