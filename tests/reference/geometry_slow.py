"""Geometry of one clip in plain Python, written from its rules rather than from the code."""

import dataclasses
import math


@dataclasses.dataclass
class Cut:
    """What one clip becomes: (start, frames, stride) spans of one size, or a reason to drop it."""

    scaled: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    spans: tuple[tuple[int, int, int], ...] = ()
    dropped: str = ""


def cut(frames, height, width, config, stride=1, scale=1.0):
    """Pieces of one clip; stride and scale are the drawn ones."""
    ts, (uh, uw) = config.vae_stride[0], config.unit
    if frames < 1:
        return Cut(dropped="without frames")
    factor = scale
    if config.max_area and height * width > config.max_area:
        factor *= math.sqrt(config.max_area / (height * width))
    h, w = math.floor(height * factor + 1e-6), math.floor(width * factor + 1e-6)
    if h < uh or w < uw:
        return Cut(dropped="smaller than one unit")
    length = math.ceil(frames / stride)
    longest = aligned(config.max_frames or 10**9, ts)

    def tokens(h, w):
        return (1 + (aligned(min(length, longest), ts) - 1) // ts) * (h // uh) * (w // uw)

    if tokens(h, w) > config.max_tokens:
        per_frame = (h // uh) * (w // uw)
        if config.over_tokens == "shorten" and per_frame <= config.max_tokens:
            longest = 1 + (config.max_tokens // per_frame - 1) * ts
        else:
            latent_frames = 1 + (min(length, longest) - 1) // ts
            area = height * factor * width * factor
            factor *= math.sqrt(config.max_tokens * uh * uw / latent_frames / area)
            h, w = math.floor(height * factor + 1e-6), math.floor(width * factor + 1e-6)
            if h < uh or w < uw:
                return Cut(dropped="over the limit at any size")
    size = h // uh * uh, w // uw * uw
    if aligned(length, ts) <= longest or config.long == "truncate":
        return Cut((h, w), size, ((0, aligned(min(length, longest), ts), stride),))
    parts = math.ceil(length / longest)
    units = (length - parts) // ts
    spans, start = [], 0
    for j in range(parts):
        frames = 1 + ts * (units * (j + 1) // parts - units * j // parts)
        spans.append((start * stride, frames, stride))
        start += frames
    return Cut((h, w), size, tuple(spans))


def aligned(frames, stride):
    """The largest number <= frames that is 1 mod stride."""
    while (frames - 1) % stride:
        frames -= 1
    return frames
