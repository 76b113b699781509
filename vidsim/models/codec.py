"""Clips of many sizes through the VAE, compiling few shapes.

Sizes share a few canvases: a clip lies in a canvas's upper left corner, the rest is masked, which
is exact. Time goes in chunks with the VAE's feature cache, which is exact too, so memory does not
grow with duration; the last chunk is filled up with frames that are thrown away again, which
causality allows.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.canvas import assign_canvases, choose_canvases
from vidsim.core.errors import bad
from vidsim.models.vae import Tree, Vae
from vidsim.models.vae_stream import decode_chunk, encode_chunk
from vidsim.parallel.place import ways

Size = tuple[int, int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CodecConfig:
    """How much is coded at once.

    canvases      different canvas sizes at most; each compiles once
    chunk_pixels  pixels of one call at most (one latent frame of one clip if that is more)
    batch         clips of one call at most
    latent_frames latent frames of one call at most
    """

    canvases: int = 3
    chunk_pixels: int = 1 << 20
    batch: int = 16
    latent_frames: int = 4

    def __post_init__(self) -> None:
        for name in ("canvases", "chunk_pixels", "batch", "latent_frames"):
            if getattr(self, name) < 1:
                raise bad(f"CodecConfig.{name}", f"{getattr(self, name)}", "at least 1")


@dataclass(frozen=True)
class Job:
    """Clips coded together: indices, canvas (latent rows, columns), clips and latents a call."""

    clips: tuple[int, ...]
    canvas: Size
    batch: int
    chunk: int


def plan_jobs(
    shapes: Sequence[tuple[int, int, int]],
    stride: Size,
    cfg: CodecConfig,
    canvases: np.ndarray | None = None,
) -> list[Job]:
    """Groups clips for coding. On a mesh (jax.set_mesh) clips are split over devices, and rows of
    frames where it has a context axis: canvases and batches are rounded up to what divides.

    shapes    (t, h, w) of each clip in latent positions
    stride    pixels a latent position: (frames, side)
    canvases  int[m, 2] (h, w) to use; None chooses them for these clips
    """
    sizes = np.asarray(shapes)[:, 1:]
    if canvases is None:
        canvases, of = choose_canvases(sizes, cfg.canvases)
    else:
        of = assign_canvases(sizes, canvases)
    jobs = []
    for number, (high, wide) in enumerate(canvases.tolist()):
        clips, canvas = np.flatnonzero(of == number).tolist(), (_multiple(high, "height"), wide)
        # Clips of like duration together, so that few frames are coded for nothing.
        clips.sort(key=lambda i: (shapes[i][0], i))
        room = cfg.chunk_pixels // (stride[0] * stride[1] ** 2 * canvas[0] * canvas[1])
        if not clips:
            continue
        batch = _power_below(max(1, min(cfg.batch, room)))
        batch = _multiple(min(batch, _power_above(len(clips))), "clips")
        chunk = max(1, min(cfg.latent_frames, room // batch))
        for start in range(0, len(clips), batch):
            group = tuple(clips[start : start + batch])
            later = max(shapes[i][0] for i in group) - 1  # latent frames after the first
            jobs.append(Job(group, canvas, batch, min(chunk, _power_above(max(later, 1)))))
    return jobs


def decode_clips(
    vae: Vae,
    params: Tree,
    latents: Sequence[np.ndarray],
    cfg: CodecConfig = CodecConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Pixels of each clip.

    latents   float32 [t,h,w,c] each, raw (as the encoder's mean), of any size
    progress  called with (clips done, clips), first with none done
    Returns   uint8 [1 + (t - 1) * time_stride, H, W, 3] each
    """
    shapes = [latent.shape[:3] for latent in latents]
    stride = vae.cfg.time_stride, vae.cfg.space_stride
    videos: dict[int, np.ndarray] = {}
    if progress:
        progress(0, len(latents))
    for job in plan_jobs(shapes, stride, cfg):
        frames = max(shapes[i][0] for i in job.clips)
        canvas_Bthwc = np.zeros((job.batch, frames, *job.canvas, latents[0].shape[-1]), np.float32)
        for b, i in enumerate(job.clips):
            t, h, w = shapes[i]
            canvas_Bthwc[b, :t, :h, :w] = latents[i]
        valid_B2 = _valid(job, shapes)
        state, parts = None, []
        for chunk in _chunks(canvas_Bthwc, 1, job.chunk):
            state, video = decode_chunk(vae, params, state, jnp.asarray(chunk), valid_B2)
            parts.append(to_uint8(np.asarray(video)))
        video_BTHWC = np.concatenate(parts, 1)
        for b, i in enumerate(job.clips):
            t, h, w = shapes[i]
            T = 1 + (t - 1) * stride[0]
            videos[i] = video_BTHWC[b, :T, : h * stride[1], : w * stride[1]].copy()
        if progress:
            progress(len(videos), len(latents))
    return [videos[i] for i in range(len(latents))]


