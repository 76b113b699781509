"""Loss against compute: a power law by least squares in logarithms, and its interval.

    loss = factor * compute ** exponent

Interval: bootstrap over clips and seeds together. Clips are drawn once for all points, since every
point is measured on the same ones. Seeds are few, and most points have one: each point's logarithm
moves by the mean of as many draws, from the deviations of seeds around their point's mean, pooled
over the points that have several and widened by sqrt(n / (n - 1)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import generator
from vidsim.eval.stats import Interval

MIN_POINTS = 5  # below this a line through logarithms has no interval worth printing


@dataclass(frozen=True)
class PowerLaw:
    """loss = factor * compute ** exponent, for compute > 0."""

    factor: float
    exponent: float

    def __call__(self, compute: float) -> float:
        return self.factor * compute**self.exponent


@dataclass(frozen=True)
class Point:
    """Losses at one compute.

    compute    FLOPs
    losses_SN  float64[seeds, clips], positive; the clips are those of every other point, in order
    """

    compute: float
    losses_SN: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    exponent    with its interval; bounds are NaN below MIN_POINTS points
    residual    rms of the logarithm of loss over law
    seed_spread rms deviation of a seed's log loss from its point's mean; NaN where no point has two
    draws_B2    slope and level of the resampled lines in logarithms; none below MIN_POINTS points
    confidence  of every interval
    """

    law: PowerLaw
    exponent: Interval
    points: int
    residual: float
    seed_spread: float
    draws_B2: np.ndarray
    confidence: float

    def predict(self, compute: float) -> Interval:
        """The law's loss at another compute; bounds are NaN below MIN_POINTS points."""
        losses = np.exp(self.draws_B2 @ np.array([math.log(compute), 1.0]))
        low, high = _bounds(losses, self.confidence)
        return Interval(self.law(compute), low, high, self.exponent.n)


def fit_power(compute: Sequence[float], loss: Sequence[float]) -> PowerLaw:
    """Least squares of log loss on log compute, in closed form.

    Raises  BadInput below two different computes or for values that have no logarithm
    """
    x, y = np.asarray(compute, np.float64), np.asarray(loss, np.float64)
    if x.shape != y.shape or len(np.unique(x)) < 2 or min(x.min(), y.min()) <= 0:
        raise bad("power law", f"{len(x)} computes, {len(y)} losses", "two or more, all positive")
    slope, level = _lines(np.log(x), np.log(y)[None])
    return PowerLaw(math.exp(level[0]), float(slope[0]))


def fit_points(
    points: Sequence[Point], *, seed: int = 0, confidence: float = 0.95, resamples: int = 2000
) -> Fit:
    """The law of the points' mean losses, with the interval of the module's head.

    Raises  BadInput as `fit_power`, and when the points were measured on different clips
    """
    clips = {p.losses_SN.shape[1] for p in points}
    if len(clips) > 1:
        raise bad("power law", f"points on {sorted(clips)} clips", "the same clips for all")
    law = fit_power([p.compute for p in points], [float(p.losses_SN.mean()) for p in points])
    x_K = np.log([p.compute for p in points])
    mean_KN = np.stack([p.losses_SN.mean(0) for p in points])
    log_K = np.log(mean_KN.mean(1))
    residual = log_K - np.log(law.factor) - law.exponent * x_K
    deviations = seed_deviations([p.losses_SN for p in points])
    spread = float(np.sqrt(np.mean(deviations**2))) if len(deviations) else math.nan
    draws_B2 = np.zeros((0, 2))
    if len(points) >= MIN_POINTS:
        draws_B2 = _resampled(points, mean_KN, x_K, deviations, seed, resamples)
    low, high = _bounds(draws_B2[:, 0], confidence)
    return Fit(
        law, Interval(law.exponent, low, high, clips.pop()), len(points),
        float(np.sqrt(np.mean(residual**2))), spread, draws_B2, confidence,
    )  # fmt: skip


def seed_deviations(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Deviations of each seed's log loss from its point's mean, widened to be unbiased, pooled.

    losses  float64[seeds, clips] a point; points of one seed tell nothing
    """
    found = [np.zeros(0)]
    for losses_SN in losses:
        seeds = len(losses_SN)
        if seeds > 1:
            log_S = np.log(losses_SN.mean(1))
            found.append((log_S - log_S.mean()) * math.sqrt(seeds / (seeds - 1)))
    return np.concatenate(found)


def _resampled(
    points: Sequence[Point], mean_KN: np.ndarray, x_K: np.ndarray, deviations: np.ndarray,
    seed: int, resamples: int,
) -> np.ndarray:  # fmt: skip
    draw = generator(seed, "power law")
    clips = mean_KN.shape[1]
    picks = draw.integers(0, clips, (resamples, clips))
    log_BK = np.log(np.stack([values[picks].mean(1) for values in mean_KN], 1))
    if len(deviations):
        for k, point in enumerate(points):
            seeds = len(point.losses_SN)
            moves = deviations[draw.integers(0, len(deviations), (resamples, seeds))]
            log_BK[:, k] += moves.mean(1)
    return np.stack(_lines(x_K, log_BK), 1)


def _bounds(values: np.ndarray, confidence: float) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _lines(x_K: np.ndarray, y_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and level of the least-squares line of each row of y."""
    gap = x_K - x_K.mean()
    slope = (y_BK @ gap) / (gap @ gap)
    return slope, y_BK.mean(1) - slope * x_K.mean()
