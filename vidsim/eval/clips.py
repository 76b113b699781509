"""Clips to evaluate on: drawn from a world (with ground truth), or a user's own from an index."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.geometry import GeometryConfig, make_pieces
from vidsim.data.index import ClipIndex
from vidsim.tasks.encoding import read_piece
from vidsim.worlds.base import World

Size = tuple[int, int]
_LOOKED_AT = 20_000


@dataclass(frozen=True)
class EvalClip:
    """One clip with what is known of it.

    name        unique, stable
    video_THWC  uint8
    captions    texts, at least one ("" when the clip has none)
    truth       ground truth of a world, None for a user's clip
    boxes       float32 [T, objects, 4] (y0, x0, y1, x1) in pixels, None without truth
    """

    name: str
    video_THWC: np.ndarray
    fps: float
    captions: tuple[str, ...]
    truth: Mapping[str, Any] | None = None
    boxes: np.ndarray | None = None

    @property
    def size(self) -> str:
        """Width x height, as people write it."""
        return f"{self.video_THWC.shape[2]}x{self.video_THWC.shape[1]}"


@dataclass(frozen=True)
class Alignment:
    """What a VAE (and a patch) can take: frames are 1 + k * time, sides multiples of space.

    cells  of time x space x space pixels that a clip may have, 0 for any number; the first frame
           has cells of its own
    """

    time: int
    space: int
    cells: int = 0

    def frames(self, count: int, size: Size | None = None) -> int:
        """The longest possible duration of at most `count` frames, of (height, width) if `cells`
        are counted; one frame at least.
        """
        if self.cells and size is not None:
            longest = self.cells // ((size[0] // self.space) * (size[1] // self.space))
            count = min(count, 1 + (max(longest, 1) - 1) * self.time)
        return 1 + (count - 1) // self.time * self.time

    def fits(self, size: Size) -> bool:
        """Whether a frame of (height, width) needs no crop."""
        return size[0] % self.space == 0 and size[1] % self.space == 0


@dataclass(frozen=True)
class Variety:
    """The frame sizes and durations that a world draws, each sorted."""

    sizes: tuple[Size, ...]
    frames: tuple[int, ...]


def variety(world: World, align: Alignment) -> Variety:
    """Sizes and durations of a world that a model can make. Raises BadInput when none is."""
    infos = [world.info(i) for i in range(min(len(world), 2000))]
    sizes = {(info.height, info.width) for info in infos}
    frames = {info.num_frames for info in infos}
    fit = tuple(sorted(size for size in sizes if align.fits(size)))
    even = tuple(sorted(T for T in frames if align.frames(T) == T))
    if not fit or not even:
        found = f"sizes {sorted(sizes)}, durations {sorted(frames)}"
        allowed = f"sides that are multiples of {align.space}, 1 + k * {align.time} frames"
        raise bad(f"world {world.name}", found, allowed)
    return Variety(fit, even)


def world_clips(world: World, count: int, align: Alignment) -> list[EvalClip]:
    """The first clips of a world such that every size is there equally often (to within one).

    Videos are cut to a duration that the model takes; sizes that it does not take are left out.
    """
    sizes = variety(world, align).sizes
    quota = {size: count // len(sizes) + (k < count % len(sizes)) for k, size in enumerate(sizes)}
    clips: list[EvalClip] = []
    for i in range(min(len(world), _LOOKED_AT)):
        info = world.info(i)
        size = info.height, info.width
        if quota.get(size, 0) == 0:
            continue
        quota[size] -= 1
        T = align.frames(info.num_frames, size)
        video, boxes = world.render(info.truth)[:T], np.asarray(world.boxes(info.truth))[:T]
        texts = tuple(caption.text for caption in info.captions)
        clips.append(EvalClip(f"{world.name}-{i}", video, info.fps, texts, info.truth, boxes))
        if len(clips) == count:
            break
    if not clips:
        raise bad(f"world {world.name}", "no clip of a size that the model takes")
    return clips


def index_clips(
    path: str | os.PathLike[str],
    count: int,
    geometry: GeometryConfig,
    skip_frames: int = 0,
) -> list[EvalClip]:
    """One piece of each of the first clips of an index, as training would cut it.

    geometry     limits and alignment; nothing is reduced, decimated or split
    skip_frames  leaves out the head of each video, e.g. what the model was trained on; videos that
                 are not longer, and images, are left out then
    """
    index = ClipIndex.open(path)
    plain = GeometryConfig(
        vae_stride=geometry.vae_stride, patch=geometry.patch, max_area=geometry.max_area,
        max_frames=geometry.max_frames, max_tokens=geometry.max_tokens,
    )  # fmt: skip
    pieces, _ = make_pieces(_Tail(index, skip_frames), plain)
    clips = []
    for number in range(min(count, len(pieces))):
        clip = int(pieces.clip[number])
        pieces.start_frame[number] += skip_frames
        texts = tuple(caption.text for caption in index.captions(clip)) or ("",)
        video = read_piece(index, pieces, number)
        clips.append(EvalClip(str(index.clip_id[clip]), video, float(pieces.fps[number]), texts))
    return clips


class _Tail:
    """The columns of an index without the first frames of each clip."""

    def __init__(self, index: ClipIndex, skip: int) -> None:
        self.clip_id: Sequence[str] = index.clip_id
        self.num_frames = np.maximum(0, np.asarray(index.num_frames) - skip)
        self.height, self.width, self.fps = index.height, index.width, index.fps
