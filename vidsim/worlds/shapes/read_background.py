"""Reads the background of a clip: tint, season, pattern, and a model of it without the objects."""

import dataclasses
import functools

import numpy as np

from vidsim.worlds.shapes import render
from vidsim.worlds.shapes import vocabulary as v

FRAMES = 5  # looked at, evenly spaced
PERIODS = (16, 24, 32)
TONE_SLACK = 0.32  # a pixel this far from its tint in brightness is still background
TINT_NEAR = 40.0  # levels between a pixel and its tint's line
PLAIN_BELOW = 0.04  # root mean square of the tone, as a share of the tint's brightness


@dataclasses.dataclass(frozen=True)
class Background:
    """pattern, tint, season: words. model_HW3: float32 levels of what is behind everything."""

    pattern: str
    tint: str
    season: str
    model_HW3: np.ndarray


def read_background(video_THW3: np.ndarray) -> Background:
    """Reads a float32 video (levels 0-255)."""
    picks = np.unique(np.linspace(0, len(video_THW3) - 1, FRAMES).round().astype(int))
    frames = video_THW3[picks]
    tint, season = _tint(frames)
    weight_FHW = (tint_distance(frames, tint, season) < TINT_NEAR).astype(np.float32)
    mean_HW3, weight_HW = _mean(frames, weight_FHW)
    tone_HW = _tone(mean_HW3, np.asarray(v.ground_colour(tint, season), np.float32))
    pattern, tone_HW = _pattern(tone_HW, weight_HW)
    return Background(pattern, tint, season, _model(mean_HW3, weight_HW, tone_HW))


def tint_distance(pixels: np.ndarray, tint: str, season: str) -> np.ndarray:
    """Levels between each pixel [..., 3] and the line of a tint's possible tones in a season."""
    colour_3 = np.asarray(v.ground_colour(tint, season), np.float32)
    along = np.clip(_tone(pixels, colour_3), -TONE_SLACK, TONE_SLACK)
    return np.sqrt(np.square(pixels - (1 + along[..., None]) * colour_3).sum(-1))


def _tone(pixels: np.ndarray, colour_3: np.ndarray) -> np.ndarray:
    """How much lighter (+) or darker (-) than a colour each pixel is, as a share of it."""
    return pixels @ (colour_3 / np.square(colour_3).sum()) - 1


def _tint(frames: np.ndarray) -> tuple[str, str]:
    """The tint that most pixels are nearest to, and the season.

    The lines of one tint in both seasons may overlap, so the best tint is found in each season; of
    the two, the one around whose middle tone its pixels lie.
    """
    pixels = frames.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // 8192)]
    return min((_best_tint(pixels, season) for season in v.SEASONS), key=lambda found: found[0])[1]


def _best_tint(pixels: np.ndarray, season: str) -> tuple[float, tuple[str, str]]:
    """The tint of a season that most pixels are nearest to, after how badly it fits them."""
    distance = np.stack([tint_distance(pixels, tint, season) for tint in v.TINTS])
    near = distance.min(0) < TINT_NEAR
    votes = np.bincount(distance.argmin(0)[near], minlength=len(v.TINTS))
    best = int((votes if votes.any() else -distance.mean(1)).argmax())
    tint, mine = list(v.TINTS)[best], distance[best] < TINT_NEAR
    tone = _tone(pixels[mine], np.asarray(v.ground_colour(tint, season), np.float32))
    off = abs(float(np.clip(tone, -1, 1).mean())) if mine.any() else 1.0
    return 1.0 - float(mine.mean()) + off, (tint, season)


