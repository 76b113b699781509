"""A folder tree of videos and images, captions in files beside them."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.data import decode
from vidsim.data.paths import below, resolve_below
from vidsim.data.record import BadClip, Caption, ClipRecord, Reader, Source
from vidsim.data.tokenizer import clean

TXT_CAPTIONS = ("lines", "whole")
MAX_SIDECAR_BYTES = 1 << 20
MAX_CAPTIONS = 1000
_CAPTION_ENDINGS = (".txt", ".json")
_INDEX_ENDINGS = (".parquet", ".bad.jsonl")
GIVEN = "given"


@dataclasses.dataclass(frozen=True)
class MediaOptions:
    """How media files are examined.

    check   "all" decodes every frame once, "first" only the first of each file
    txt     "lines": each line of a .txt is a caption; "whole": the file is one caption
    sha256  store the hash of each file
    limits  what a file may cost
    """

    check: str = "all"
    txt: str = "lines"
    sha256: bool = False
    limits: decode.Limits = decode.LIMITS

    def __post_init__(self) -> None:
        if self.check not in decode.CHECKS:
            raise bad("media", f"check={self.check!r}", f"one of {', '.join(decode.CHECKS)}")
        if self.txt not in TXT_CAPTIONS:
            raise bad("media", f"txt={self.txt!r}", f"one of {', '.join(TXT_CAPTIONS)}")


class MediaReader(Reader):
    """Reads clips from files below the folder of the index, `base`."""

    def __init__(self, base: pathlib.Path, limits: decode.Limits = decode.LIMITS) -> None:
        self.base, self.limits = base, limits

    def read(
        self,
        record: ClipRecord,
        first: int,
        count: int,
        stride: int = 1,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        path = resolve_below(self.base, record.source, "index")
        return decode.read_frames(
            path, record.start_s, count, record.fps, first=first, stride=stride, resize=resize,
            crop=crop, limits=self.limits,
        )  # fmt: skip


class FolderSource(MediaReader, Source):
    """Every media file below a folder, in the order of its path.

    Captions of `a/b.mp4` come from `a/b.json` and `a/b.txt`. Hidden files are passed over; linked
    folders are not entered.
    """

    def __init__(self, folder: pathlib.Path, base: pathlib.Path, options: MediaOptions) -> None:
        super().__init__(base, options.limits)
        self.options = options
        change = f"write the index into the folder of the clips, e.g. --out {folder}/index.parquet"
        self.root = below(base, folder, "index", change)
        self.folder = folder.resolve()
        self.spec = {"kind": "folder", "root": self.root}
        self.ignored = {}

    def candidates(self) -> Iterator[pathlib.Path | BadClip]:
        ignored: Counter[str] = Counter()
        for path in self._walk(self.folder):
            ending = path.suffix.lower()
            if path.is_dir():
                yield BadClip(self.name(path), "is a link to a folder, which is not followed")
            elif ending in decode.ENDINGS:
                yield path
            elif ending not in _CAPTION_ENDINGS and not path.name.endswith(_INDEX_ENDINGS):
                ignored[ending or path.name] += 1
        self.ignored = dict(sorted(ignored.items()))

    def _walk(self, folder: pathlib.Path) -> Iterator[pathlib.Path]:
        """Files (and linked folders) in the order of their names, never hidden ones."""
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(pathlib.Path(entry.path))
            else:
                yield pathlib.Path(entry.path)

    def name(self, candidate: pathlib.Path) -> str:
        return (self.root / candidate.relative_to(self.folder)).as_posix()

    def examine(self, candidate: pathlib.Path) -> ClipRecord:
        source = self.name(candidate)
        path = resolve_below(self.base, source, "index")
        held = decode.probe(path, check=self.options.check, limits=self.options.limits)
        return ClipRecord(
            clip_id=candidate.relative_to(self.folder).as_posix(),
            source=source,
            start_s=0.0,
            num_frames=held.num_frames,
            fps=held.fps,
            height=held.height,
            width=held.width,
            captions=sidecar_captions(candidate, self.options.txt),
            sha256=file_hash(path) if self.options.sha256 else None,
            extra=held.extra,
        )


def sidecar_captions(path: pathlib.Path, txt: str) -> tuple[Caption, ...]:
    """Captions beside a media file: `.json` first, then `.txt`. Raises BadInput naming the file."""
    found: list[Caption] = []
    beside = path.with_suffix(".json")
    if beside.is_file():
        try:
            content = json.loads(_text(beside))
        except (ValueError, RecursionError):
            raise bad(beside.name, "is not JSON") from None
        if not isinstance(content, dict) or not {"captions", "caption"} & set(content):
            allowed = '{"captions": [{"text", "kind"}]} or {"caption"}'
            raise bad(beside.name, "has no captions", allowed)
        found += read_captions(content.get("captions", content.get("caption")), beside.name)
    beside = path.with_suffix(".txt")
    if beside.is_file():
        text = _text(beside)
        found += read_captions(text.splitlines() if txt == "lines" else text, beside.name)
    return tuple(found)


def read_captions(value: Any, where: str) -> list[Caption]:
    """Captions from a text, a list of texts, or a list of {text, kind}; empty ones are dropped."""
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_CAPTIONS:
        raise bad(where, f"{len(items)} captions", f"at most {MAX_CAPTIONS}")
    captions = []
    for item in items:
        if isinstance(item, dict):
            text, kind = item.get("text"), item.get("kind", GIVEN)
        else:
            text, kind = item, GIVEN
        if text is None:
            continue
        if not isinstance(text, str) or not isinstance(kind, str) or not clean(kind):
            raise bad(where, f"caption {str(item)[:80]!r}", "a text, or {text, kind} of texts")
        if len(text) > MAX_SIDECAR_BYTES:
            what = f"a caption of {len(text):,} characters"
            raise bad(where, what, f"at most {MAX_SIDECAR_BYTES:,}")
        if clean(text):
            captions.append(Caption(clean(text), clean(kind)))
    return captions


def file_hash(path: pathlib.Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: pathlib.Path) -> str:
    if path.stat().st_size > MAX_SIDECAR_BYTES:
        raise bad(path.name, f"{path.stat().st_size:,} bytes", f"at most {MAX_SIDECAR_BYTES:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise bad(path.name, "is not UTF-8 text") from None
