"""What is cut from each clip: native size, aligned to the VAE and patch grid, decided once.

A *piece* is a span of frames of one clip at one size. Aligning crops less than one alignment unit
(space: VAE stride times patch; time: frames are 1 mod the time stride) and never resizes; only a
clip over a limit is resized with its aspect kept, or shortened in time. Pieces follow from the
clip's numbers, the configuration and its seed alone, so every process makes the same ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import clip_key, hash_uniform, stable_hash

LONG = ("truncate", "split")
OVER_TOKENS = ("resize", "shorten")


class ClipColumns(Protocol):
    """The columns of an index that geometry reads, one entry a clip."""

    clip_id: Sequence[str]
    num_frames: np.ndarray
    height: np.ndarray
    width: np.ndarray
    fps: np.ndarray


@dataclass(frozen=True)
class GeometryConfig:
    """How clips become pieces.

    vae_stride       pixels per latent cell (frames, height, width)
    patch            latent cells per token (frames, height, width); frames must be 1
    max_area         pixels of a frame; larger clips are resized, aspect kept; 0 = no limit
    max_frames       frames of a piece; rounded down to 1 mod the time stride; 0 = no limit
    max_tokens       patch tokens of a piece, at most the length of a row
    long             clips over max_frames: "truncate" keeps the head, "split" makes pieces of
                     nearly equal length without a gap
    over_tokens      clips still over max_tokens: "resize" or "shorten" (as `long` says)
    reduced_share    share of clips planned at a smaller scale, drawn from reduced_scales
    decimate_share   share of videos planned at every k-th frame, k drawn from decimate_strides
    seed             of these draws, with the clip id
    """

    vae_stride: tuple[int, int, int] = (4, 8, 8)
    patch: tuple[int, int, int] = (1, 2, 2)
    max_area: int = 768 * 768
    max_frames: int = 129
    max_tokens: int = 76_032
    long: str = "truncate"
    over_tokens: str = "resize"
    reduced_share: float = 0.0
    reduced_scales: tuple[float, ...] = (0.5,)
    decimate_share: float = 0.0
    decimate_strides: tuple[int, ...] = (2,)
    seed: int = 0

    def __post_init__(self) -> None:
        where = "geometry"
        if len(self.vae_stride) != 3 or min(self.vae_stride) < 1:
            raise bad(where, f"vae_stride {self.vae_stride}", "three numbers of at least 1")
        if len(self.patch) != 3 or min(self.patch) < 1 or self.patch[0] != 1:
            raise bad(
                where,
                f"patch {self.patch}",
                "(1, height, width): an image is one latent frame",
                "put time compression into the VAE",
            )
        for name, known in (("long", LONG), ("over_tokens", OVER_TOKENS)):
            if getattr(self, name) not in known:
                raise bad(where, f"{name} {getattr(self, name)!r}", " or ".join(known))
        if self.max_tokens < 1 or self.max_area < 0 or self.max_frames < 0:
            raise bad(where, "a negative limit", "max_tokens >= 1, max_area and max_frames >= 0")
        for name in ("reduced_share", "decimate_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise bad(where, f"{name} {getattr(self, name)}", "between 0 and 1")
        if not self.reduced_scales or not all(0 < s < 1 for s in self.reduced_scales):
            raise bad(where, f"reduced_scales {self.reduced_scales}", "numbers between 0 and 1")
        if not self.decimate_strides or min(self.decimate_strides) < 2:
            raise bad(where, f"decimate_strides {self.decimate_strides}", "whole numbers >= 2")

    @property
    def unit(self) -> tuple[int, int]:
        """Pixels (height, width) of one token: the alignment unit in space."""
        return self.vae_stride[1] * self.patch[1], self.vae_stride[2] * self.patch[2]

    @property
    def hash(self) -> str:
        """16 hex digits over every field."""
        return f"{stable_hash('geometry', sorted(asdict(self).items())):016x}"

    def align_frames(self, frames: Any) -> Any:
        """The largest length <= frames that is 1 mod the time stride."""
        return 1 + (frames - 1) // self.vae_stride[0] * self.vae_stride[0]


@dataclass(frozen=True)
class GeometryReport:
    """Counts of one run of `make_pieces`; frames are source frames, kept = reach a piece."""

    clips: int
    kept_clips: int
    pieces: int
    cropped: int
    resized: int
    reduced: int
    decimated: int
    split: int
    truncated: int
    source_frames: int
    kept_frames: int
    dropped: dict[str, int]

    def lines(self) -> list[str]:
        """The report as text."""
        frames = self.kept_frames / max(1, self.source_frames)
        gone = ", ".join(f"{n} {why}" for why, n in self.dropped.items()) or "none"
        return [
            f"clips kept     {self.kept_clips} of {self.clips} (dropped: {gone})",
            f"source frames  {self.kept_frames} of {self.source_frames} kept ({frames:.1%})",
            f"pieces         {self.pieces} (clips split {self.split}, truncated {self.truncated})",
            f"pixels         clips resized {self.resized}, cropped by less than one unit "
            f"{self.cropped}, at reduced scale {self.reduced}, decimated {self.decimated}",
        ]


@dataclass(frozen=True)
class Pieces:
    """Columns over pieces, in the order (clip, piece).

    clip, piece      row of the index; number of the piece inside the clip
    start_frame      first source frame; then every `stride`-th, `num_frames` of them
    scaled_HW        i32[n,2] frame size after resizing (the native size when not resized)
    size_HW          i32[n,2] frame size after the centred crop that aligns it
    grid             i32[n,3] tokens (t, h, w)
    fps              frames a second after decimation
    """

    clip: np.ndarray
    piece: np.ndarray
    start_frame: np.ndarray
    num_frames: np.ndarray
    stride: np.ndarray
    scaled_HW: np.ndarray
    size_HW: np.ndarray
    grid: np.ndarray
    fps: np.ndarray
    geometry: GeometryConfig

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def tokens(self) -> np.ndarray:
        """i64[n] patch tokens of each piece."""
        return self.grid.astype(np.int64).prod(1)

    @property
    def hash(self) -> str:
        """16 hex digits over every column and the geometry."""
        raw = [np.ascontiguousarray(column).tobytes() for column in self.columns().values()]
        return f"{stable_hash('pieces', self.geometry.hash, *raw):016x}"

    def columns(self) -> dict[str, np.ndarray]:
        """The columns by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "geometry"}

    def keys(self, clip_id: Sequence[str]) -> np.ndarray:
        """u32[n] `clip_key` of each piece, from the clip ids of the index."""
        pairs = zip(self.clip.tolist(), self.piece.tolist(), strict=True)
        return np.array([clip_key(clip_id[c], p, 0) for c, p in pairs], np.uint32)

    def take(self, rows: np.ndarray) -> "Pieces":
        """The pieces at `rows`, in that order."""
        return replace(self, **{name: column[rows] for name, column in self.columns().items()})


