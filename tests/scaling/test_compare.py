"""Verdicts: equal models are never called better, unequal ones are; skills against chance."""

import math

import numpy as np
import pytest

from vidsim.eval.stats import wilson
from vidsim.scaling.compare import (
    AT_CHANCE,
    BETTER,
    NOT_SHOWN,
    ONE_SEED,
    SEED_CONFIDENCE,
    WITHIN_SEEDS,
    WORSE,
    Reading,
    compare,
    emergence,
    skill_share,
)

N = 144


@pytest.mark.parametrize(("seeds", "others"), [((3, 3), 0), ((1, 3), 1)])
def test_equal_models_are_called_better_less_often_than_promised(seeds, others):
    words = []
    for i in range(400):
        *sides, third = _losses(i, gap=0.0, sides=3)
        ours, theirs = (x[:n] for x, n in zip(sides, seeds, strict=True))
        words.append(
            compare(ours, theirs, "lower", others=[third] * others, seed=i, resamples=200).word
        )
    wrong = sum(word in (BETTER, WORSE) for word in words)
    assert wrong <= 400 * (1 - SEED_CONFIDENCE) + 3 * 2  # three standard deviations of 4 in 400
    assert WITHIN_SEEDS in words and NOT_SHOWN in words


def test_a_better_model_is_found_and_its_opposite_is_worse():
    for i in range(10):
        ours, theirs = _losses(i, gap=0.2)
        assert compare(ours, theirs, "lower").word == BETTER
        assert compare(theirs, ours, "lower").word == WORSE
        assert compare(ours, theirs, "higher").word == WORSE


def test_a_gap_that_another_seed_makes_too_is_not_better():
    rng = np.random.default_rng(0)
    clip_N = rng.uniform(1, 2, N)
    ours = clip_N + np.array([[0.0], [0.3], [-0.3]])  # clips agree to the last digit, seeds do not
    verdict = compare(ours - 0.1, clip_N[None], "lower")
    assert verdict.difference.high < 0
    deviation, t_of_two = 0.3, 9.925  # of the means 0, 0.3, -0.3; Student's t at 99.5%, freedom 2
    assert verdict.spread == pytest.approx(t_of_two * deviation * (1 / 3 + 1) ** 0.5, rel=1e-3)
    assert verdict.word == WITHIN_SEEDS


def test_one_seed_is_not_judged_unless_a_spread_is_known():
    ours, theirs = (x[:1] for x in _losses(0, gap=0.2))
    verdict = compare(ours, theirs, "lower")
    assert verdict.word == ONE_SEED and math.isnan(verdict.spread)
    calm, wild = (np.ones((3, N)) + s * np.arange(3)[:, None] for s in (0.001, 1.0))
    assert compare(ours, theirs, "lower", others=[calm]).word == BETTER
    assert compare(ours, theirs, "lower", others=[wild]).word == WITHIN_SEEDS


def test_an_interval_over_zero_shows_nothing():
    rng = np.random.default_rng(3)
    same = rng.uniform(1, 2, (3, N))
    assert compare(same, same, "lower").word == NOT_SHOWN


def test_skills_at_chance_are_not_compared():
    rng = np.random.default_rng(0)
    guess = (rng.random((3, N)) < 0.16).astype(float)
    other = (rng.random((3, N)) < 0.16).astype(float)
    assert compare(guess, other, "higher", chance=0.16).word == AT_CHANCE
    skilled = (rng.random((3, N)) < 0.9).astype(float)
    assert compare(skilled, guess, "higher", chance=0.16).word == BETTER


def test_share_of_one_seed_is_wilsons_and_more_seeds_do_not_count_as_more_prompts():
    right = np.array([[1.0, 0.0, 1.0, 1.0]])
    assert skill_share(right) == wilson(3, 4)
    assert skill_share(np.repeat(right, 3, 0)) == wilson(3, 4)


def test_emergence_is_the_first_checkpoint_above_chance_and_says_whether_it_holds():
    def at(compute, right, chance=0.2):
        return Reading(compute, wilson(right, 100), chance)

    never = emergence([at(1, 22), at(2, 19), at(4, 25)])
    assert never.compute is None
    found = emergence([at(4, 90), at(1, 20), at(2, 40)])  # order does not matter
    assert (found.compute, found.holds) == (2, True)
    lost = emergence([at(1, 40), at(2, 22), at(4, 90)])
    assert (lost.compute, lost.holds) == (1, False)


def _losses(number, gap, sides=2):
    """Three seeds a side on common clips: clip levels, seed noise and noise of each measurement.

    The first side is lower by `gap`.
    """
    rng = np.random.default_rng(number)
    clip_N = rng.uniform(1, 2, N)
    found = []
    for side in range(sides):
        seeds = 0.02 * rng.standard_normal((3, 1)) - (gap if side == 0 else 0.0)
        found.append(clip_N + seeds + 0.05 * rng.standard_normal((3, N)))
    return found
