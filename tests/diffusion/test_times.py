"""Times: drawn by a known law, shifted by one function, keyed by the clip alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.diffusion.times import TimeConfig, sample_times, shift, shift_factor, time_grid

DRAWS = 20_000
# Kolmogorov-Smirnov: the largest gap between the empirical and the true CDF exceeds
# 1.95 / sqrt(n) with probability 0.001.
KS_LIMIT = 1.95 / np.sqrt(DRAWS)


def _largest_cdf_gap(drawn, cdf):
    drawn = np.sort(drawn)
    exact = np.array([cdf(t) for t in drawn])
    n = len(drawn)
    return max(
        np.abs(exact - np.arange(n) / n).max(), np.abs(exact - np.arange(1, n + 1) / n).max()
    )


@pytest.mark.parametrize("tokens,share", [(1024, 0.0), (4096, 0.1), (256, 1.0), (64, 0.3)])
def test_times_follow_the_closed_form(tokens, share):
    cfg = TimeConfig(mean=0.2, std=0.9, uniform_share=share, base_shift=1.5, min_shift=0.1,
                     min_time=0.0)  # fmt: skip
    keys = jax.random.split(jax.random.key(0), DRAWS)
    drawn = np.asarray(sample_times(cfg, keys, jnp.full((DRAWS,), tokens)), float)
    factor = 1.5 * (tokens / 1024) ** 0.5
    gap = _largest_cdf_gap(
        np.clip(drawn, 1e-9, 1 - 1e-9),
        lambda t: ref.logit_normal_cdf(t, 0.2, 0.9, factor, share),
    )
    assert gap < KS_LIMIT, f"largest gap {gap:.4f} for {tokens} tokens"


def test_drawn_times_stay_inside_the_limits():
    cfg = TimeConfig(std=4.0, min_time=0.1, max_time=0.9)
    keys = jax.random.split(jax.random.key(1), 2000)
    drawn = np.asarray(sample_times(cfg, keys, jnp.full((2000,), 1024)))
    assert drawn.min() == np.float32(0.1) and drawn.max() == np.float32(0.9)


def test_a_clip_draws_the_same_time_anywhere():
    cfg, keys = TimeConfig(), jax.random.split(jax.random.key(2), 6)
    tokens = jnp.array([64, 128, 256, 512, 1024, 2048])
    flat = np.asarray(sample_times(cfg, keys, tokens))
    order = jnp.array([3, 1, 5, 0, 4, 2])
    packed = sample_times(cfg, keys[order].reshape(2, 3), tokens[order].reshape(2, 3))
    np.testing.assert_array_equal(np.asarray(packed).reshape(-1), flat[np.asarray(order)])


def test_shift_composes_by_multiplication_and_keeps_the_ends():
    t = jnp.linspace(0.0, 1.0, 101)
    twice = shift(shift(t, 3.0), 0.7)
    np.testing.assert_allclose(twice, shift(t, 2.1), atol=1e-6)
    np.testing.assert_allclose(shift(shift(t, 5.0), 1 / 5.0), t, atol=1e-6)
    np.testing.assert_allclose(shift(t, 3.0)[jnp.array([0, -1])], [0.0, 1.0], atol=1e-7)
    inner = np.linspace(0.01, 0.99, 50)
    moved = np.asarray(shift(jnp.asarray(inner, jnp.float32), 3.0), float)
    logit = np.log(moved / (1 - moved)) - np.log(inner / (1 - inner))
    np.testing.assert_allclose(logit, np.log(3.0), atol=1e-4)


def test_shift_factor_is_a_power_law_inside_its_limits():
    cfg = TimeConfig(base_tokens=100, base_shift=2.0, exponent=0.5, min_shift=0.5, max_shift=8.0)
    tokens = jnp.array([1, 25, 100, 400, 1600, 10_000])
    np.testing.assert_allclose(shift_factor(cfg, tokens), [0.5, 1.0, 2.0, 4.0, 8.0, 8.0], rtol=1e-6)


def test_grid_numbers_are_pinned():
    # shift s of u is s u / (1 + (s - 1) u): by hand for s = 3 and 5 at u = 3/4, 1/2, 1/4
    cfg = TimeConfig(base_tokens=100, base_shift=3.0, exponent=0.0)
    np.testing.assert_allclose(
        time_grid(cfg, 4, jnp.asarray(7)), [1, 9 / 10, 3 / 4, 1 / 2, 0], rtol=1e-6
    )
    cfg = TimeConfig(base_tokens=100, base_shift=5.0, exponent=0.0)
    np.testing.assert_allclose(
        time_grid(cfg, 4, jnp.asarray(7)), [1, 15 / 16, 5 / 6, 5 / 8, 0], rtol=1e-6
    )


def test_grid_of_each_clip_falls_from_exactly_one_to_exactly_zero():
    tokens = jnp.array([[0, 16, 333], [1024, 7777, 153_600]])
    grid = np.asarray(time_grid(TimeConfig(), 37, tokens))
    assert grid.shape == (38, 2, 3)
    assert (grid[0] == 1.0).all() and (grid[-1] == 0.0).all()
    assert (np.diff(grid, axis=0) < 0.0).all()


def test_training_and_sampling_share_the_shift():
    # the median of the shifted logit-normal with mean 0 is the middle of the sampler's grid
    cfg, tokens = TimeConfig(uniform_share=0.0), 5000
    keys = jax.random.split(jax.random.key(4), DRAWS)
    drawn = np.asarray(sample_times(cfg, keys, jnp.full((DRAWS,), tokens)), float)
    middle = float(time_grid(cfg, 2, jnp.asarray(tokens))[1])
    assert abs(np.mean(drawn < middle) - 0.5) < KS_LIMIT


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"std": 0.0}, "TimeConfig.std"),
        ({"uniform_share": 1.5}, "TimeConfig.uniform_share"),
        ({"base_tokens": 0}, "TimeConfig.base_tokens"),
        ({"base_shift": 0.0}, "TimeConfig.base_shift"),
        ({"min_shift": 3.0, "max_shift": 2.0}, "TimeConfig.min_shift"),
        ({"min_time": 0.9, "max_time": 0.2}, "TimeConfig.min_time"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        TimeConfig(**wrong)


def test_zero_steps_are_refused():
    with pytest.raises(BadInput, match="time_grid: steps=0; at least 1"):
        time_grid(TimeConfig(), 0, jnp.asarray(10))
