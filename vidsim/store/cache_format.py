"""The layout of a latent cache on disk: names, identity, columns, number formats.

cache.json                        identity (VAE, geometry, text encoder), statistics, number format
pieces.parquet, captions.parquet  the columns
latents-00000-of-00008.arrayrecord   one record a piece: the raw bytes of its latent [t,h,w,c],
                                  then (where `midstream`) of its mid-stream latent [t,h,w,c]
text-00000-of-00008.arrayrecord      one record a caption: tokens i32[m] or embedding [m,E]

Shard k of K holds the k-th equal share of the pieces and of the captions.
"""

import io
import json
import os
import pathlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module

from vidsim.core.errors import bad, nearest
from vidsim.core.host_random import stable_hash
from vidsim.store.manifest import write_atomic

T = TypeVar("T")
META = "cache.json"
FORMAT = 1
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
# One record a group gives random access; latents hardly compress, and plain records read faster.
WRITER_OPTIONS = "group_size:1,uncompressed"
PIECE_COLUMNS = {
    "clip": (np.int32, 1), "piece": (np.int32, 1), "start_frame": (np.int32, 1),
    "num_frames": (np.int32, 1), "stride": (np.int32, 1), "scaled_HW": (np.int32, 2),
    "size_HW": (np.int32, 2), "grid": (np.int32, 3), "fps": (np.float32, 1),
    "clip_key": (np.uint32, 1),
}  # fmt: skip


@dataclass(frozen=True)
class CacheMeta:
    """What the latents of a cache are.

    vae_hash, vae      hash and name of the weights that made them
    geometry           the geometry configuration as plain data; `geometry_hash` names it
    pieces_hash        hash of the columns of pieces
    text_hash, text    hash and name of the tokenizer or the frozen text encoder
    text_width         width of a caption's embedding; 0 when captions are tokens
    words              vocabulary beyond bytes of the tokens, in the order of their ids
    patch              latent cells per token (t, h, w)
    channels           latent channels
    dtype              float16, bfloat16 or float32: latents and embeddings on disk
    latent_gain   how much each channel moves pixels; empty where it was not measured
    latent_mean, latent_std   per channel, of the VAE's checkpoint
    midstream          a second latent of each piece lies beside the first: that of
                       `models.codec.encode_midstream`, for frames given away from the start
    captions_hash      hash of the captions; the writer fills it in
    """

    vae_hash: str
    vae: str
    geometry: Mapping[str, Any]
    geometry_hash: str
    pieces_hash: str
    text_hash: str
    text: str
    text_width: int
    patch: tuple[int, int, int]
    channels: int
    dtype: str
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    latent_gain: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    midstream: bool = False
    captions_hash: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise bad("latent cache", f"dtype {self.dtype!r}", nearest(self.dtype, DTYPES))
        for name in ("latent_mean", "latent_std"):
            count = len(getattr(self, name))
            if count != self.channels:
                raise bad("latent cache", f"{name} has {count} numbers", f"{self.channels}")

    def differs(self, other: "CacheMeta") -> str:
        """The first fact in which two caches differ, "" when none."""
        mine, theirs = (json.loads(json.dumps(asdict(m))) for m in (self, other))
        names = [f.name for f in fields(self) if mine[f.name] != theirs[f.name]]
        return f"{names[0]} {mine[names[0]]} there, {theirs[names[0]]} here" if names else ""


@dataclass(frozen=True)
class Captions:
    """Captions of all clips, clip after clip.

    start   i64[clips + 1] first caption of each clip of the index; at least one a clip in use
    text    the words
    kind    what sort of caption each is
    tokens  i32[captions] text tokens of each, at least 1
    """

    start: np.ndarray
    text: Sequence[str]
    kind: Sequence[str]
    tokens: np.ndarray

    @property
    def hash(self) -> str:
        """16 hex digits over every caption."""
        raw = (np.asarray(self.start, np.int64).tobytes(), self.tokens.astype(np.int32).tobytes())
        words = "\0".join(self.text).encode(), "\0".join(self.kind).encode()
        return f"{stable_hash('captions', *raw, *words):016x}"


