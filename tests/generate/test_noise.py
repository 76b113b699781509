"""Shared noise: standard normal and white at every size; one coarse part for all sizes."""

import math

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.generate.noise import cosine_basis, shared_noise
from vidsim.generate.sample import SamplerConfig

SIGMAS = 5.0  # of a mean over independent draws


def _many(size, channels, seeds):
    return np.stack([shared_noise(seed, size, channels) for seed in range(1, seeds + 1)])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30])
def test_the_basis_is_orthonormal(n):
    np.testing.assert_allclose(cosine_basis(n) @ cosine_basis(n).T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("size,channels", [((1, 6, 10), 16), ((4, 8, 8), 3), ((2, 1, 5), 8)])
def test_noise_is_standard_normal(size, channels):
    draws = _many(size, channels, 60).astype(np.float64).reshape(-1)
    n = len(draws)
    assert abs(draws.mean()) < SIGMAS / n**0.5
    assert abs(draws.var() - 1.0) < SIGMAS * (2.0 / n) ** 0.5
    # Kolmogorov and Smirnov's distance to the normal law: above 2.2 / sqrt(n) once in 10^4 times
    law = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in np.sort(draws)])
    assert np.abs(law - (np.arange(n) + 0.5) / n).max() < 2.2 / n**0.5


def test_every_two_numbers_of_a_clip_are_uncorrelated():
    """The whole covariance over many seeds is the identity, not only near neighbours."""
    seeds = 4000
    draws = _many((2, 3, 4), 2, seeds).reshape(seeds, -1).astype(np.float64)
    covariance = draws.T @ draws / seeds
    off = covariance[~np.eye(len(covariance), dtype=bool)]
    assert np.abs(off).max() < SIGMAS / seeds**0.5
    np.testing.assert_allclose(off.std(), seeds**-0.5, rtol=0.1)
    np.testing.assert_allclose(np.diag(covariance), 1.0, atol=SIGMAS * (2.0 / seeds) ** 0.5)


def _coarse(noise_thwc, high, wide):
    """The slowest cosines, by another route: scipy's convention of the DCT through a slow sum."""
    t, h, w, c = noise_thwc.shape
    out = np.zeros((t, high, wide, c))
    for y in range(high):
        for x in range(wide):
            wave = np.outer(np.cos(np.pi * y * (2 * np.arange(h) + 1) / (2 * h)),
                            np.cos(np.pi * x * (2 * np.arange(w) + 1) / (2 * w)))  # fmt: skip
            wave /= np.sqrt((wave**2).sum())
            out[:, y, x] = np.einsum("thwc,hw->tc", noise_thwc, wave)
    return out


@pytest.mark.parametrize("other", [(1, 16, 16), (1, 12, 20), (1, 32, 8), (1, 9, 15)])
def test_sizes_and_aspect_ratios_share_their_coarse_part(other):
    small, large = shared_noise(7, (1, 8, 8), 4), shared_noise(7, other, 4)
    high, wide = min(8, other[1]), min(8, other[2])
    np.testing.assert_allclose(_coarse(small, high, wide), _coarse(large, high, wide), atol=1e-5)
    different = _coarse(shared_noise(8, other, 4), high, wide)
    assert abs(np.corrcoef(_coarse(small, high, wide).ravel(), different.ravel())[0, 1]) < 0.3


def test_a_frame_averaged_down_looks_like_the_small_one():
    """What a viewer calls the coarse part: means of blocks, which no cosine defines."""

    def blocks(noise_thwc, n):
        t, h, w, c = noise_thwc.shape
        return noise_thwc.reshape(t, n, h // n, n, w // n, c).mean((2, 4)).ravel()

    def agreement(seed, large):
        return np.corrcoef(blocks(shared_noise(seed, (1, 8, 8), 16), 4), blocks(large, 4))[0, 1]

    for size in ((1, 16, 16), (1, 24, 8), (1, 8, 32)):
        large = shared_noise(1, size, 16)
        assert agreement(1, large) > 0.8, size
        assert abs(agreement(2, large)) < 0.3


def test_a_longer_clip_begins_as_the_shorter_one_and_frames_differ():
    short, long = shared_noise(5, (2, 6, 4), 3), shared_noise(5, (7, 6, 4), 3)
    np.testing.assert_array_equal(short, long[:2])
    assert abs(np.corrcoef(long[0].ravel(), long[1].ravel())[0, 1]) < 0.5


def test_steps_draw_apart():
    draws = [shared_noise(5, (1, 16, 16), 4, step).ravel() for step in (-1, 0, 1, 2)]
    off = np.corrcoef(draws)[~np.eye(4, dtype=bool)]
    assert np.abs(off).max() < SIGMAS / 1024**0.5


def test_unknown_kinds_are_refused():
    with pytest.raises(BadInput, match="--noise: 'sharde'; did you mean 'shared'"):
        SamplerConfig(noise="sharde")
    with pytest.raises(BadInput, match="solver strength"):
        SamplerConfig("sde-euler", sde=2.0)