def _mean(frames: np.ndarray, weight_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the background pixels over the frames, and how many there were."""
    weight_HW = weight_FHW.sum(0)
    total = np.einsum("fhwc,fhw->hwc", frames, weight_FHW)
    return total / np.maximum(weight_HW, 1)[..., None], weight_HW


def _pattern(tone_HW: np.ndarray, weight_HW: np.ndarray) -> tuple[str, np.ndarray]:
    """The pattern that explains most of the tone's variance, and its tone map in [-1, 1]."""
    height, width = tone_HW.shape
    total = max(float(weight_HW.sum()), 1.0)
    centred = tone_HW - float((weight_HW * tone_HW).sum()) / total
    variance = float((weight_HW * centred**2).sum()) / total
    best = ("plain", PLAIN_BELOW**2, (0, (0, 0)))
    for pattern in v.PATTERNS[1:3]:
        gain = _gain(centred, weight_HW, render.pattern_tone(pattern, height, width, 1, (0, 0)))
        if gain > best[1]:
            best = (pattern, gain, (1, (0, 0)))
    for period in PERIODS:
        if 2 * period > max(height, width):
            continue
        for pattern, gain, phase in _folded_gains(centred, weight_HW, period):
            if gain > best[1]:
                best = (pattern, gain, (period, phase))
    pattern, _, (period, phase) = best
    if variance <= PLAIN_BELOW**2:
        pattern = "plain"
    return pattern, render.pattern_tone(pattern, height, width, max(period, 1), phase)


def _gain(centred_HW: np.ndarray, weight_HW: np.ndarray, tone_HW: np.ndarray) -> float:
    """Variance explained by a tone map with a positive factor."""
    total = max(float(weight_HW.sum()), 1.0)
    map_HW = tone_HW - float((weight_HW * tone_HW).sum()) / total
    power = float((weight_HW * map_HW**2).sum())
    overlap = float((weight_HW * map_HW * centred_HW).sum())
    return max(overlap, 0.0) ** 2 / max(power, 1e-6) / total


def _folded_gains(
    centred_HW: np.ndarray, weight_HW: np.ndarray, period: int
) -> list[tuple[str, float, tuple[int, int]]]:
    """Variance that each periodic pattern explains at its best phase, by folding the frame."""
    value_pp = _fold(weight_HW * centred_HW, period)
    weight_pp = _fold(weight_HW, period)
    total = max(float(weight_pp.sum()), 1.0)
    value_ft, weight_ft = np.fft.rfft2(value_pp), np.fft.rfft2(weight_pp)
    gains = []
    for pattern in v.PERIODIC:
        tile_ft, square_ft = _tile_spectrum(pattern, period)
        shape = (period, period)
        # correlation at every shift s: sum over u of data[u] * tile[u + s]
        overlap = np.fft.irfft2(value_ft.conj() * tile_ft, shape)
        mean = np.fft.irfft2(weight_ft.conj() * tile_ft, shape) / total
        power = np.fft.irfft2(weight_ft.conj() * square_ft, shape) - total * mean**2
        gain = np.maximum(overlap, 0) ** 2 / np.maximum(power, 1e-3 * total) / total
        shift = np.unravel_index(int(gain.argmax()), shape)
        gains.append((pattern, float(gain[shift]), (int(shift[0]), int(shift[1]))))
    return gains


@functools.cache
def _tile_spectrum(pattern: str, period: int) -> tuple[np.ndarray, np.ndarray]:
    tile = render.pattern_tone(pattern, period, period, period, (0, 0)).astype(np.float64)
    return np.fft.rfft2(tile), np.fft.rfft2(tile**2)


def _fold(values_HW: np.ndarray, period: int) -> np.ndarray:
    """Sum of all pixels whose coordinates agree modulo the period."""
    height, width = values_HW.shape
    padded = np.pad(values_HW, ((0, -height % period), (0, -width % period)))
    return padded.reshape(-1, period, padded.shape[1] // period, period).sum((0, 2))


def _model(mean_HW3: np.ndarray, weight_HW: np.ndarray, tone_HW: np.ndarray) -> np.ndarray:
    """Each channel as a straight line of the tone map, fitted where the background shows."""
    weight = weight_HW / max(float(weight_HW.sum()), 1.0)
    tone_mean = float((weight * tone_HW).sum())
    mean_3 = np.einsum("hw,hwc->c", weight, mean_HW3)
    map_HW = tone_HW - tone_mean
    power = float((weight * map_HW**2).sum())
    slope_3 = np.einsum("hw,hwc->c", weight * map_HW, mean_HW3 - mean_3) / max(power, 1e-6)
    return (mean_3 + map_HW[..., None] * slope_3).astype(np.float32)
