"""Small packed batches for the task tests, made clip by clip in plain loops."""

import dataclasses

import jax.numpy as jnp
import numpy as np

BOS = 1


@dataclasses.dataclass(frozen=True)
class TinyClip:
    """One piece: latents drawn from its key, a caption of bytes, facts."""

    key: int
    grid: tuple[int, int, int]
    caption: str
    fps: float = 8.0

    @property
    def tokens(self):
        return int(np.prod(self.grid))

    def patches(self, width):
        return np.random.default_rng(self.key).normal(0.5, 1.5, (self.tokens, width))


def some_clips(seed=0, count=7):
    """Clips of mixed size: images, short and long, wide and tall."""
    rng = np.random.default_rng(seed)
    grids = [(1, 2, 2), (3, 2, 2), (2, 2, 3), (4, 1, 2), (5, 1, 1), (3, 3, 1), (1, 1, 4)]
    words = ["", "red", "a blue square", "go", "left then right", "x", "grey"]
    keys = rng.choice(2**31 - 1, count, replace=False) + 1
    return [
        TinyClip(int(keys[i]), grids[i % 7], words[i % 7], [8.0, 24.0][i % 2]) for i in range(count)
    ]


def pack(rows, N, M, S, P, num_clips, num_tokens):
    """A packed batch of `rows`, a list of lists of clips."""
    R = len(rows)
    batch = {
        "patches": np.zeros((R, N, P), np.float32),
        "patch_segment": np.zeros((R, N), np.int32),
        "patch_position": np.zeros((R, N, 3), np.int32),
        "action": np.zeros((R, N), np.int32),
        "text_ids": np.zeros((R, M), np.int32),
        "text_segment": np.zeros((R, M), np.int32),
        "text_position": np.zeros((R, M), np.int32),
        "clip_key": np.zeros((R, S), np.uint32),
        "grid": np.zeros((R, S, 3), np.int32),
        "fps": np.zeros((R, S), np.float32),
        "size": np.zeros((R, S, 2), np.int32),
        "num_clips": np.float32(num_clips),
        "num_tokens": np.float32(num_tokens),
    }
    for r, clips in enumerate(rows):
        n = m = 0
        for s, clip in enumerate(clips, 1):
            patches, ids = clip.patches(P), [BOS, *(b + 2 for b in clip.caption.encode())]
            for i in range(clip.tokens):
                batch["patches"][r, n] = patches[i]
                batch["patch_segment"][r, n] = s
                batch["patch_position"][r, n] = np.unravel_index(i, clip.grid)
                n += 1
            for i, token in enumerate(ids):
                batch["text_ids"][r, m], batch["text_segment"][r, m] = token, s
                batch["text_position"][r, m] = i
                m += 1
            batch["clip_key"][r, s - 1], batch["grid"][r, s - 1] = clip.key, clip.grid
            batch["fps"][r, s - 1] = clip.fps
            batch["size"][r, s - 1] = 16 * clip.grid[1], 16 * clip.grid[2]
    return {k: jnp.asarray(v) for k, v in batch.items()}


def pack_all(clips, layout, P, N=32, M=48, S=4):
    """`layout` lists, for each row, the places of its clips in `clips`; totals are those of all."""
    rows = [[clips[i] for i in row] for row in layout]
    return pack(rows, N, M, S, P, len(clips), sum(c.tokens for c in clips))
