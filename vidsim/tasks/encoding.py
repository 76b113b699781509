"""Writing the latent cache of an index: every piece through the VAE, every caption tokenised."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vidsim.core.canvas import choose_canvases
from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.data.geometry import GeometryConfig, GeometryReport, Pieces, make_pieces
from vidsim.data.index import ClipIndex
from vidsim.data.tokenizer import Tokenizer, frequent_words
from vidsim.models.codec import CodecConfig, encode_clips, encode_midstream
from vidsim.models.vae import Tree, Vae
from vidsim.store.cache_format import CacheMeta, Captions
from vidsim.store.shard_writer import CacheWriter
from vidsim.store.shards import LatentCache

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """How an index becomes latents.

    max_area, max_frames, ...   see GeometryConfig; the VAE's stride is filled in from the VAE
    patch        latent cells of a token
    max_text     longest caption in byte tokens; longer ones are cut, and counted
    words        so many of the most frequent words of the captions become tokens of their own
    words_from   a cache whose vocabulary is taken instead; "" for none
    dtype        of latents on disk
    midstream    also store what each latent is when its frames are given away from the start (for
                 suffix, last-frame and join masks); takes twice the space and three times the work
    shards       0 = about 256 MB each
    group        pieces read and encoded together
    """

    geometry: GeometryConfig = GeometryConfig()
    max_text: int = 512
    words: int = 0
    words_from: str = ""
    dtype: str = "bfloat16"
    midstream: bool = False
    shards: int = 0
    group: int = 64
    read_threads: int = 2
    codec: CodecConfig = dataclasses.field(default_factory=CodecConfig)

    def __post_init__(self) -> None:
        for name, least in {"max_text": 1, "group": 1, "read_threads": 1, "words": 0}.items():
            if getattr(self, name) < least:
                raise bad(f"encode.{name}", f"{getattr(self, name)}", f"at least {least}")


@dataclasses.dataclass(frozen=True)
class EncodePlan:
    """What will be written, known before anything is.

    cut_captions   captions longer than max_text
    bytes          forecast size of the shards
    """

    writer: CacheWriter
    pieces: Pieces
    report: GeometryReport
    captions: Captions
    cut_captions: int
    bytes: int


def plan_cache(
    index: ClipIndex,
    vae: Vae,
    vae_hash: str,
    statistics: Mapping[str, Any],
    out: str | os.PathLike[str],
    config: EncodeConfig,
) -> EncodePlan:
    """Cuts the pieces, counts the captions and opens the cache folder.

    statistics  {"mean": [c], "std": [c], "gain": [c]} of the VAE's latents; gain may be absent
    Raises      BadInput when nothing remains, the folder holds another cache, or the disk is too
                small
    """
    stride = (vae.cfg.time_stride, vae.cfg.space_stride, vae.cfg.space_stride)
    geometry = dataclasses.replace(config.geometry, vae_stride=stride)
    pieces, report = make_pieces(index, geometry)
    tokenizer = make_tokenizer(index, config)
    captions, cut = _captions(index, tokenizer)
    meta = CacheMeta(
        vae_hash=vae_hash, vae=f"{vae.cfg.latent_channels} channels, stride {stride}",
        geometry=dataclasses.asdict(geometry), geometry_hash=geometry.hash,
        pieces_hash=f"{stable_hash(pieces.hash, index.hash):016x}",
        text_hash=f"{tokenizer.hash}-{config.max_text}", text="tokens", text_width=0,
        words=tokenizer.words,
        patch=geometry.patch, channels=vae.cfg.latent_channels, dtype=config.dtype,
        latent_mean=tuple(statistics["mean"]), latent_std=tuple(statistics["std"]),
        latent_gain=tuple(statistics.get("gain", ())), midstream=config.midstream,
    )  # fmt: skip
    columns = pieces.columns() | {"clip_key": pieces.keys(index.clip_id)}
    writer = CacheWriter(out, meta, columns, index.clip_id, captions, config.shards)
    return EncodePlan(writer, pieces, report, captions, cut, writer.bytes)


def write_cache(
    plan: EncodePlan,
    index: ClipIndex,
    vae: Vae,
    params: Tree,
    config: EncodeConfig,
    *,
    process: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> int:
    """Writes the shards of this process that are not whole yet; returns how many it wrote.

    progress  called with (pieces done, pieces to do) of this process
    """
    writer = plan.writer
    missing = writer.missing(process, processes)
    total, done = sum(len(writer.pieces_of(k)) for k in missing), 0
    tokenizer = Tokenizer(config.max_text, plan.writer.meta.words)
    sizes = plan.pieces.size_HW // vae.cfg.space_stride
    canvases, canvas_of = choose_canvases(sizes, config.codec.canvases)
    for shard in missing:
        with writer.open_shard(shard) as out:
            for number in writer.captions_of(shard).tolist():
                out.put_text(number, tokenizer.encode(plan.captions.text[number]))
            numbers = writer.pieces_of(shard)
            for group, videos in _read_ahead(index, plan.pieces, numbers, canvas_of, config):
                latents = encode_clips(vae, params, videos, config.codec, canvases=canvases)
                late = _midstream(vae, params, videos, latents, config, canvases)
                for number, latent_thwc, late_thwc in zip(group, latents, late, strict=True):
                    out.put_latent(number, latent_thwc, late_thwc)
                done += len(group)
                if progress:
                    progress(done, total)
    return len(missing)


def _midstream(
    vae: Vae,
    params: Tree,
    videos: list[np.ndarray],
    latents: list[np.ndarray],
    config: EncodeConfig,
    canvases: np.ndarray,
) -> list[np.ndarray] | list[None]:
    """Mid-stream latents of each clip; its first frame, which has a latent alone, keeps that."""
    if not config.midstream:
        return [None] * len(videos)
    longer = [video[1:] for video in videos if len(video) > 1]
    made = iter(encode_midstream(vae, params, longer, config.codec, canvases=canvases)
                if longer else [])  # fmt: skip
    return [
        np.concatenate([latent[:1], next(made)]) if len(video) > 1 else latent
        for video, latent in zip(videos, latents, strict=True)
    ]


def read_piece(index: ClipIndex, pieces: Pieces, number: int) -> np.ndarray:
    """The pixels of one piece, u8[T,H,W,3]: resized if it was planned so, cropped at the centre."""
    clip = int(pieces.clip[number])
    scaled, size = pieces.scaled_HW[number].tolist(), pieces.size_HW[number].tolist()
    native = [int(index.height[clip]), int(index.width[clip])]
    top, left = ((a - b) // 2 for a, b in zip(scaled, size, strict=True))
    return index.read(
        clip,
        int(pieces.start_frame[number]),
        int(pieces.num_frames[number]),
        int(pieces.stride[number]),
        resize=None if scaled == native else tuple(scaled),
        crop=None if scaled == size else (top, left, size[0], size[1]),
    )


def _read_ahead(
    index: ClipIndex,
    pieces: Pieces,
    numbers: np.ndarray,
    canvas_of: np.ndarray,
    config: EncodeConfig,
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Groups of pieces with their pixels; the next group is read while one is encoded."""
    # Pieces of one canvas and like duration together, so that little is coded for nothing; the
    # shard writer restores the order. A large block bounds what waits in memory.
    block = config.group * 16
    groups = []
    for start in range(0, len(numbers), block):
        part = numbers[start : start + block]
        order = np.lexsort((pieces.num_frames[part], canvas_of[part]))
        groups += [part[order[i : i + config.group]].tolist()
                   for i in range(0, len(part), config.group)]  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(config.read_threads) as pool:

        def submit(group: list[int]) -> list[concurrent.futures.Future[np.ndarray]]:
            return [pool.submit(read_piece, index, pieces, n) for n in group]

        ahead = submit(groups[0])
        for number, group in enumerate(groups):
            current = ahead
            if number + 1 < len(groups):
                ahead = submit(groups[number + 1])
            yield group, [future.result() for future in current]


