"""Builds an index: examines every clip of a source, keeps the good ones, says what went wrong."""

import dataclasses
import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow.parquet as pq

from vidsim.core.errors import bad
from vidsim.data import schema
from vidsim.data.record import BadClip, ClipRecord, Source
from vidsim.data.sources import MediaOptions, open_source
from vidsim.data.tokenizer import Tokenizer

_ROWS_A_GROUP = 4096
_SHOWN_REASONS = 3


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """What to index and what to leave out.

    min_frames       shortest clip, frames (1 keeps images)
    min_side         smallest shorter side, pixels
    max_s            longest clip, seconds; 0 for any
    require_caption  leave out clips without a caption
    media            how media files are examined
    """

    min_frames: int = 1
    min_side: int = 1
    max_s: float = 0.0
    require_caption: bool = False
    media: MediaOptions = dataclasses.field(default_factory=MediaOptions)

    def __post_init__(self) -> None:
        if self.min_frames < 1 or self.min_side < 1:
            what = f"min_frames={self.min_frames} min_side={self.min_side}"
            raise bad("IndexConfig", what, "at least 1")
        if not (math.isfinite(self.max_s) and self.max_s >= 0):
            raise bad("IndexConfig", f"max_s={self.max_s}", "seconds, or 0 for any length")

    def broken_rules(self, record: ClipRecord) -> list[str]:
        """Names of the rules that leave this clip out."""
        checks = {
            f"min_frames={self.min_frames}": record.num_frames < self.min_frames,
            f"min_side={self.min_side}": min(record.height, record.width) < self.min_side,
            f"max_s={self.max_s:g}": 0 < self.max_s < record.num_frames / record.fps
            and record.num_frames > 1,
            "require_caption": self.require_caption and not record.captions,
        }
        return [rule for rule, broken in checks.items() if broken]


@dataclasses.dataclass(frozen=True)
class IndexReport:
    """What an index holds and what was left out.

    clips, images, videos  rows kept; an image has one frame
    seconds     of video kept
    captioned   clips with at least one caption
    bad         unreadable clips; listed with their reasons in bad_path
    dropped     clips left out, by rule; a clip may break several
    left_out    clips left out by any rule
    ignored     files passed over, by ending
    """

    out: pathlib.Path
    bad_path: pathlib.Path
    clips: int
    images: int
    videos: int
    seconds: float
    captioned: int
    bad: int
    dropped: dict[str, int]
    left_out: int
    ignored: dict[str, int]
    hash: str

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        found = f"{self.clips:,} clips: {self.images:,} images, {self.videos:,} videos"
        lines = [f"{found} ({self.seconds:,.1f} s), {self.captioned:,} with captions"]
        if self.bad:
            lines.append(f"{self.bad:,} unreadable, listed in {self.bad_path}")
        lines += [f"{count:,} left out by {rule}" for rule, count in self.dropped.items()]
        lines += [f"{count:,} files passed over: {name}" for name, count in self.ignored.items()]
        return [*lines, f"index {self.out}, content hash {self.hash}"]


Progress = Callable[[int, int], None]


def build_index(
    src: str,
    out: str | os.PathLike,
    config: IndexConfig | None = None,
    *,
    progress: Progress | None = None,
    workers: int = 1,
) -> IndexReport:
    """Indexes a source into a Parquet file.

    src       folder, manifest, `tfds:…` or `world:…` (see `sources.open_source`)
    out       the index, ending in .parquet; media files must lie below its folder. Unreadable clips
              go to `<out>.bad.jsonl`, one {"source", "reason"} a line
    progress  called with (clips examined, bad clips) after each
    workers   threads that examine media; the result does not depend on it
    Raises    BadInput when nothing is found or nothing is left; then existing files stay untouched
    """
    config, out = config or IndexConfig(), pathlib.Path(out)
    if out.suffix != ".parquet":
        raise bad("index", f"output {out.name!r}", "a name ending in .parquet")
    if out.exists() and not schema.is_index(out):
        raise bad("index", f"{out} is there and is not an index", "", "choose another --out")
    if not out.parent.is_dir():
        raise bad("index", f"folder {out.parent} does not exist", "", "create it")
    source = open_source(src, out.parent, config.media)
    bad_path = out.with_name(out.name + ".bad.jsonl")
    parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (out, bad_path)]
    try:
        tally = _write(source, config, parts[0], parts[1], progress, workers)
        if tally.clips == 0:
            raise _nothing(src, source, tally)
        table, meta = schema.read_table(parts[0])
        report = tally.report(out, bad_path, source.ignored, schema.content_hash(table, meta))
        os.replace(parts[1], bad_path)
        os.replace(parts[0], out)
        return report
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


