"""Intervals: Wilson for shares, bootstrap over clips for means and for paired differences.

The clip is the unit that is drawn again: frames, tokens and noise draws of one clip are not
independent, so their values are averaged within the clip first. Every function is seeded.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import generator

_CHUNK = 1 << 22  # numbers drawn at once


@dataclass(frozen=True)
class Interval:
    """A point estimate with its two-sided interval, in the unit of the values, over n clips."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209).

    successes   how many of n, 0 <= successes <= n
    confidence  two-sided, in (0, 1)
    Returns     the share and its bounds; [0, 1] and NaN when n is 0
    """
    if not 0 <= successes <= n:
        raise bad("wilson", f"{successes} successes of {n}", "0 <= successes <= n")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The bounds of 0 of n and n of n are exactly 0 and 1; rounding must not move them past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n)


def clip_bootstrap(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Percentile bootstrap of the (weighted) mean over clips (Efron 1979).

    values      one number a clip
    weights     non-negative, one a clip: the mean is sum(w v) / sum(w); equal when absent
    Returns     the mean and its bounds; bounds are NaN below two clips or with values not finite
    """
    values = np.asarray(values, np.float64).reshape(-1)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != values.shape:
        raise bad("clip_bootstrap", f"{weights.size} weights for {values.size} values")
    n = values.size
    value = float((weights * values).sum() / weights.sum()) if weights.sum() > 0 else math.nan
    if n < 2 or not np.isfinite(values).all():
        return Interval(value, math.nan, math.nan, n)
    draw = generator(seed, "clip bootstrap")
    means: list[np.ndarray] = []
    for start in range(0, resamples, max(1, _CHUNK // n)):
        count = min(max(1, _CHUNK // n), resamples - start)
        picks = draw.integers(0, n, (count, n))
        total = weights[picks].sum(1)
        means.append((weights[picks] * values[picks]).sum(1) / np.where(total > 0, total, np.nan))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(value, float(low), float(high), n)


def paired_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Interval of the mean of ours - theirs over the same clips, which are drawn in pairs.

    ours, theirs  one number a clip, in the same order of clips
    Returns       the mean difference; it is distinguishable from 0 when low and high share a sign
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise bad("paired_bootstrap", f"{ours.size} values beside {theirs.size}", "equally many")
    return clip_bootstrap(ours - theirs, seed=seed, confidence=confidence, resamples=resamples)
