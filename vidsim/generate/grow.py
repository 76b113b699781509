"""Pictures larger than those of training: a small one, then twice as large, again and again.

Sampled at once such a picture repeats what training shows, a lattice of small objects
(experiments/RESULTS.md). So it is made at the largest of its halved sizes that takes no more than
SHARE of a row of training; each further one is the one before, enlarged, noised to STRENGTH and
denoised (SDEdit, arXiv:2108.01073; sizes one after another: arXiv:2311.16973) in tiles as large as
the first size, whose latents are blended where they overlap (arXiv:2302.08113 blends every step).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidsim.core.host_random import stable_hash
from vidsim.generate.conditions import Condition
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.sample import (
    Progress,
    SamplerConfig,
    Video,
    decode,
    sample,
    sample_latents,
)
from vidsim.models.codec import encode_clips

Size = tuple[int, int]
STRENGTH = 0.3  # noise time to which an enlarged picture is noised
OVERLAP = 4  # a tile shares one part in so many with each of its neighbours
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

    Returns  one video a request, in order
    Raises   BadInput as `sample`
    """
    ways = [sizes(model, request) for request in requests]
    starts = [
        dataclasses.replace(request, height=way[0][0], width=way[0][1])
        for request, way in zip(requests, ways, strict=True)
    ]
    videos = sample(model, starts, config, progress)
    for i, (request, way) in enumerate(zip(requests, ways, strict=True)):
        for size in way[1:]:
            picture = enlarge(videos[i].video_THWC, size)
            videos[i] = Video(refine(model, picture, request, way[0], config, progress),
                              request.fps, request)  # fmt: skip
    return videos


def refine(
    model: Model,
    picture_1HWC: np.ndarray,
    request: Request,
    tile: Size,
    config: SamplerConfig,
    progress: Progress | None = None,
) -> np.ndarray:
    """An enlarged picture, noised to STRENGTH and denoised tile by tile, without guidance: guided,
    a tile would be made to show all that the prompt names. Takes its share of the steps.

    picture_1HWC  uint8, sides on the model's grid
    tile          (height, width) in pixels
    """
    _, H, W, _ = picture_1HWC.shape
    (latent,) = encode_clips(model.vae.vae, model.vae.params, [picture_1HWC])
    unit = model.grid.space_stride
    cell = unit * model.grid.patch[1], unit * model.grid.patch[2]
    spans = [
        [(a // unit, b // unit) for a, b in _spans(side, length, part)]
        for side, length, part in zip((H, W), tile, cell, strict=True)
    ]
    places = list(itertools.product(*spans))
    conditions = [_noised(latent[:, a:b, c:d], model.grid.patch) for (a, b), (c, d) in places]
    asked = [
        dataclasses.replace(request, height=(b - a) * unit, width=(d - c) * unit, negative="",
                            seed=stable_hash("tile", request.seed, H, W, a, c) >> 33)
        for (a, b), (c, d) in places
    ]  # fmt: skip
    guidance = dataclasses.replace(config.guidance, scale=1.0)
    steps = max(2, round(STRENGTH * config.steps))
    short = dataclasses.replace(config, steps=steps, guidance=guidance)
    show = functools.partial(_at, progress, f"{W}x{H}") if progress else None
    made = sample_latents(model, asked, short, show, conditions)
    total, weight = np.zeros_like(latent), np.zeros((*latent.shape[:3], 1), latent.dtype)
    for ((a, b), (c, d)), one in zip(places, made, strict=True):
        share = (_ramp(b - a)[:, None] * _ramp(d - c))[None, ..., None]
        total[:, a:b, c:d] += share * one
        weight[:, a:b, c:d] += share
    return decode(model, [total / weight], config, show)[0]


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


def _spans(side: int, length: int, cell: int) -> list[tuple[int, int]]:
    """(first, end) in pixels of tiles along a side, on cells, evenly spread, which overlap."""
    length = min(side, length)
    step = max(cell, length - length // OVERLAP)
    count = 1 + -(-(side - length) // step)
    firsts = [round(k * (side - length) / max(1, count - 1) / cell) * cell for k in range(count)]
    return [(first, first + length) for first in firsts]


def _ramp(length: int) -> np.ndarray:
    """float32 [length]: rises from the ends of a tile over the part that it shares."""
    near = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    return np.minimum(1.0, near / (length // OVERLAP + 1)).astype(np.float32)


def _noised(latent_thwc: np.ndarray, patch: tuple[int, int, int]) -> Condition:
    shape = tuple(n // p for n, p in zip(latent_thwc.shape[:3], patch, strict=True))
    return Condition(latent_thwc, np.zeros(shape, bool), start=STRENGTH)


def _at(progress: Progress, size: str, stage: str, done: int, of: int) -> None:
    progress(f"{stage} {size}", done, of)
