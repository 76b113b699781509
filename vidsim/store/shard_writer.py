"""Writing a latent cache: shards appear under their names only when they are whole.

An interrupted run goes on with the missing ones, and any number of processes may each write their
own. The layout is in store/cache_format.py; store/shards.py reads it.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
from array_record.python import array_record_module

from vidsim.core.errors import bad
from vidsim.store.cache_format import (
    META,
    WRITER_OPTIONS,
    CacheMeta,
    Captions,
    check_columns,
    encode,
    forecast_bytes,
    incomplete,
    local_folder,
    read_meta,
    shard_path,
    share,
    write_columns,
    write_meta,
)

SHARD_BYTES = 256 << 20


class CacheWriter:
    """Writes a cache, shard by shard.

    folder      the cache's folder; made when missing
    pieces      columns of the pieces (those of data/geometry.py and clip_key)
    clip_id     names of the clips of the index
    shards      number of shards; 0 = about 256 MB each
    Raises      BadInput when the folder holds another cache, is remote, or lacks the space
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        meta: CacheMeta,
        pieces: Mapping[str, np.ndarray],
        clip_id: Sequence[str],
        captions: Captions,
        shards: int = 0,
    ) -> None:
        self.folder = local_folder(folder)
        self.meta = dataclasses.replace(meta, captions_hash=captions.hash)
        self.grid, self.captions = np.asarray(pieces["grid"]), captions
        self.bytes = forecast_bytes(self.grid, captions, meta)
        check_columns(pieces, clip_id, captions)
        if (self.folder / META).exists():
            there, shards = read_meta(self.folder)
            if difference := there.differs(self.meta):
                raise bad(
                    f"cache {self.folder}",
                    f"holds another cache: {difference}",
                    "the same VAE, geometry, text and pieces",
                    "choose another --out",
                )
            self.shards = shards
        else:
            self._check_space()
            self.shards = max(1, min(shards or -(-self.bytes // SHARD_BYTES), len(self.grid)))
            write_columns(self.folder, pieces, clip_id, captions)
            write_meta(self.folder, self.meta, self.shards)

    def missing(self, process: int = 0, processes: int = 1) -> list[int]:
        """Shards of a process that are not whole yet; shard k belongs to process k mod processes.

        Removes what an interrupted run of the same process left unfinished.
        """
        mine = range(process, self.shards, processes)
        for k in mine:
            for name in ("latents", "text"):
                path = shard_path(self.folder, name, k, self.shards)
                path.with_suffix(".part").unlink(missing_ok=True)
        counts = (len(self.grid), len(self.captions.tokens))
        return incomplete(self.folder, mine, self.shards, *counts)

    def pieces_of(self, shard: int) -> np.ndarray:
        """The pieces whose latents belong to a shard."""
        return np.arange(*share(len(self.grid), shard, self.shards))

    def captions_of(self, shard: int) -> np.ndarray:
        """The captions whose tokens or embeddings belong to a shard."""
        return np.arange(*share(len(self.captions.tokens), shard, self.shards))

    def open_shard(self, shard: int) -> "ShardWriter":
        """Starts a shard; use it in a `with` statement."""
        return ShardWriter(self, shard)

    def _check_space(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < 1.05 * self.bytes:
            raise bad(
                f"cache {self.folder}",
                f"needs {self.bytes / 1e9:.2f} GB",
                f"{free / 1e9:.2f} GB are free",
                "free space or use dtype bfloat16",
            )


class ShardWriter:
    """One shard being written. Records may come in any order; they are written in theirs."""

    def __init__(self, cache: CacheWriter, shard: int) -> None:
        self._cache = cache
        self._latents = _Stream(cache, "latents", shard, cache.pieces_of(shard))
        self._text = _Stream(cache, "text", shard, cache.captions_of(shard))

    def put_latent(
        self, piece: int, latent_thwc: np.ndarray, midstream_thwc: np.ndarray | None = None
    ) -> None:
        """Adds a piece's latent. Raises BadInput for a wrong shape or numbers that do not fit.

        midstream_thwc  its latent for frames given away from the start, if the cache holds such
        """
        meta = self._cache.meta
        if (midstream_thwc is None) == meta.midstream or (
            midstream_thwc is not None and midstream_thwc.shape != latent_thwc.shape
        ):
            allowed = "of the latent's shape" if meta.midstream else "none in this cache"
            raise bad("latent cache", f"piece {piece}: mid-stream latents", allowed)
        shape = (*(self._cache.grid[piece] * np.array(meta.patch)).tolist(), meta.channels)
        if latent_thwc.shape != shape:
            raise bad(
                "latent cache",
                f"piece {piece} has a latent of shape {latent_thwc.shape}",
                f"{shape} as its geometry says",
            )
        raw = encode(latent_thwc, meta.dtype, f"latent of piece {piece}")
        if midstream_thwc is not None:
            raw += encode(midstream_thwc, meta.dtype, f"mid-stream latent of piece {piece}")
        self._latents.put(piece, raw)

    def put_text(self, caption: int, tokens: np.ndarray) -> None:
        """Adds a caption: tokens i32[m], or the embedding f32[m,E] of a frozen encoder."""
        meta, count = self._cache.meta, int(self._cache.captions.tokens[caption])
        shape = (count, meta.text_width) if meta.text_width else (count,)
        if tokens.shape != shape:
            raise bad(
                "latent cache",
                f"caption {caption} has text of shape {tokens.shape}",
                f"{shape} as the index counted",
            )
        if meta.text_width:
            raw = encode(tokens, meta.dtype, f"embedding of caption {caption}")
        else:
            raw = tokens.astype("<i4").tobytes()
        self._text.put(caption, raw)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self._text.finish()
            self._latents.finish()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Drops what was written."""
        self._latents.discard()
        self._text.discard()


class _Stream:
    """Records of one file: held until their turn, written under a temporary name."""

    def __init__(self, cache: CacheWriter, name: str, shard: int, wanted: np.ndarray) -> None:
        self._path = shard_path(cache.folder, name, shard, cache.shards)
        self._part = self._path.with_suffix(".part")
        self._next, self._end = (int(wanted[0]), int(wanted[-1]) + 1) if len(wanted) else (0, 0)
        self._waiting: dict[int, bytes] = {}
        self._file = array_record_module.ArrayRecordWriter(str(self._part), WRITER_OPTIONS)

    def put(self, number: int, raw: bytes) -> None:
        if not self._next <= number < self._end or number in self._waiting:
            raise bad(
                "latent cache",
                f"record {number} of {self._path.name} comes twice or belongs elsewhere",
                f"each of {self._next}..{self._end - 1} once",
            )
        self._waiting[number] = raw
        while self._next in self._waiting:
            self._file.write(self._waiting.pop(self._next))
            self._next += 1

    def finish(self) -> None:
        if self._next < self._end:
            raise bad(
                "latent cache",
                f"{self._path.name} lacks record {self._next}",
                f"all up to {self._end - 1}",
            )
        self._file.close()
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)

    def discard(self) -> None:
        if self._file.is_open():
            self._file.close()
        self._part.unlink(missing_ok=True)
