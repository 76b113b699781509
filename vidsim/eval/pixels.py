"""Distances between videos of 8-bit pixels, in float64 on the host.

PSNR of a video is taken from the mean squared error over all its frames, pixels and channels, and
PSNRs of videos are then averaged. The mean of per-frame PSNRs is larger; tables that use it differ.
Two equal videos have an infinite PSNR; it is reported as such, not capped.
"""

import math
from collections.abc import Sequence

import numpy as np

from vidsim.core.errors import bad

PEAK = 255.0
_SSIM_RADIUS = 5
_SSIM_SIGMA = 1.5
Box = tuple[float, float, float, float]


def psnr_of_mse(mse: float) -> float:
    """Peak signal to noise ratio in dB of a mean squared error in 8-bit steps; inf for 0."""
    return math.inf if mse == 0 else 10.0 * math.log10(PEAK * PEAK / mse)


def squared_error(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared differences of two uint8 arrays of equal shape, float64. Raises BadInput."""
    if ours.shape != truth.shape or ours.dtype != np.uint8 or truth.dtype != np.uint8:
        raise bad("pixels", f"{ours.dtype}{ours.shape} beside {truth.dtype}{truth.shape}",
                  "two uint8 videos of one shape")  # fmt: skip
    return np.square(ours.astype(np.float64) - truth.astype(np.float64))


def psnr(ours_THWC: np.ndarray, truth_THWC: np.ndarray) -> float:
    """PSNR in dB from the mean squared error of the whole video."""
    return psnr_of_mse(float(squared_error(ours_THWC, truth_THWC).mean()))


def frame_psnr(ours_THWC: np.ndarray, truth_THWC: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame, float64[T]."""
    mse_T = squared_error(ours_THWC, truth_THWC).mean(axis=(1, 2, 3))
    return np.array([psnr_of_mse(float(mse)) for mse in mse_T])


def flat_colour_psnr(truth_THWC: np.ndarray) -> float:
    """PSNR of the best guess without any detail: one colour for the whole video, its mean.

    The mean has the smallest squared error of all single colours, so a codec that is not far above
    this has learnt little. inf for a video of one colour.
    """
    pixels = truth_THWC.reshape(-1, truth_THWC.shape[-1]).astype(np.float64)
    return psnr_of_mse(float(np.square(pixels - pixels.mean(0)).mean()))


def box_mask(
    boxes_TKB: np.ndarray | Sequence[Sequence[Box]], height: int, width: int
) -> np.ndarray:
    """True inside any box of a frame.

    boxes_TKB  (top, left, bottom, right) in pixels, half open, any number for each frame; what
               lies outside the frame is cut off
    Returns    bool[T,H,W]
    """
    mask_THW = np.zeros((len(boxes_TKB), height, width), bool)
    for t, boxes in enumerate(boxes_TKB):
        for top, left, bottom, right in boxes:
            y0, x0 = max(0, math.floor(top)), max(0, math.floor(left))
            y1, x1 = max(0, math.ceil(bottom)), max(0, math.ceil(right))
            mask_THW[t, y0:y1, x0:x1] = True
    return mask_THW


def masked_psnr(ours_THWC: np.ndarray, truth_THWC: np.ndarray, mask_THW: np.ndarray) -> float:
    """PSNR in dB over the pixels of a mask; NaN when the mask is empty."""
    if not mask_THW.any():
        return math.nan
    return psnr_of_mse(float(squared_error(ours_THWC, truth_THWC)[mask_THW].mean()))


def ssim(ours_THWC: np.ndarray, truth_THWC: np.ndarray) -> float:
    """Structural similarity, averaged over frames and channels (Wang et al. 2004, eq. 13).

    Gaussian window of 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, peak 255, only where the window
    lies inside the frame. Raises BadInput below 11 pixels.
    """
    if ours_THWC.shape != truth_THWC.shape:
        raise bad("ssim", f"{ours_THWC.shape} beside {truth_THWC.shape}", "videos of one shape")
    _, H, W, _ = truth_THWC.shape
    side = 2 * _SSIM_RADIUS + 1
    if min(H, W) < side:
        raise bad("ssim", f"frames of {W}x{H}", f"at least {side}x{side}")
    x = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    window = np.exp(-0.5 * np.square(x / _SSIM_SIGMA))
    window /= window.sum()
    # Frame by frame: five float64 copies of a whole video would not be small.
    frames = zip(ours_THWC, truth_THWC, strict=True)
    return float(np.mean([_ssim_frame(ours, truth, window) for ours, truth in frames]))


def _ssim_frame(ours_HWC: np.ndarray, truth_HWC: np.ndarray, window: np.ndarray) -> float:
    a, b = ours_HWC.astype(np.float64), truth_HWC.astype(np.float64)
    stack = np.stack([a, b, a * a, b * b, a * b])
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blur(_blur(stack, window, 1), window, 2)
    var_a, var_b = mean_aa - mean_a**2, mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((above / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def _blur(array: np.ndarray, window: np.ndarray, axis: int) -> np.ndarray:
    """Correlation with a symmetric window along one axis, where it fits."""
    size = array.shape[axis] - len(window) + 1
    parts = (weight * np.take(array, range(i, i + size), axis) for i, weight in enumerate(window))
    return sum(parts)  # type: ignore[return-value]
