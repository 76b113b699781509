"""Several latent caches read as one: images here, clips there, each encoded once and mixed freely.

Pieces, clips and captions of a later cache are numbered on from those before it. Nothing is copied:
a read goes to the cache that holds the piece.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.store.cache_format import CacheMeta
from vidsim.store.shards import LatentCache

# What may differ between caches that train one denoiser: what was cut from which clips.
OWN = ("geometry", "geometry_hash", "pieces_hash", "captions_hash", "dtype")


def open_caches(
    folder: str | os.PathLike[str],
    more: Sequence[str | os.PathLike[str]] = (),
    expect_vae_hash: str | None = None,
) -> "LatentCache | JoinedCache":
    """The cache of a folder, joined with those of further folders.

    Raises  BadInput as `LatentCache.open`, and for caches that one denoiser cannot train on
    """
    first = LatentCache.open(folder, expect_vae_hash)
    rest = [LatentCache.open(path, first.meta.vae_hash) for path in more]
    return JoinedCache((first, *rest)) if rest else first


class JoinedCache:
    """Caches of one autoencoder and one tokenizer. Implements data/assemble.py's `LatentSource`.

    `meta` and `folder` are the first cache's: what a denoiser takes from a cache is the same in
    all, see `OWN`. Every piece has the same weight, so a larger cache is drawn from more often.

    Raises  BadInput for caches of different latents or text, and for a cache given twice
    """

    def __init__(self, parts: Sequence[LatentCache]) -> None:
        first = parts[0]
        for k, part in enumerate(parts[1:], 1):
            if fact := _alike(first.meta, part.meta).differs(first.meta):
                raise bad(f"cache {part.folder}", f"cannot be joined with {first.folder}: {fact}",
                          "caches of one autoencoder and one vocabulary",
                          "encode it with the other's --vae and words_from")  # fmt: skip
            if part.hash in {other.hash for other in parts[:k]}:
                raise bad(f"cache {part.folder}", "is given twice", "each cache once")
        self.parts, self.meta, self.folder = tuple(parts), first.meta, first.folder
        self.patch, self.channels, self.text_width = first.patch, first.channels, first.text_width
        self.pieces = {
            name: np.concatenate([part.pieces[name] for part in parts]) for name in first.pieces
        }
        clips = np.array([len(part.clip_hash) for part in parts])
        self.pieces["clip"] = np.concatenate(
            [part.clip + start for part, start in zip(parts, _starts(clips)[:-1], strict=True)]
        ).astype(first.clip.dtype)
        self.clip, self.grid, self.fps = (self.pieces[name] for name in ("clip", "grid", "fps"))
        self.size_HW, self.clip_key = self.pieces["size_HW"], self.pieces["clip_key"]
        self.clip_hash = np.concatenate([part.clip_hash for part in parts])
        self._join_captions()
        self._piece_start = _starts(np.array([len(part) for part in parts]))

    def _join_captions(self) -> None:
        parts = self.parts
        self.text_tokens = np.concatenate([part.text_tokens for part in parts])
        self._caption_start = _starts(np.array([len(part.text_tokens) for part in parts]))
        starts = [
            part.caption_start[:-1] + start
            for part, start in zip(parts, self._caption_start[:-1], strict=True)
        ]
        self.caption_start = np.concatenate([*starts, self._caption_start[-1:]])
        self.kinds = tuple(sorted({kind for part in parts for kind in part.kinds}))
        number = {kind: k for k, kind in enumerate(self.kinds)}
        self.caption_kind = np.concatenate(
            [np.array([number[k] for k in p.kinds], np.int16)[p.caption_kind] for p in parts]
        )

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def hash(self) -> str:
        """Names the content for plans: the caches in their order."""
        return "+".join(part.hash for part in self.parts)

    @property
    def has_midstream(self) -> bool:
        """Whether mid-stream latents lie beside the latents, in all caches or in none."""
        return self.parts[0].has_midstream

    def latents(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The latents [t,h,w,c] of some pieces, in the number format of their cache."""
        return self._gather(pieces, self._piece_start, lambda part: part.latents)

    def midstream(self, pieces: np.ndarray) -> list[np.ndarray]:
        """The mid-stream latents [t,h,w,c] of some pieces; only where `has_midstream`."""
        return self._gather(pieces, self._piece_start, lambda part: part.midstream)

    def captions(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The tokens i32[m], or embeddings [m,E], of some captions."""
        return self._gather(numbers, self._caption_start, lambda part: part.captions)

    def _gather(
        self,
        numbers: np.ndarray,
        starts: np.ndarray,
        read: Callable[[LatentCache], Callable[[np.ndarray], list[np.ndarray]]],
    ) -> list[np.ndarray]:
        numbers = np.asarray(numbers, np.int64)
        owner = np.searchsorted(starts, numbers, "right") - 1
        found: dict[int, np.ndarray] = {}
        for k in np.unique(owner).tolist():
            at = np.flatnonzero(owner == k)
            found |= zip(at.tolist(), read(self.parts[k])(numbers[at] - starts[k]), strict=True)
        return [found[i] for i in range(len(numbers))]

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes open the folders again instead of receiving the columns.
        return JoinedCache, (self.parts,)


def _alike(first: CacheMeta, other: CacheMeta) -> CacheMeta:
    """`other` with what may differ taken from `first`."""
    return dataclasses.replace(other, **{name: getattr(first, name) for name in OWN})


def _starts(counts: np.ndarray) -> np.ndarray:
    """i64[n+1]: where each part starts, and the end."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
