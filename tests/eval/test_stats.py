"""Intervals against published values and against their own promise: coverage."""

import math

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.eval.stats import clip_bootstrap, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, uncorrected).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(k, n, low, high):
    found = wilson(k, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_bounds_solve_the_score_equation():
    # The bounds are where |p - k/n| equals 1.959964 standard errors at p itself.
    for k, n in [(3, 10), (230, 256), (1, 1000)]:
        found = wilson(k, n)
        for p in (found.low, found.high):
            assert abs(k / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959964, abs=1e-5)


def test_wilson_is_symmetric_and_inside_0_1():
    for k in range(11):
        a, b = wilson(k, 10), wilson(10 - k, 10)
        assert a.low == pytest.approx(1 - b.high) and 0 <= a.low <= a.value <= a.high <= 1


def test_wilson_without_data_and_with_impossible_data():
    assert math.isnan(wilson(0, 0).value) and (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    with pytest.raises(BadInput):
        wilson(5, 4)


def test_bootstrap_of_a_normal_mean_is_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    found = clip_bootstrap(values, seed=0)
    standard_error = values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    # 10,000 draws leave about 3% noise in a tail quantile.
    assert found.high - found.value == pytest.approx(1.96 * standard_error, rel=0.08)
    assert found.value - found.low == pytest.approx(1.96 * standard_error, rel=0.08)


def test_bootstrap_is_seeded_and_free_of_chunking(monkeypatch):
    values = np.random.default_rng(2).normal(size=50)
    first = clip_bootstrap(values, seed=5)
    assert first == clip_bootstrap(values, seed=5) != clip_bootstrap(values, seed=6)
    monkeypatch.setattr("vidsim.eval.stats._CHUNK", 1000)
    assert clip_bootstrap(values, seed=5) == first


def test_weights_act_as_repeats_of_a_value():
    value = clip_bootstrap(np.array([1.0, 5.0]), np.array([3.0, 1.0])).value
    assert value == pytest.approx(2.0)


def test_pairing_removes_what_clips_share():
    rng = np.random.default_rng(3)
    clip = rng.normal(0, 10, 300)  # clips differ far more than models
    ours, theirs = clip + 0.3 + rng.normal(0, 0.5, 300), clip + rng.normal(0, 0.5, 300)
    paired = paired_bootstrap(ours, theirs)
    assert paired.low > 0 and paired.high - paired.low < 0.3
    alone = clip_bootstrap(ours), clip_bootstrap(theirs)
    assert alone[0].low < alone[1].high  # the two intervals overlap: unpaired says nothing


def test_bounds_are_absent_not_invented():
    assert math.isnan(clip_bootstrap(np.array([1.0])).low)
    infinite = clip_bootstrap(np.array([1.0, math.inf]))
    assert infinite.value == math.inf and math.isnan(infinite.low)
