"""Training crops for the video autoencoder: a few static shapes, filled at native size.

The batch of a step is a pure function of (index, config, seed, step). A step uses one canvas; a
crop comes from a clip that is large and long enough, at a random place, never scaled.
"""

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import clip_key, generator
from vidsim.data.index import ClipIndex

# Steps that a data set can be asked for; a run ends long before.
MAX_STEPS = 1 << 40
Mine = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """Static crops.

    canvases          (frames, height, width) of each canvas, pixels; 1 frame is a canvas of images
    batch_size        crops a step on a video canvas
    image_batch_size  crops a step on an image canvas; 0 for batch_size
    image_share       share of steps on image canvases, when there are both
    frames_as_images  image canvases also take single frames of videos
    cache_bytes       memory of a process for whole decoded clips; 0 decodes only what is needed
    """

    canvases: tuple[tuple[int, int, int], ...]
    batch_size: int
    image_batch_size: int = 0
    image_share: float = 0.25
    frames_as_images: bool = False
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.canvases or any(len(c) != 3 or min(c) < 1 for c in self.canvases):
            what = f"canvases={self.canvases}"
            raise bad("CropConfig", what, "(frames, height, width), each at least 1")
        if self.batch_size < 1 or self.image_batch_size < 0 or self.cache_bytes < 0:
            what = f"batch_size={self.batch_size} image_batch_size={self.image_batch_size}"
            raise bad("CropConfig", f"{what} cache_bytes={self.cache_bytes}", "not negative")
        if not 0 <= self.image_share <= 1:
            raise bad("CropConfig", f"image_share={self.image_share}", "0 to 1")
        if self.image_share == 1 and not self.image_canvases:
            raise bad("CropConfig", "image_share=1 without an image canvas", "add (1, H, W)")

    @property
    def image_canvases(self) -> tuple[tuple[int, int, int], ...]:
        """Canvases of one frame."""
        return tuple(c for c in self.canvases if c[0] == 1)

    @property
    def video_canvases(self) -> tuple[tuple[int, int, int], ...]:
        """Canvases of several frames."""
        return tuple(c for c in self.canvases if c[0] > 1)


class CropPlan:
    """Which clips fill which canvas, and what every step crops, known without reading a pixel.

    pools   rows of the index for each canvas
    unused  number of clips that fit no canvas
    Raises  BadInput naming a canvas that no clip can fill
    """

    def __init__(self, index: ClipIndex, config: CropConfig, seed: int) -> None:
        self.index, self.config, self.seed = index, config, seed
        self.pools: dict[tuple[int, int, int], np.ndarray] = {}
        for canvas in config.canvases:
            frames, height, width = canvas
            fits = (index.height >= height) & (index.width >= width) & (index.num_frames >= frames)
            if frames == 1 and not config.frames_as_images:
                fits &= index.num_frames == 1
            if not fits.any():
                largest = f"the index has frames up to {index.num_frames.max()}, "
                largest += f"sides up to {index.height.max()}x{index.width.max()}"
                change = "choose a smaller canvas" if frames > 1 else "or set frames_as_images"
                raise bad("crops", f"no clip fills canvas {canvas}", largest, change)
            self.pools[canvas] = np.flatnonzero(fits)
        used = np.unique(np.concatenate(list(self.pools.values())))
        self.unused = len(index) - len(used)

    def canvas(self, step: int) -> tuple[int, int, int]:
        """The canvas of a step."""
        images, videos = self.config.image_canvases, self.config.video_canvases
        rng = generator(self.seed, "crop canvas", step)
        share = self.config.image_share if images and videos else float(bool(images))
        chosen = images if rng.random() < share else videos
        return chosen[int(rng.integers(len(chosen)))]

    def crops(self, step: int) -> tuple[tuple[int, int, int], list[tuple[int, int, int, int]]]:
        """The canvas of a step and (row, first frame, top, left) of each crop."""
        canvas = self.canvas(step)
        batch = self.config.batch_size
        if canvas[0] == 1:
            batch = self.config.image_batch_size or batch
        rng = generator(self.seed, "crops", step)
        pool = self.pools[canvas]
        if batch <= len(pool):
            rows = rng.choice(pool, batch, replace=False)
        else:
            rounds = -(-batch // len(pool))
            rows = np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:batch]
        found = []
        for row in rows:
            first, top, left = (int(rng.integers(s + 1)) for s in self._slack(int(row), canvas))
            found.append((int(row), first, top, left))
        return canvas, found

    def _slack(self, row: int, canvas: Sequence[int]) -> tuple[int, int, int]:
        index = self.index
        sizes = (index.num_frames[row], index.height[row], index.width[row])
        first, top, left = (int(s) - c for s, c in zip(sizes, canvas, strict=True))
        return first, top, left

    def batch(self, step: int, mine: Mine | None = None) -> dict[str, Any]:
        """What `crop_batches` returns for a step."""
        (frames, height, width), crops = self.crops(step)
        chosen = range(len(crops)) if mine is None else mine(len(crops)).tolist()
        keys = np.empty(len(crops), np.uint32)
        seen: dict[int, int] = {}
        for b, (row, *_) in enumerate(crops):
            occurrence = seen[row] = seen.get(row, -1) + 1
            keys[b] = clip_key(self.index.clip_id[row], 0, occurrence)
        video_BTHWC = np.empty((len(chosen), frames, height, width, 3), np.uint8)
        for place, b in enumerate(chosen):
            row, first, top, left = crops[b]
            box = (top, left, height, width)
            video_BTHWC[place] = _read(self.index, row, first, frames, box, self.config.cache_bytes)
        total = np.float32(len(crops))
        return {"video": video_BTHWC, "clip_key": keys[list(chosen)], "num_clips": total}


