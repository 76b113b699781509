"""The latent cache: latents and captions of every piece, in ArrayRecord shards.

A cache folder is self-contained: training needs neither the videos nor their index. Written by
store/shard_writer.py; the layout is in store/cache_format.py.
"""

import os
import pathlib
import threading
from typing import Any

import numpy as np
from array_record.python import array_record_module

from vidsim.core.errors import bad
from vidsim.store.cache_format import (
    DTYPES,
    decode,
    incomplete,
    local_folder,
    read_captions,
    read_meta,
    read_pieces,
    shard_path,
    within,
)

OPEN_TIMEOUT_S = 60.0


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
            lambda: incomplete(path, range(cache.shards), cache.shards, *counts),
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


def _open(path: pathlib.Path) -> Any:
    return array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