def forecast_bytes(grid: np.ndarray, captions: Captions, meta: CacheMeta) -> int:
    """Bytes that the shards of a cache will take (without ArrayRecord's framing, below 3%)."""
    size = np.dtype(DTYPES[meta.dtype]).itemsize
    cells = int(grid.astype(np.int64).prod(1).sum()) * int(np.prod(meta.patch)) * meta.channels
    text = int(captions.tokens.astype(np.int64).sum())
    cells *= 2 if meta.midstream else 1
    return cells * size + text * (meta.text_width * size if meta.text_width else 4)


def local_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The folder as a path. Raises BadInput for an address such as gs://, which cannot be read."""
    if re.match(r"[a-z][a-z0-9]+:/", os.fspath(folder)):
        raise bad(
            "latent cache",
            f"{os.fspath(folder)} is remote",
            "a local folder or a mounted bucket",
            "mount the bucket (gcsfuse) or copy the cache",
        )
    return pathlib.Path(folder)


def within(timeout_s: float, where: str, action: Callable[[], T]) -> T:
    """The result of `action`, or BadInput when it takes longer (a mount that does not answer)."""
    result: list[T] = []
    failure: list[BaseException] = []

    def act() -> None:
        try:
            result.append(action())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise bad(where, f"no answer within {timeout_s:g} s", "a disk or mount that answers")
    if failure:
        raise failure[0]
    return result[0]


def share(total: int, shard: int, shards: int) -> tuple[int, int]:
    """First record of a shard and the one after its last."""
    return shard * total // shards, (shard + 1) * total // shards


def shard_path(folder: pathlib.Path, name: str, shard: int, shards: int) -> pathlib.Path:
    """File of a shard of "latents" or "text"."""
    return folder / f"{name}-{shard:05d}-of-{shards:05d}.arrayrecord"


def is_whole(path: pathlib.Path, records: int) -> bool:
    """Whether a shard exists with this many records; one cut short opens with none."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError):
        return False
    return count == records


def write_meta(folder: pathlib.Path, meta: CacheMeta, shards: int) -> None:
    """Writes cache.json, last of all: a folder without it is no cache."""
    body = {"format": FORMAT, "shards": shards, "meta": asdict(meta)}
    write_atomic(folder / META, json.dumps(body, indent=1).encode())


def read_meta(folder: pathlib.Path) -> tuple[CacheMeta, int]:
    """Identity and number of shards. Raises BadInput when the folder is no cache of this format."""
    path = folder / META
    if not path.is_file():
        raise bad(f"cache {folder}", f"no {META}", "a folder that `vidsim encode` made")
    try:
        body = json.loads(path.read_bytes())
        found, shards, meta = body["format"], int(body["shards"]), dict(body["meta"])
        for name in ("patch", "latent_mean", "latent_std", "latent_gain"):
            meta[name] = tuple(meta[name])
        meta["words"] = tuple(meta.get("words", ()))  # bytes alone in older caches
        parsed = CacheMeta(**meta) if found == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise bad(f"cache {path}", f"cannot be read ({error})", "", "encode again") from error
    if parsed is None:
        raise bad(f"cache {path}", f"format {found}", f"format {FORMAT}", "encode again")
    return parsed, shards


def write_columns(
    folder: pathlib.Path,
    pieces: Mapping[str, np.ndarray],
    clip_id: Sequence[str],
    captions: Captions,
) -> None:
    """Writes pieces.parquet and captions.parquet."""
    columns = {
        name: _to_arrow(np.asarray(pieces[name], dtype), width)
        for name, (dtype, width) in PIECE_COLUMNS.items()
    }
    names = [clip_id[c] for c in np.asarray(pieces["clip"]).tolist()]
    columns["clip_id"] = pa.array(names)
    # The key of an index's own draws, so that a cache draws the captions that its index would.
    columns["clip_hash"] = pa.array([stable_hash("clip id", n) for n in names], pa.uint64())
    _write_table(folder / "pieces.parquet", pa.table(columns))
    of = np.repeat(np.arange(len(captions.start) - 1, dtype=np.int32), np.diff(captions.start))
    table = {
        "clip": of,
        "text": list(captions.text),
        "kind": list(captions.kind),
        "tokens": captions.tokens.astype(np.int32),
    }
    _write_table(folder / "captions.parquet", pa.table(table))


def read_pieces(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of pieces.parquet, and clip_hash u64, without the names of the clips."""
    kinds = PIECE_COLUMNS | {"clip_hash": (np.uint64, 1)}
    table = pq.read_table(folder / "pieces.parquet", columns=list(kinds))
    columns = {}
    for name, (dtype, width) in kinds.items():
        values = table[name].combine_chunks()
        flat = values.flatten() if width > 1 else values
        column = flat.to_numpy().astype(dtype, copy=False)
        columns[name] = column.reshape(-1, width) if width > 1 else column
    return columns