def crop_batches(
    index: ClipIndex, config: CropConfig, seed: int, mine: Mine | None = None
) -> grain.MapDataset:
    """Random-access training batches: element s is the batch of step s.

    mine     clips of a step -> i64 those that this process reads; None reads all
    Returns  data set of {"video": uint8 [B, T, H, W, 3], "clip_key": uint32 [B], "num_clips":
             float32 []}; B, T, H, W are those of the step's canvas, num_clips is B of the step
    Raises   BadInput when a canvas cannot be filled
    """
    read = functools.partial(CropPlan(index, config, seed).batch, mine=mine)
    return grain.MapDataset.range(MAX_STEPS).map(read)


def whole_clips(
    index: ClipIndex, rows: Sequence[int] | None = None, max_frames: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Whole clips in the order of the index, for evaluation.

    rows        clips, or None for all
    max_frames  frames read of each from its start; 0 for all
    Yields      (row, uint8 [T, H, W, 3])
    """
    for row in range(len(index)) if rows is None else rows:
        frames = int(index.num_frames[row])
        yield int(row), index.read(int(row), 0, min(frames, max_frames) if max_frames else frames)


class _ClipCache:
    """Whole decoded clips of this process, least recently used first out. Never changes a value."""

    def __init__(self) -> None:
        self._clips: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, index: ClipIndex, row: int, max_bytes: int) -> np.ndarray | None:
        """The clip, decoded on first use; None when it would take over a quarter of the memory."""
        size = 3 * int(index.num_frames[row]) * int(index.height[row]) * int(index.width[row])
        if size > max_bytes // 4:
            return None
        key = (index.hash, row)
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        video_THWC = index.read(row)
        with self._lock:
            if key not in self._clips:
                self._clips[key] = video_THWC
                self._bytes += size
            while self._bytes > max_bytes:
                self._bytes -= self._clips.popitem(last=False)[1].nbytes
        return video_THWC


_CACHE = _ClipCache()


def _read(
    index: ClipIndex, row: int, first: int, frames: int, box: tuple[int, ...], cache_bytes: int
) -> np.ndarray:
    whole = _CACHE.get(index, row, cache_bytes) if cache_bytes else None
    if whole is None:
        top, left, height, width = box
        return index.read(row, first, frames, crop=(top, left, height, width))
    top, left, height, width = box
    return whole[first : first + frames, top : top + height, left : left + width]
