"""The reader's own error: how often it misreads clips whose truth is known."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from vidsim.core.host_random import generator
from vidsim.worlds.shapes import parse, render, score
from vidsim.worlds.shapes.world import ShapesWorld


def measure_floor(
    n: int,
    seed: int = 0,
    *,
    objects: int | None = None,
    size: tuple[int, int] | None = None,
    frames: tuple[int, ...] | None = None,
    degrade: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> dict[str, tuple[float, int]]:
    """Reads n rendered clips and compares them with their truths.

    objects, size (height, width), frames  restrict the clips; None leaves the world's own mix
    degrade  (uint8 THWC video, clip number) -> uint8 video, applied before reading
    Returns  attribute -> (mean over the clips it applies to, number of those clips)
    """
    world = ShapesWorld(
        split="all", seed=seed, size=n, objects=objects, frames=frames,
        sizes=None if size is None else (size,),
    )  # fmt: skip
    values = defaultdict(list)
    for i in range(n):
        truth = world.info(i).truth
        video = render.render(truth)
        video = video if degrade is None else degrade(video, i)
        for name, value in score.compare(parse.parse(video), truth).items():
            values[name].append(value)
    return {name: (float(np.mean(v)), len(v)) for name, v in values.items()}


def blur_and_noise(
    video_THWC: np.ndarray, i: int, *, blur_px: float = 2.0, noise_levels: float = 8.0
) -> np.ndarray:
    """A video as a weak decoder might leave it: Gaussian blur in space, then Gaussian noise.

    i  clip number, which keys the noise; blur_px, noise_levels  standard deviations
    """
    radius = max(1, round(3 * blur_px))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / blur_px) ** 2)
    taps /= taps.sum()
    video = video_THWC.astype(np.float32)
    for axis in (1, 2):
        edges = [(0, 0)] * 4
        edges[axis] = (radius, radius)
        padded, side = np.pad(video, edges, mode="edge"), video.shape[axis]
        parts = (np.take(padded, range(k, k + side), axis) for k in range(len(taps)))
        video = sum(tap * part for tap, part in zip(taps, parts, strict=True))
    noise = generator(0, "blur_and_noise", i).normal(0, noise_levels, video.shape)
    return np.clip(np.rint(video + noise), 0, 255).astype(np.uint8)