class _Tally:
    """Counts while an index is written."""

    def __init__(self) -> None:
        self.clips = self.images = self.captioned = self.bad = self.left_out = 0
        self.seconds = 0.0
        self.dropped: Counter[str] = Counter()
        self.reasons: list[BadClip] = []

    def keep(self, record: ClipRecord) -> None:
        self.clips += 1
        self.images += record.num_frames == 1
        self.seconds += record.num_frames / record.fps if record.num_frames > 1 else 0.0
        self.captioned += bool(record.captions)

    def report(
        self, out: pathlib.Path, bad_path: pathlib.Path, ignored: dict[str, int], content: str
    ) -> IndexReport:
        return IndexReport(
            out=out, bad_path=bad_path, clips=self.clips, images=self.images,
            videos=self.clips - self.images, seconds=self.seconds, captioned=self.captioned,
            bad=self.bad, dropped=dict(sorted(self.dropped.items())), left_out=self.left_out,
            ignored=ignored, hash=content,
        )  # fmt: skip


def _write(
    source: Source,
    config: IndexConfig,
    part: pathlib.Path,
    bad_part: pathlib.Path,
    progress: Progress | None,
    workers: int,
) -> _Tally:
    tokenizer, tally = Tokenizer(1), _Tally()
    columns = schema.with_metadata(source.spec, tokenizer.hash)
    rows: list[ClipRecord] = []
    with pq.ParquetWriter(part, columns) as writer, open(bad_part, "w", encoding="utf-8") as listed:
        for item in _unique(source.records(workers)):
            if isinstance(item, BadClip):
                tally.bad += 1
                tally.reasons += [item] if tally.bad <= _SHOWN_REASONS else []
                listed.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")
            elif rules := config.broken_rules(item):
                tally.dropped.update(rules)
                tally.left_out += 1
            else:
                tokens = tuple(tokenizer.count(caption.text) for caption in item.captions)
                rows.append(dataclasses.replace(item, text_tokens=tokens))
                tally.keep(item)
            if len(rows) == _ROWS_A_GROUP:
                writer.write_batch(schema.to_batch(rows, columns))
                rows.clear()
            if progress is not None:
                progress(tally.clips + tally.left_out + tally.bad, tally.bad)
        if rows:
            writer.write_batch(schema.to_batch(rows, columns))
        listed.flush()
        os.fsync(listed.fileno())
    return tally


def _unique(items: Iterator[ClipRecord | BadClip]) -> Iterator[ClipRecord | BadClip]:
    """Passes items on; a clip_id that came before becomes a bad clip."""
    seen: set[str] = set()
    for item in items:
        if isinstance(item, ClipRecord):
            if item.clip_id in seen:
                item = BadClip(item.source, f"the same clip comes twice: {item.clip_id}")
            else:
                seen.add(item.clip_id)
        yield item


def _nothing(src: str, source: Source, tally: _Tally) -> Exception:
    """The error for an index without rows: by rule, by fault, or because nothing was there."""
    if tally.left_out:
        counts = ", ".join(f"{rule}: {n:,}" for rule, n in sorted(tally.dropped.items()))
        total = tally.left_out + tally.bad
        what = f"no clip of {total:,} is left ({counts}; unreadable: {tally.bad:,})"
        return bad("index", what, "", "loosen the rule")
    if tally.bad:
        reasons = " | ".join(f"{item.source}: {item.reason}" for item in tally.reasons)
        return bad("index", f"all {tally.bad:,} clips of {src} are unreadable, first {reasons}")
    passed = ", ".join(f"{count:,} {name}" for name, count in source.ignored.items()) or "none"
    return bad("index", f"no clips in {src}", f"files passed over: {passed}")
