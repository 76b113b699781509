"""Structural similarity with explicit loops over window positions (Wang et al. 2004, eq. 13-16)."""

import numpy as np


def slow_ssim(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Mean SSIM of two single-channel images on the 0..255 scale, 11x11 Gaussian, sigma 1.5."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a_HW, b_HW = a_HW.astype(float), b_HW.astype(float)
    values = []
    for i in range(5, a_HW.shape[0] - 5):
        for j in range(5, a_HW.shape[1] - 5):
            a, b = a_HW[i - 5 : i + 6, j - 5 : j + 6], b_HW[i - 5 : i + 6, j - 5 : j + 6]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * cov + c2)
                          / ((ma**2 + mb**2 + c1) * (va + vb + c2)))  # fmt: skip
    return float(np.mean(values))
