"""A manifest: one row a clip, in JSON lines, CSV or Parquet.

Columns: `path` (relative to the manifest, required); `caption` or `captions` (a text, a list of
texts, or a list of {text, kind}; in CSV a list is written as JSON); `start_s`, and `end_s` or
`num_frames`; `fps` (the rate to read at; the file's own when left out). Other columns are kept in
the record's `extra`.
"""

import csv
import dataclasses
import json
import math
import pathlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidsim.core.errors import BadInput, bad, nearest
from vidsim.data import clock, decode
from vidsim.data.folder import MediaOptions, MediaReader, file_hash, read_captions
from vidsim.data.paths import below, resolve_below, safe_relative
from vidsim.data.record import BadClip, ClipRecord, Source

ENDINGS = (".jsonl", ".csv", ".parquet")
COLUMNS = ("path", "caption", "captions", "start_s", "end_s", "num_frames", "fps")
MAX_LINE = 1 << 20
_REMEMBERED = 4096


@dataclasses.dataclass(frozen=True)
class _Row:
    number: int
    values: dict[str, Any]


class ManifestSource(MediaReader, Source):
    """Clips in the order of the manifest's rows. Several rows may cut one file."""

    def __init__(self, path: pathlib.Path, base: pathlib.Path, options: MediaOptions) -> None:
        super().__init__(base, options.limits)
        self.options, self.ignored = options, {}
        self.path = path.resolve()
        change = f"write the index beside the manifest, e.g. --out {path.parent}/index.parquet"
        self.spec = {"kind": "manifest", "path": below(base, path, "index", change)}
        self._probes: OrderedDict[pathlib.Path, decode.Probe] = OrderedDict()
        self._busy: dict[pathlib.Path, threading.Lock] = {}
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[_Row | BadClip]:
        read = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}[self.path.suffix.lower()]
        for number, values in enumerate(read(self.path), start=1):
            if isinstance(values, str):
                yield BadClip(f"{self.path.name}, row {number}", values)
            else:
                yield _Row(number, values)

    def name(self, candidate: _Row) -> str:
        path = str(candidate.values.get("path"))[:200]
        return f"{self.path.name}, row {candidate.number}: {path}"

    def examine(self, candidate: _Row) -> ClipRecord:
        where, row = f"row {candidate.number}", candidate.values
        if row.get("path") in (None, ""):
            raise bad(where, "has no path")
        relative = safe_relative(row["path"], where)
        path = resolve_below(self.path.parent, relative, where)
        source = below(self.base, path, where, "put the file below the index's folder")
        start_s = _number(row, "start_s", where) or 0.0
        fps = _number(row, "fps", where)
        held = self._probe(path, fps)
        available = clock.count_slots(held.duration_s - start_s, held.fps)
        if start_s == 0:
            available = held.num_frames
        elif start_s >= held.duration_s:
            raise bad(where, f"start_s={start_s}", f"below the file's {held.duration_s:.3f} s")
        frames = self._length(row, start_s, held.fps, available, where)
        name = relative
        if start_s > 0 or frames < held.num_frames or fps is not None:
            name += f"@{start_s:.6f}+{frames}" + (f"/{fps:g}fps" if fps is not None else "")
        known = {name for name in row if name in COLUMNS}
        others = {k: v for k, v in row.items() if k not in known and v not in (None, "")}
        captions = row.get("captions") if row.get("captions") is not None else row.get("caption")
        return ClipRecord(
            clip_id=name,
            source=source,
            start_s=start_s,
            num_frames=frames,
            fps=held.fps,
            height=held.height,
            width=held.width,
            captions=tuple(read_captions(captions, where)),
            sha256=file_hash(path) if self.options.sha256 else None,
            extra=held.extra | ({"manifest": others} if others else {}),
        )

    def _length(
        self, row: dict[str, Any], start_s: float, fps: float, available: int, where: str
    ) -> int:
        end_s, frames = _number(row, "end_s", where), _number(row, "num_frames", where)
        if end_s is not None and frames is not None:
            raise bad(where, "has both end_s and num_frames", "one of them")
        if end_s is not None:
            frames = math.floor((end_s - start_s) * fps + 0.5)
        if frames is None:
            return available
        if frames != int(frames) or not 1 <= frames <= available:
            allowed = f"1 to {available} at {fps:g} fps"
            raise bad(where, f"{frames:g} frames from {start_s} s", allowed)
        return int(frames)

    def _probe(self, path: pathlib.Path, fps: float | None) -> decode.Probe:
        """Looks at a file once, however many rows cut it and however many threads ask."""
        with self._lock:
            busy = self._busy.setdefault(path, threading.Lock())
        with busy:
            held = self._probes.get(path)
            if held is None:
                held = decode.probe(path, check=self.options.check, limits=self.options.limits)
                with self._lock:
                    self._probes[path] = held
                    if len(self._probes) > _REMEMBERED:
                        self._busy.pop(self._probes.popitem(last=False)[0], None)
        if fps is None or fps == held.fps:
            return held
        frames = clock.count_slots(held.duration_s, fps)
        return dataclasses.replace(held, fps=fps, num_frames=frames)


def _number(row: dict[str, Any], column: str, where: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise bad(where, f"{column}={value!r}", "a number") from None
    least = 0.0 if column == "start_s" else 1e-9
    if not math.isfinite(number) or number < least or isinstance(value, bool):
        raise bad(where, f"{column}={value!r}", "a number above 0")
    return number


def _has_path(columns: list[str], where: str) -> None:
    if "path" not in columns:
        hint = f"columns are {', '.join(columns)[:200]}"
        raise bad(where, "column 'path' is missing", hint, nearest("path", columns or ["path"]))


def _json_lines(path: pathlib.Path) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        seen = False
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise bad(path.name, f"a line longer than {MAX_LINE:,} characters")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                if not seen:
                    _has_path(list(row), path.name)
                seen = True
                yield row
            else:
                yield "is not a JSON object"


def _csv(path: pathlib.Path) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        _has_path(list(reader.fieldnames or []), path.name)
        try:
            for row in reader:
                if None in row or None in row.values():
                    yield f"has not {len(reader.fieldnames or [])} fields"
                    continue
                yield _listed(row)
        except csv.Error as error:
            raise bad(path.name, str(error)) from None


def _listed(row: dict[str, Any]) -> dict[str, Any] | str:
    """A list of captions stands in CSV as JSON."""
    for column in ("caption", "captions"):
        if str(row.get(column) or "").lstrip().startswith("["):
            try:
                row[column] = json.loads(row[column])
            except (ValueError, RecursionError):
                if column == "captions":
                    return "captions is not a JSON list"
        elif row.get(column) == "":
            row[column] = None
    return row


def _parquet(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _has_path(file.schema_arrow.names, path.name)
            for batch in file.iter_batches(4096):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, BadInput):
            raise
        raise bad(path.name, f"is not Parquet ({str(error).splitlines()[0][:100]})") from None