def read_captions(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns clip, kind and tokens of captions.parquet."""
    table = pq.read_table(folder / "captions.parquet", columns=["clip", "kind", "tokens"])
    return {name: table[name].to_numpy() for name in table.column_names}


def encode(values: np.ndarray, dtype: str, what: str) -> bytes:
    """Raw bytes in a number format. Raises BadInput for numbers that are or become non-finite."""
    with np.errstate(over="ignore"):
        stored = np.asarray(values).astype(DTYPES[dtype])
    if not np.isfinite(stored.astype(np.float32)).all():
        raise bad(
            "latent cache",
            f"{what} has numbers that are not finite in {dtype}",
            "finite numbers",
            "check the VAE, or use dtype bfloat16",
        )
    return stored.tobytes()


def decode(raw: bytes, dtype: Any, shape: tuple[int, ...], where: object) -> np.ndarray:
    """The array of a record. Raises BadInput when its length does not match the shape."""
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if len(raw) != expected:
        raise bad(
            f"cache {where}",
            f"a record of {len(raw)} bytes",
            f"{expected} for {shape}",
            "encode again",
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def check_columns(
    pieces: Mapping[str, np.ndarray], clip_id: Sequence[str], captions: Captions
) -> None:
    """Raises BadInput for missing columns, pieces of unknown clips, and clips without a caption."""
    missing = [name for name in PIECE_COLUMNS if name not in pieces]
    if missing:
        raise bad("latent cache", f"columns {', '.join(missing)} missing", "those of the pieces")
    clips = np.asarray(pieces["clip"])
    if len(clips) == 0:
        raise bad("latent cache", "no pieces", "at least one")
    known = min(len(clip_id), len(captions.start) - 1)
    if clips.max() >= known:
        raise bad("latent cache", f"a piece of clip {clips.max()}", f"clips 0..{known - 1}")
    bare = np.unique(clips[np.diff(captions.start)[clips] < 1])
    if len(bare):
        raise bad(
            "latent cache",
            f"{len(bare)} clips without a caption, e.g. {clip_id[bare[0]]}",
            "at least one each; an empty text counts",
        )
    if len(captions.tokens) and captions.tokens.min() < 1:
        raise bad("latent cache", "a caption of 0 tokens", "at least the start token")


def _to_arrow(values: np.ndarray, width: int) -> pa.Array:
    if width == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)


def _write_table(path: pathlib.Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def incomplete(
    folder: pathlib.Path, numbers: range, shards: int, pieces: int, captions: int
) -> list[int]:
    """Those of some shards whose files are missing or do not hold their share of the records."""
    files = (("latents", pieces), ("text", captions))

    def whole(name: str, total: int, shard: int) -> bool:
        low, high = share(total, shard, shards)
        return is_whole(shard_path(folder, name, shard, shards), high - low)

    return [k for k in numbers if not all(whole(name, total, k) for name, total in files)]
