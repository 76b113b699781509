"""Does a small prototype show what the full size will be? A shared seed against another one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import Progress, SamplerConfig, sample

Size = tuple[int, int]


@dataclass(frozen=True)
class Agreement:
    """Mean absolute pixel difference (of 255) of a prototype and a full size averaged down to it.

    same   f64[n], full size of the same seed
    other  f64[n], full size of another seed, same prompt
    """

    same: np.ndarray
    other: np.ndarray


def measure(
    model: Model,
    prompts: Sequence[str],
    config: SamplerConfig,
    small: Size,
    factor: int,
    progress: Progress | None = None,
) -> Agreement:
    """Samples each prompt as a prototype and as two full sizes, one of them under another seed.

    small   (height, width) of the prototype
    factor  by which both sides of the full size are longer
    Raises  BadInput for a factor below 2, sizes off the grid
    """
    if factor < 2:
        raise bad("prototype", f"factor {factor}", "2 or more")
    n = len(prompts)
    low = [Request(prompt, *small, seed=i) for i, prompt in enumerate(prompts)]
    high = [replace(r, height=small[0] * factor, width=small[1] * factor) for r in low]
    else_ = [replace(r, seed=n + r.seed) for r in high]
    videos = [v.video_THWC for v in sample(model, [*low, *high, *else_], config, progress)]
    groups = videos[:n], videos[n : 2 * n], videos[2 * n :]
    same, other = (
        np.array([_gap(a, b, factor) for a, b in zip(groups[0], full, strict=True)])
        for full in groups[1:]
    )
    return Agreement(same, other)


def _gap(small_THWC: np.ndarray, large_THWC: np.ndarray, factor: int) -> float:
    T, H, W, C = small_THWC.shape
    blocks = large_THWC.astype(np.float64).reshape(T, H, factor, W, factor, C)
    return float(np.abs(blocks.mean((2, 4)) - small_THWC).mean())
