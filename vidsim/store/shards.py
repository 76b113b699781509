"""The latent cache: latents and captions of every piece, in ArrayRecord shards.

A cache folder is self-contained: training needs neither the videos nor their index. A shard
appears under its name only when it is whole, so an interrupted run goes on with the missing ones,
and any number of processes may each write their own. The layout is in store/cache_format.py.
"""

import dataclasses
import os
import pathlib
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from vidsim.core.errors import bad
from vidsim.store.cache_format import (
    DTYPES,
    META,
    WRITER_OPTIONS,
    CacheMeta,
    Captions,
    check_columns,
    decode,
    encode,
    forecast_bytes,
    is_whole,
    local_folder,
    read_captions,
    read_meta,
    read_pieces,
    shard_path,
    share,
    within,
    write_columns,
    write_meta,
)

SHARD_BYTES = 256 << 20
OPEN_TIMEOUT_S = 60.0


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
        return _incomplete(self.folder, mine, self.shards, *counts)

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


class LatentCache:
    """A finished cache, read by piece. Implements data/assemble.py's `LatentSource`.

    Safe to read from several threads, and to send to worker processes.
    """

    def __init__(self, folder: pathlib.Path, timeout_s: float) -> None:
        self.folder, self._timeout_s = folder, timeout_s
        self.meta, self.shards = read_meta(folder)
        columns = read_pieces(folder)
        self.pieces = columns
        self.clip, self.grid, self.fps = columns["clip"], columns["grid"], columns["fps"]
        self.size_HW, self.clip_key = columns["size_HW"], columns["clip_key"]
        self.patch, self.channels = self.meta.patch, self.meta.channels
        self.text_width = self.meta.text_width
        captions = read_captions(folder)
        clips = int(max(self.clip.max(), captions["clip"].max(initial=0))) + 1
        self.clip_hash = np.zeros(clips, np.uint64)
        self.clip_hash[self.clip] = columns["clip_hash"]
        count = np.bincount(captions["clip"], minlength=clips)
        self.caption_start = np.concatenate([[0], np.cumsum(count)])
        self.kinds = tuple(sorted(set(captions["kind"])))
        kinds = np.array(self.kinds, object)
        self.caption_kind = np.searchsorted(kinds, captions["kind"]).astype(np.int16)
        self.text_tokens = captions["tokens"]
        self._forget()

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        expect_vae_hash: str | None = None,
        timeout_s: float = OPEN_TIMEOUT_S,
    ) -> "LatentCache":
        """Opens a cache and checks that every shard is whole.

        Raises  BadInput for a remote path, a missing or cut shard, a folder that does not answer
                within timeout_s, or latents of another VAE than `expect_vae_hash`
        """
        path = local_folder(folder)
        cache = within(timeout_s, f"cache {path}", lambda: cls(path, timeout_s))
        if expect_vae_hash is not None and cache.meta.vae_hash != expect_vae_hash:
            raise bad(
                f"cache {path}",
                f"made with VAE {cache.meta.vae} ({cache.meta.vae_hash})",
                f"VAE {expect_vae_hash} is in use",
                "encode again or use that VAE",
            )
        counts = (len(cache.grid), len(cache.text_tokens))
        broken = within(
            timeout_s,
            f"cache {path}",
            lambda: _incomplete(path, range(cache.shards), cache.shards, *counts),
        )
        if broken:
            names = ", ".join(shard_path(path, "latents", k, cache.shards).name for k in broken[:3])
            raise bad(
                f"cache {path}",
                f"{len(broken)} of {cache.shards} shards missing or cut: {names}",
                "all of them",
                "run `vidsim encode` again to complete it",
            )
        return cache

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def hash(self) -> str:
        """Names the cache's content for plans: pieces, captions and VAE."""
        meta = self.meta
        return "-".join((meta.pieces_hash, meta.captions_hash, meta.text_hash, meta.vae_hash))

    def latent(self, piece: int) -> np.ndarray:
        """f32[t,h,w,c] of one piece."""
        return self.latents(np.array([piece]))[0].astype(np.float32)

    def latents(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The latents [t,h,w,c] of some pieces, in the number format of the cache."""
        return [pair[0] for pair in self._pairs(pieces)]

    @property
    def has_midstream(self) -> bool:
        """Whether mid-stream latents lie beside the latents."""
        return self.meta.midstream

    def midstream(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The mid-stream latents [t,h,w,c] of some pieces; only where `has_midstream`."""
        return [pair[1] for pair in self._pairs(pieces)]

    def _pairs(self, pieces: np.ndarray) -> list[np.ndarray]:
        """What is stored of each piece: [1,t,h,w,c], or [2,t,h,w,c] with mid-stream latents."""
        records = self._read("latents", len(self), pieces)
        dtype, kinds = DTYPES[self.meta.dtype], 1 + self.meta.midstream
        shapes = self.grid[pieces] * np.array(self.patch)
        return [
            decode(raw, dtype, (kinds, *map(int, shape), self.channels), self.folder)
            for raw, shape in zip(records, shapes, strict=True)
        ]

    def captions(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The tokens i32[m], or embeddings [m,E], of some captions."""
        records = self._read("text", len(self.text_tokens), numbers)
        counts = self.text_tokens[numbers].tolist()
        if self.text_width:
            dtype = DTYPES[self.meta.dtype]
            return [
                decode(raw, dtype, (m, self.text_width), self.folder)
                for raw, m in zip(records, counts, strict=True)
            ]
        return [
            decode(raw, np.int32, (m,), self.folder) for raw, m in zip(records, counts, strict=True)
        ]

    def _read(self, name: str, total: int, numbers: np.ndarray) -> list[bytes]:
        numbers = np.asarray(numbers, np.int64)
        bounds = np.arange(self.shards + 1) * total // self.shards
        shard = np.searchsorted(bounds, numbers, "right") - 1
        result: list[bytes] = [b""] * len(numbers)
        for k in np.unique(shard).tolist():
            at = np.flatnonzero(shard == k)
            local = (numbers[at] - bounds[k]).tolist()
            try:
                found = self._reader(name, k).read(local)
            except (RuntimeError, ValueError, IndexError) as error:
                path = shard_path(self.folder, name, k, self.shards)
                raise bad(
                    f"cache {path}",
                    f"cannot be read ({str(error)[:120]})",
                    "",
                    "delete this shard and run `vidsim encode` again",
                ) from error
            for i, raw in zip(at.tolist(), found, strict=True):
                result[i] = raw
        return result

    def _reader(self, name: str, shard: int) -> Any:
        with self._lock:
            key = (name, shard)
            if key not in self._readers:
                path = shard_path(self.folder, name, shard, self.shards)
                self._readers[key] = within(self._timeout_s, f"cache {path}", lambda: _open(path))
            return self._readers[key]

    def _forget(self) -> None:
        self._readers: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "timeout_s": self._timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _incomplete(
    folder: pathlib.Path, numbers: range, shards: int, pieces: int, captions: int
) -> list[int]:
    """Those of some shards whose files are missing or do not hold their share of the records."""
    files = (("latents", pieces), ("text", captions))

    def whole(name: str, total: int, shard: int) -> bool:
        low, high = share(total, shard, shards)
        return is_whole(shard_path(folder, name, shard, shards), high - low)

    return [k for k in numbers if not all(whole(name, total, k) for name, total in files)]


def _open(path: pathlib.Path) -> Any:
    return array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
