"""PSNR against its closed form, SSIM against explicit loops."""

import math

import numpy as np
import pytest

from tests.reference.ssim import slow_ssim
from vidsim.core.errors import BadInput
from vidsim.eval import pixels


def noise(T: int, H: int, W: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (T, H, W, 3), dtype=np.uint8)


def test_psnr_of_a_constant_offset_is_its_closed_form():
    truth = np.random.default_rng(0).integers(0, 200, (3, 8, 9, 3), dtype=np.uint8)
    for step in (1, 7, 55):
        assert pixels.psnr(truth + np.uint8(step), truth) == pytest.approx(
            20 * math.log10(255 / step), rel=1e-12
        )


def test_psnr_comes_from_the_mean_error_of_the_whole_video():
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    ours = truth.copy()
    ours[0], ours[1] = 1, 3  # mean squared errors 1 and 9: whole video 5
    assert pixels.psnr(ours, truth) == pytest.approx(10 * math.log10(255**2 / 5))
    assert pixels.frame_psnr(ours, truth) == pytest.approx(
        [10 * math.log10(255**2), 10 * math.log10(255**2 / 9)]
    )
    assert pixels.frame_psnr(ours, truth).mean() > pixels.psnr(ours, truth)


def test_no_wrap_around_of_8_bits():
    assert pixels.psnr(np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)) == 0


def test_equal_videos_have_infinite_psnr():
    assert pixels.psnr(noise(1, 4, 4), noise(1, 4, 4)) == math.inf


def test_flat_colour_is_the_best_single_colour():
    truth = noise(2, 8, 8)
    best = pixels.flat_colour_psnr(truth)
    mean = truth.reshape(-1, 3).mean(0).round().astype(np.uint8)
    for offset in (-9, -1, 0, 1, 9):
        flat = np.broadcast_to((mean.astype(int) + offset).astype(np.uint8), truth.shape)
        assert pixels.psnr(flat, truth) <= best
    # Rounding the mean to 8 bits costs at most 0.25 of squared error in thousands.
    assert pixels.psnr(np.broadcast_to(mean, truth.shape), truth) == pytest.approx(best, abs=1e-3)


def test_boxes_select_their_pixels_only():
    truth = np.zeros((2, 10, 12, 3), np.uint8)
    ours = truth.copy()
    ours[0, 2:5, 3:7] = 10
    ours[1] = 99
    mask = pixels.box_mask([[(2, 3, 5, 7)], []], 10, 12)
    assert mask.sum() == 12
    assert pixels.masked_psnr(ours, truth, mask) == pytest.approx(20 * math.log10(25.5))
    assert math.isnan(pixels.masked_psnr(ours, truth, np.zeros_like(mask)))


def test_boxes_beyond_the_border_are_clipped_and_fractions_covered():
    mask = pixels.box_mask([[(-5.0, -2.0, 1.2, 3.0), (8.5, 11.0, 40.0, 40.0)]], 10, 12)
    want = np.zeros((1, 10, 12), bool)
    want[0, :2, :3] = want[0, 8:, 11:] = True
    assert np.array_equal(mask, want)


def test_ssim_equals_explicit_loops():
    truth = noise(2, 17, 20)
    ours = np.clip(truth.astype(int) + noise(2, 17, 20, 1) // 3, 0, 255).astype(np.uint8)
    want = np.mean(
        [slow_ssim(ours[t, ..., c], truth[t, ..., c]) for t in range(2) for c in range(3)]
    )
    # Variances as differences of float64 means: 16 digits less 5 of cancellation.
    assert pixels.ssim(ours, truth) == pytest.approx(want, abs=1e-9)


def test_ssim_of_two_flat_images_is_its_closed_form():
    a, b = np.full((1, 12, 12, 3), 100, np.uint8), np.full((1, 12, 12, 3), 140, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert pixels.ssim(a, b) == pytest.approx((2 * 100 * 140 + c1) / (100**2 + 140**2 + c1))
    assert pixels.ssim(a, a) == pytest.approx(1.0, abs=1e-12)


def test_bad_shapes_are_refused():
    with pytest.raises(BadInput):
        pixels.psnr(noise(1, 4, 4), noise(1, 4, 5))
    with pytest.raises(BadInput):
        pixels.ssim(noise(1, 10, 40), noise(1, 10, 40))
    with pytest.raises(BadInput):
        pixels.psnr(noise(1, 4, 4).astype(float), noise(1, 4, 4))