def make_tokenizer(index: ClipIndex, config: EncodeConfig) -> Tokenizer:
    """The tokenizer of a cache: the words of another cache, or those of the index's captions."""
    if config.words_from:
        words = tuple(LatentCache.open(config.words_from).meta.words)
    else:
        texts = (caption.text for clip in range(len(index)) for caption in index.captions(clip))
        words = frequent_words(texts, config.words) if config.words else ()
    return Tokenizer(config.max_text, words)


def _captions(index: ClipIndex, tokenizer: Tokenizer) -> tuple[Captions, int]:
    """Captions of every clip, and how many are cut; a clip without one gets the empty caption."""
    texts: list[str] = []
    kinds: list[str] = []
    start = [0]
    for clip in range(len(index)):
        found = index.captions(clip)
        texts += [c.text for c in found] or [""]
        kinds += [c.kind for c in found] or ["none"]
        start.append(len(texts))
    counts = np.array([tokenizer.count(text) for text in texts], np.int32)
    most = tokenizer.max_tokens
    tokens = np.array(
        [n if n <= most else len(tokenizer.encode(t))
         for n, t in zip(counts.tolist(), texts, strict=True)], np.int32,
    )  # fmt: skip
    captions = Captions(np.array(start, np.int64), texts, kinds, tokens)
    return captions, int((counts > most).sum())