def make_pieces(index: ClipColumns, config: GeometryConfig) -> tuple[Pieces, GeometryReport]:
    """Cuts every clip of an index into pieces.

    index    columns clip_id, num_frames (frames), height, width (pixels), fps (frames/s)
    Returns  the pieces and the counts of what was cropped, resized, split and dropped
    Raises   BadInput when nothing remains, with the counts by reason
    """
    frames = np.asarray(index.num_frames, np.int64)
    native = np.stack([np.asarray(index.height), np.asarray(index.width)], 1).astype(np.int64)
    stride, scale = _draws(index, frames, native, config)
    unit = np.array(config.unit)
    factor, resized = _limit_area(native, scale, config)
    scaled = _sizes(native, factor)
    large = (scaled >= unit).all(1) & (frames > 0)
    length = np.maximum(1, -(-frames // stride))
    limit = np.full(len(frames), config.align_frames(config.max_frames or 1 << 40))
    over = large & (_tokens(scaled, np.minimum(length, limit), config) > config.max_tokens)
    if config.over_tokens == "shorten":
        cells = np.maximum(1, (scaled // unit).prod(1))
        fit = config.max_tokens // cells
        limit = np.where(over & (fit > 0), 1 + (fit - 1) * config.vae_stride[0], limit)
        over &= fit == 0
    smaller = _limit_tokens(native * factor[:, None], np.minimum(length, limit), config)
    scaled = np.where(over[:, None], _sizes(native, factor * smaller), scaled)
    resized |= over
    fits = large & (scaled >= unit).all(1)
    reasons = {
        "without frames": frames <= 0,
        f"smaller than one unit of {unit[0]}x{unit[1]} px": (frames > 0) & ~large,
        f"over {config.max_tokens} tokens at any size": large & ~fits,
    }
    dropped = {why: int(rule.sum()) for why, rule in reasons.items() if rule.any()}
    if not fits.any():
        counts = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "no clips"
        raise bad("geometry", f"nothing remains of {len(frames)} clips: {counts}",
                  "at least one clip", "raise max_tokens or use another data set")  # fmt: skip
    pieces = _cut(fits, scaled, length, limit, stride, index, config)
    count = np.bincount(pieces.clip, minlength=len(frames))
    kept = np.bincount(pieces.clip, pieces.num_frames, minlength=len(frames))
    report = GeometryReport(
        clips=len(frames),
        kept_clips=int(fits.sum()),
        pieces=len(pieces),
        cropped=int((fits & (scaled % unit > 0).any(1)).sum()),
        resized=int((fits & resized).sum()),
        reduced=int((fits & (scale < 1)).sum()),
        decimated=int((fits & (stride > 1)).sum()),
        split=int((count > 1).sum()),
        truncated=int((fits & (config.align_frames(length) > limit) & (count == 1)).sum()),
        source_frames=int(frames.sum()),
        kept_frames=int(kept.sum()),
        dropped=dropped,
    )
    return pieces, report


def _draws(
    index: ClipColumns, frames: np.ndarray, native: np.ndarray, config: GeometryConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Stride and scale of each clip, drawn by (seed, clip id)."""
    stride, scale = np.ones(len(frames), np.int64), np.ones(len(frames))
    if config.reduced_share == 0 and config.decimate_share == 0:
        return stride, scale
    ids = np.array([stable_hash(name) for name in index.clip_id], np.uint64)

    def draw(name: str, share: float, choices: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        hit = hash_uniform(config.seed, name, ids) < share
        which = hash_uniform(config.seed, name + " choice", ids) * len(choices)
        return hit, np.asarray(choices)[which.astype(np.int64)]

    hit, scales = draw("reduced scale", config.reduced_share, config.reduced_scales)
    hit &= (native * scales[:, None] >= np.array(config.unit)).all(1)
    scale[hit] = scales[hit]
    hit, strides = draw("decimated rate", config.decimate_share, config.decimate_strides)
    hit &= frames > strides * config.vae_stride[0]
    stride[hit] = strides[hit]
    return stride, scale


def _limit_area(
    native: np.ndarray, scale: np.ndarray, config: GeometryConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Scale of each clip by the area limit and the draw, and which clips were over the limit."""
    area = native.prod(1).astype(np.float64)
    over = area > config.max_area if config.max_area else np.zeros(len(native), bool)
    return np.where(over, np.sqrt((config.max_area or 1) / np.maximum(area, 1)), 1.0) * scale, over


def _sizes(native: np.ndarray, factor: np.ndarray) -> np.ndarray:
    # The small constant keeps 1920 * sqrt(768^2 / (1920 * 1080)) = 1024 from becoming 1023.
    return np.floor(native * factor[:, None] + 1e-6).astype(np.int64)


def _tokens(scaled: np.ndarray, length: np.ndarray, config: GeometryConfig) -> np.ndarray:
    latent_frames = 1 + (length - 1) // config.vae_stride[0]
    return (scaled // np.array(config.unit)).prod(1) * latent_frames


def _limit_tokens(exact: np.ndarray, length: np.ndarray, config: GeometryConfig) -> np.ndarray:
    """Scale that brings a clip's area down to max_tokens.

    exact    f64[n,2] height and width before rounding, which only makes them smaller, as aligning
             does: the limit holds exactly
    """
    latent_frames = 1 + (length - 1) // config.vae_stride[0]
    area = config.max_tokens / latent_frames * float(np.prod(config.unit))
    return np.minimum(1.0, np.sqrt(area / np.maximum(1.0, exact.prod(1))))


def _cut(
    fits: np.ndarray,
    scaled: np.ndarray,
    length: np.ndarray,
    limit: np.ndarray,
    stride: np.ndarray,
    index: ClipColumns,
    config: GeometryConfig,
) -> Pieces:
    """The pieces of the clips in `fits`: one each, or several of those over their limit.

    A clip of F frames in n pieces keeps n + k*stride of them, k = (F - n) // stride of the VAE,
    shared out evenly: it loses fewer frames than one alignment unit in all.
    """
    rows, ts = np.flatnonzero(fits), config.vae_stride[0]
    length, limit, stride = length[rows], limit[rows], stride[rows]
    over = (config.align_frames(length) > limit) & (config.long == "split")
    spans = np.where(over, -(-length // limit), 1)
    units = np.where(over, length - spans, np.minimum(length, limit) - 1) // ts
    of = np.repeat(np.arange(len(rows)), spans)
    number = np.arange(len(of)) - np.repeat(np.cumsum(spans) - spans, spans)
    before, after = units[of] * number // spans[of], units[of] * (number + 1) // spans[of]
    frames = 1 + ts * (after - before)
    start = (number + ts * before) * stride[of]
    clip, unit = rows[of], np.array(config.unit)
    cells = scaled[clip] // unit
    latent_frames = 1 + after - before
    return Pieces(
        clip=clip.astype(np.int32),
        piece=number.astype(np.int32),
        start_frame=start.astype(np.int32),
        num_frames=frames.astype(np.int32),
        stride=stride[of].astype(np.int32),
        scaled_HW=scaled[clip].astype(np.int32),
        size_HW=(cells * unit).astype(np.int32),
        grid=np.concatenate([latent_frames[:, None], cells], 1).astype(np.int32),
        fps=(np.asarray(index.fps, np.float64)[clip] / stride[of]).astype(np.float32),
        geometry=config,
    )
