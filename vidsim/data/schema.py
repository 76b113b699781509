"""The Parquet form of an index: its columns, its metadata, and the checks a reader needs."""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidsim.core.errors import bad
from vidsim.data.paths import UNSAFE
from vidsim.data.record import ClipRecord

VERSION = 1
METADATA_KEY = b"vidsim_index"
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("captions", pa.list_(pa.struct([("text", pa.string()), ("kind", pa.string())]))),
        ("text_tokens", pa.list_(pa.int32())),
        ("sha256", pa.string()),
        ("extra", pa.string()),
    ]
)
_FILE_KINDS = ("folder", "manifest")
# Parts of a spec that say where things lie on one machine.
_PLACES = ("data_dir",)


def with_metadata(spec: dict[str, Any], tokenizer_hash: str) -> pa.Schema:
    """The schema with what the index was made from."""
    content = {"version": VERSION, "spec": spec, "tokenizer": tokenizer_hash}
    return SCHEMA.with_metadata({METADATA_KEY: json.dumps(content, sort_keys=True).encode()})


def to_batch(records: Sequence[ClipRecord], schema: pa.Schema) -> pa.RecordBatch:
    """Records as rows."""
    rows = [
        {
            "clip_id": r.clip_id, "source": r.source, "start_s": r.start_s,
            "num_frames": r.num_frames, "fps": r.fps, "height": r.height, "width": r.width,
            "captions": [{"text": c.text, "kind": c.kind} for c in r.captions],
            "text_tokens": list(r.text_tokens), "sha256": r.sha256,
            "extra": json.dumps(r.extra, sort_keys=True, ensure_ascii=False, default=_plain),
        }
        for r in records
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def read_table(path: pathlib.Path) -> tuple[pa.Table, dict[str, Any]]:
    """Reads and checks an index file.

    Returns  the table with columns of SCHEMA, and its metadata {"version", "spec", "tokenizer"}
    Raises   BadInput when it is not an index, of another version, incomplete, or out of bounds
    """
    where = path.name
    if not path.is_file():
        raise bad(where, f"no index at {path}", "", "make one with vidsim index")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            meta = _metadata(schema, where)
            _check_columns(schema, where)
            table = file.read(columns=SCHEMA.names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise bad(where, f"is not a readable Parquet file ({reason})", "an index") from None
    _check_values(table, meta["spec"], where)
    return table, meta


def is_index(path: pathlib.Path) -> bool:
    """Whether the file is an index of any version."""
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _metadata(schema: pa.Schema, where: str) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise bad(where, "is not an index", "a file made by vidsim index")
    try:
        meta = json.loads(raw)
    except ValueError:
        meta = None
    if not isinstance(meta, dict) or not isinstance(meta.get("spec"), dict):
        raise bad(where, "has damaged metadata", "", "make the index again")
    if meta.get("version") != VERSION:
        what = f"index version {meta.get('version')}"
        raise bad(where, what, f"version {VERSION}", "make the index again")
    return meta


def _check_columns(schema: pa.Schema, where: str) -> None:
    missing = [name for name in SCHEMA.names if name not in schema.names]
    if missing:
        needs = f"needs {', '.join(SCHEMA.names)}"
        raise bad(where, f"columns missing: {', '.join(missing)}", needs)
    for field in SCHEMA:
        if schema.field(field.name).type != field.type:
            found = schema.field(field.name).type
            raise bad(where, f"column {field.name} is {found}", f"{field.type}")


def _check_values(table: pa.Table, spec: dict[str, Any], where: str) -> None:
    if table.num_rows == 0:
        raise bad(where, "holds no clip")
    required = [name for name in SCHEMA.names if name != "sha256"]
    empty = [name for name in required if table[name].null_count]
    if empty:
        raise bad(where, f"empty values in {', '.join(empty)}")
    bounds = {"num_frames": 1, "height": 1, "width": 1, "fps": 1e-3, "start_s": 0.0}
    for name, least in bounds.items():
        values = table[name].to_numpy()
        wrong = ~(np.isfinite(values) & (values >= least))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise bad(where, f"{name} of row {row} is {values[row]}", f"at least {least}")
    if pc.count_distinct(table["clip_id"]).as_py() != table.num_rows:
        raise bad(where, "clip_id is not unique")
    lengths = [pc.list_value_length(table[name]).to_numpy() for name in ("captions", "text_tokens")]
    if not np.array_equal(*lengths):
        raise bad(where, "captions and text_tokens differ in number", "one count a caption")
    if spec.get("kind") in _FILE_KINDS:
        unsafe = pc.match_substring_regex(table["source"], UNSAFE)
        if pc.any(unsafe).as_py():
            source = table["source"][unsafe.to_numpy(zero_copy_only=False).argmax().item()].as_py()
            allowed = "relative paths without '..' or scheme"
            raise bad(where, f"source {source[:80]!r} leaves the index's folder", allowed)


def content_hash(table: pa.Table, meta: dict[str, Any]) -> str:
    """A hash of what the index says (columns, source, tokenizer), however it is encoded."""
    digest = hashlib.blake2b(digest_size=16)
    spec = {key: value for key, value in meta["spec"].items() if key not in _PLACES}
    digest.update(json.dumps(meta | {"spec": spec}, sort_keys=True).encode())
    for name in ("start_s", "num_frames", "fps", "height", "width"):
        digest.update(np.ascontiguousarray(table[name].to_numpy()).tobytes())
    for name in ("clip_id", "source", "extra", "sha256"):
        _feed(digest, pc.fill_null(table[name], ""))
    for name in ("captions", "text_tokens"):
        digest.update(pc.list_value_length(table[name]).to_numpy().astype(np.int64).tobytes())
    flat = pc.list_flatten(table["captions"])
    _feed(digest, pc.struct_field(flat, "text"))
    _feed(digest, pc.struct_field(flat, "kind"))
    digest.update(pc.list_flatten(table["text_tokens"]).to_numpy().astype(np.int64).tobytes())
    return digest.hexdigest()


def _feed(digest: Any, texts: pa.ChunkedArray) -> None:
    """Adds texts without ambiguity: lengths in bytes, then the bytes as they lie in memory."""
    digest.update(pc.binary_length(texts).to_numpy().astype(np.int64).tobytes())
    for chunk in texts.chunks:
        if len(chunk):
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if ends[-1] > ends[0]:
                digest.update(memoryview(data)[ends[0] : ends[-1]])