def encode_clips(
    vae: Vae,
    params: Tree,
    videos: Sequence[np.ndarray],
    cfg: CodecConfig = CodecConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    canvases: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The encoder's mean for each clip.

    videos   uint8 [T,H,W,3] each; T = 1 + k * time_stride, sides multiples of space_stride
    canvases int[m, 2] (h, w) latent positions shared by many calls; None chooses them for these
    Returns  float32 [1 + k, h, w, c] each
    """
    time_stride, space_stride = vae.cfg.time_stride, vae.cfg.space_stride
    for video in videos:
        vae.check_video((1, *video.shape))
    shapes = [
        (
            1 + (v.shape[0] - 1) // time_stride,
            v.shape[1] // space_stride,
            v.shape[2] // space_stride,
        )
        for v in videos
    ]
    latents: dict[int, np.ndarray] = {}
    if progress:
        progress(0, len(videos))
    for job in plan_jobs(shapes, (time_stride, space_stride), cfg, canvases):
        frames = 1 + (max(shapes[i][0] for i in job.clips) - 1) * time_stride
        sides = job.canvas[0] * space_stride, job.canvas[1] * space_stride
        canvas_BTHWC = np.zeros((job.batch, frames, *sides, 3), np.uint8)
        for b, i in enumerate(job.clips):
            T, H, W, _ = videos[i].shape
            canvas_BTHWC[b, :T, :H, :W] = videos[i]
        valid_B2 = _valid(job, shapes)
        state, parts = None, []
        for chunk in _chunks(canvas_BTHWC, 1, job.chunk * time_stride):
            state, mean = _encode_bytes(vae, params, state, chunk, valid_B2)
            parts.append(np.asarray(mean))
        mean_Bthwc = np.concatenate(parts, 1)
        for b, i in enumerate(job.clips):
            t, h, w = shapes[i]
            latents[i] = mean_Bthwc[b, :t, :h, :w].copy()
        if progress:
            progress(len(latents), len(videos))
    return [latents[i] for i in range(len(videos))]


def encode_midstream(
    vae: Vae,
    params: Tree,
    videos: Sequence[np.ndarray],
    cfg: CodecConfig = CodecConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    canvases: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Latents of frames that do not stand at the start of their clip, from these frames alone.

    A clip's first latent stands for one frame, later ones for `time_stride` frames each and for
    what the encoder remembers of the frames before. Where those are not given (they are to be
    made), nothing may be remembered of them: the encoder is warmed up by the group's own first
    frame, and the image latent of that warm-up is dropped. Each latent is a function of its own
    `time_stride` frames; training's masks and every sampler take theirs from here.

    videos   uint8 [k * time_stride,H,W,3] each
    canvases as in `encode_clips`
    Returns  float32 [k, h, w, c] each
    Raises   BadInput for frames that do not fill their groups
    """
    stride = vae.cfg.time_stride
    groups: list[np.ndarray] = []
    for video in videos:
        if len(video) % stride or not len(video):
            raise bad("mid-stream latents", f"{len(video)} frames", f"a multiple of {stride}")
        for start in range(0, len(video), stride):
            group = video[start : start + stride]
            groups.append(np.concatenate([group[:1], group]))
    latents = iter(encode_clips(vae, params, groups, cfg, progress, canvases))
    return [
        np.concatenate([next(latents)[1:2] for _ in range(len(video) // stride)])
        for video in videos
    ]


def to_float(video: np.ndarray) -> np.ndarray:
    """uint8 0..255 to float32 -1..1."""
    return np.asarray(video, np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video: np.ndarray) -> np.ndarray:
    """-1..1 to uint8, rounded to nearest; what lies outside takes the nearest value."""
    return np.rint((np.clip(video, -1, 1) + 1) * 127.5).astype(np.uint8)


@functools.partial(jax.jit, static_argnames=("vae",))
def _encode_bytes(
    vae: Vae, params: Tree, state: Any, video_BTHWC: jax.Array, valid_B2: jax.Array
) -> tuple[Any, jax.Array]:
    """`encode_chunk` of uint8 pixels: state and mean."""
    pixels = video_BTHWC.astype(jnp.float32) / jnp.float32(127.5) - jnp.float32(1)
    state, mean, _ = encode_chunk(vae, params, state, pixels, valid_B2)
    return state, mean


def _valid(job: Job, shapes: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """int32 [B,2] size of each clip in latent positions; empty places count as one position."""
    sizes = [shapes[i][1:] for i in job.clips] + [(1, 1)] * (job.batch - len(job.clips))
    return np.asarray(sizes, np.int32)


def _chunks(array: np.ndarray, first: int, size: int) -> Iterator[np.ndarray]:
    """The first frames, then `size` at a time, the last run filled up with its last frame."""
    yield array[:, :first]
    for start in range(first, array.shape[1], size):
        part = array[:, start : start + size]
        missing = size - part.shape[1]
        yield np.concatenate([part, np.repeat(part[:, -1:], missing, 1)], 1) if missing else part


def _multiple(size: int, axis: str) -> int:
    """The size, or the next above it that the mesh divides along this logical axis."""
    return -(-size // ways(axis)) * ways(axis)


def _power_below(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _power_above(n: int) -> int:
    return 1 << (n - 1).bit_length()
