"""Pictures larger than those of training: a small one, then twice as large, again and again.

Sampled at once such a picture repeats what training shows, a lattice of small objects
(experiments/RESULTS.md). So it is made at the largest of its halved sizes that takes no more than
SHARE of a row of training; each further one is the one before, enlarged, noised to STRENGTH and
denoised at its own size (SDEdit, arXiv:2108.01073; sizes one after another: arXiv:2311.16973).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidsim.generate.edit import edit
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import Progress, SamplerConfig, Video, sample

Size = tuple[int, int]
STRENGTH = 0.4  # noise time to which an enlarged picture is noised
SHARE = 0.25  # of a row: rows hold many clips, and what fills more of one is rare in training


def sizes(model: Model, request: Request) -> list[Size]:
    """(height, width) in pixels of a picture on its way: the first takes no more than SHARE of a
    row, the last is the request's own. One entry where nothing grows: small enough, or a video."""
    grid, tokens = model.grid, max(1, int(SHARE * model.limits.tokens))
    unit = grid.space_stride * grid.patch[1], grid.space_stride * grid.patch[2]
    cells = request.height // unit[0], request.width // unit[1]
    if request.num_frames > 1:
        return [(request.height, request.width)]
    for halvings in itertools.count():
        parts = [2**n for n in range(halvings, -1, -1)]
        ways = [tuple(max(1, round(side / part)) for side in cells) for part in parts]
        if ways[0][0] * ways[0][1] <= tokens:
            return [(h * unit[0], w * unit[1]) for h, w in ways]
    raise AssertionError("a picture of one token fits")


def sample_grown(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Video]:
    """Makes the requested clips as `sample` does, and grows pictures larger than those of training.

    config   `steps` are of a whole way: a growing picture takes its share of them, two or more
    Returns  one video a request, in order
    Raises   BadInput as `sample`
    """
    ways = [sizes(model, request) for request in requests]
    starts = [
        dataclasses.replace(request, height=way[0][0], width=way[0][1])
        for request, way in zip(requests, ways, strict=True)
    ]
    videos = sample(model, starts, config, progress)
    steps = max(2, round(STRENGTH * config.steps))
    grow = dataclasses.replace(config, steps=steps, long_rows=True)
    for i, (request, way) in enumerate(zip(requests, ways, strict=True)):
        for height, width in way[1:]:
            step = dataclasses.replace(request, height=height, width=width)
            show = functools.partial(_at, progress, step) if progress else None
            picture = enlarge(videos[i].video_THWC, (height, width))
            (made,) = edit(model, picture, [step], STRENGTH, None, grow, progress=show)
            videos[i] = Video(made.video_THWC, request.fps, request)
    return videos


def notice(model: Model, request: Request) -> str:
    """What is said of a picture that grows; "" of others."""
    way = [f"{width}x{height}" for height, width in sizes(model, request)]
    if len(way) == 1:
        return ""
    return (f"larger than those of training: grown from {way[0]} "
            f"by way of {', '.join(way[1:])}, noised to {STRENGTH:g} each time")  # fmt: skip


def enlarge(video_THWC: np.ndarray, size: Size) -> np.ndarray:
    """uint8 frames at another (height, width), bicubic."""
    frames = [
        np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))
        for frame in video_THWC
    ]
    return np.stack(frames)


def _at(progress: Progress, request: Request, stage: str, done: int, of: int) -> None:
    progress(f"{stage} {request.width}x{request.height}", done, of)
