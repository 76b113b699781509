"""Which member is better, said only where clips and seeds both show it; and when a skill emerges.

A difference counts when its paired interval over the same clips excludes zero *and* it is larger
than what other seeds alone would change: the bound of Student's t for two means of so many seeds,
from the seeds' deviation pooled over all members that have several. A skill counts where its
interval lies above chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from vidsim.eval.stats import Interval, paired_bootstrap, wilson

Direction = Literal["higher", "lower"]
BETTER, WORSE = "better", "worse"
NOT_SHOWN = "no difference shown"
WITHIN_SEEDS = "within the spread of seeds"
ONE_SEED = "one seed: not judged"
AT_CHANCE = "at chance"
SEED_CONFIDENCE = 0.99  # two-sided


@dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    difference  mean of ours - theirs over the same clips, with its interval
    spread      what seeds alone may move the difference by; NaN where no member has two seeds
    """

    word: str
    difference: Interval
    spread: float


@dataclass(frozen=True)
class Reading:
    """A skill of one checkpoint: FLOPs spent, share of prompts done right, chance."""

    compute: float
    share: Interval
    chance: float

    @property
    def above(self) -> bool:
        """Whether the interval of share - chance excludes 0 from above."""
        return self.share.low > self.chance


@dataclass(frozen=True)
class Emergence:
    """Where a skill first excludes chance.

    compute  FLOPs of that checkpoint; None = not reached
    holds    whether every checkpoint with more compute excludes it too
    """

    compute: float | None
    holds: bool


def compare(
    ours_SN: np.ndarray,
    theirs_SN: np.ndarray,
    direction: Direction,
    *,
    chance: float | None = None,
    others: Sequence[np.ndarray] = (),
    seed: int = 0,
    resamples: int = 10_000,
) -> Verdict:
    """Judges ours against theirs.

    ours_SN, theirs_SN  float64[seeds, clips] on the same clips in the same order; seeds may differ
    direction           which values are good
    chance              of a skill: when neither side is above it there is nothing to compare
    others              the same metric of further members, [seeds, clips], for the seeds' deviation
    """
    ours, theirs = np.asarray(ours_SN, np.float64), np.asarray(theirs_SN, np.float64)
    gap = paired_bootstrap(ours.mean(0), theirs.mean(0), seed=seed, resamples=resamples)
    moved = seed_spread((ours, theirs, *others), len(ours), len(theirs))
    return Verdict(_word(ours, theirs, direction, gap, moved, chance), gap, moved)


def seed_spread(members: Sequence[np.ndarray], ours: int, theirs: int) -> float:
    """What seeds alone may move a difference of two means by, at SEED_CONFIDENCE.

    members  float64[seeds, clips] each; those of one seed tell nothing
    ours, theirs  seeds behind each of the two means
    Returns  NaN when no member has two seeds
    """
    means = [np.asarray(m, np.float64).mean(1) for m in members if len(m) > 1]
    freedom = sum(len(m) - 1 for m in means)
    if freedom == 0:
        return math.nan
    variance = sum(float(np.square(m - m.mean()).sum()) for m in means) / freedom
    bound = float(stdtrit(freedom, 0.5 + SEED_CONFIDENCE / 2))
    return bound * math.sqrt(variance * (1 / ours + 1 / theirs))


def skill_share(right_SN: np.ndarray) -> Interval:
    """Share of prompts done right; the prompt is the unit, its seeds are averaged first."""
    right_N = np.asarray(right_SN, np.float64).mean(0)
    return wilson(float(right_N.sum()), len(right_N))


def emergence(readings: Sequence[Reading]) -> Emergence:
    """The least compute at which a skill excludes chance."""
    ordered = sorted(readings, key=lambda r: r.compute)
    first = next((i for i, r in enumerate(ordered) if r.above), None)
    if first is None:
        return Emergence(None, False)
    return Emergence(ordered[first].compute, all(r.above for r in ordered[first:]))


def _word(
    ours: np.ndarray, theirs: np.ndarray, direction: Direction, gap: Interval, spread: float,
    chance: float | None,
) -> str:  # fmt: skip
    if chance is not None and max(skill_share(x).low for x in (ours, theirs)) <= chance:
        return AT_CHANCE
    if math.isnan(gap.low) or gap.low <= 0.0 <= gap.high:
        return NOT_SHOWN
    if math.isnan(spread):
        return ONE_SEED
    if abs(gap.value) <= spread:
        return WITHIN_SEEDS
    return BETTER if (gap.value > 0) == (direction == "higher") else WORSE
