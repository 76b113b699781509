"""A latent source in memory for the pipeline's tests, from clips drawn at random."""

import dataclasses

import numpy as np

from vidsim.core.host_random import clip_key, stable_hash

PATCH, CHANNELS = (1, 2, 2), 3


@dataclasses.dataclass
class MemoryLatents:
    """Latents and captions as lists; the columns of data/assemble.py's LatentSource."""

    latent: list
    caption: list
    clip: np.ndarray
    grid: np.ndarray
    fps: np.ndarray
    size_HW: np.ndarray
    clip_key: np.ndarray
    clip_hash: np.ndarray
    caption_start: np.ndarray
    caption_kind: np.ndarray
    text_tokens: np.ndarray
    kinds: tuple = ("descriptive", "short")
    patch: tuple = PATCH
    channels: int = CHANNELS
    text_width: int = 0
    has_midstream: bool = False
    hash: str = "memory"

    def latents(self, pieces):
        return [self.latent[p] for p in pieces]

    def captions(self, numbers):
        return [self.caption[n] for n in numbers]


def random_source(n=60, seed=0, text_width=0):
    """n pieces of n - n // 5 clips (the last clips have two pieces), 1 to 3 captions a clip."""
    rng = np.random.default_rng(seed)
    clips = n - n // 5
    clip = np.sort(np.concatenate([np.arange(clips), np.arange(clips - n // 5, clips)]))
    piece = np.concatenate([[0], (np.diff(clip) == 0).astype(int)])
    grid = np.stack([rng.choice([1, 2, 5], n), rng.integers(1, 5, n), rng.integers(1, 5, n)], 1)
    latent = [rng.standard_normal((t, 2 * h, 2 * w, CHANNELS)).astype(np.float32)
              for t, h, w in grid]  # fmt: skip
    count = rng.integers(1, 4, clips)
    start = np.concatenate([[0], np.cumsum(count)])
    length = rng.integers(1, 30, start[-1])
    if text_width:
        caption = [rng.standard_normal((m, text_width)).astype(np.float32) for m in length]
    else:
        caption = [rng.integers(1, 258, m).astype(np.int32) for m in length]
    names = [f"clip {i}" for i in range(clips)]
    return MemoryLatents(
        latent=latent, caption=caption, clip=clip.astype(np.int32), grid=grid.astype(np.int32),
        fps=rng.choice([8, 24], n).astype(np.float32), size_HW=(grid[:, 1:] * 16).astype(np.int32),
        clip_key=np.array([clip_key(names[c], p, 0) for c, p in zip(clip, piece, strict=True)],
                          np.uint32),
        clip_hash=np.array([stable_hash("clip id", name) for name in names], np.uint64),
        caption_start=start, caption_kind=rng.integers(0, 2, start[-1]).astype(np.int16),
        text_tokens=length.astype(np.int32), text_width=text_width,
    )  # fmt: skip
