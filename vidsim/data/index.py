"""The index: size, duration and captions of every clip as columns, and the way to its pixels."""

import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow.compute as pc

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.data import schema
from vidsim.data.build import IndexConfig, IndexReport, build_index
from vidsim.data.record import Caption, ClipRecord, Reader
from vidsim.data.sources import open_spec

__all__ = ["Caption", "ClipIndex", "ClipRecord", "IndexConfig", "IndexReport", "build_index"]


class ClipIndex:
    """An opened index of n clips. Everything but `read` works from memory.

    clip_id        n unique names (object array of str)
    source         n paths or record numbers (object array of str)
    start_s, fps   float64 [n], seconds and frames a second
    num_frames, height, width   int32 [n]
    caption_start  int64 [n+1]: captions of clip i are numbers caption_start[i] to [i+1]
    caption_kind   int16 [captions]: number in `kinds`
    text_tokens    int32 [captions]: tokens of each caption, start token included, uncut
    hash           of the whole content, equal on every machine
    tokenizer_hash of the tokenizer that counted text_tokens
    spec           what the index was made from
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        table, meta = schema.read_table(self.path)
        self.hash = schema.content_hash(table, meta)
        self.spec: dict[str, Any] = meta["spec"]
        self.tokenizer_hash = str(meta["tokenizer"])
        for name in ("start_s", "num_frames", "fps", "height", "width"):
            setattr(self, name, table[name].to_numpy())
        self.clip_id, self.source = (table[name].to_numpy() for name in ("clip_id", "source"))
        self._extra, self._sha256 = table["extra"], table["sha256"]
        lengths = pc.list_value_length(table["captions"]).to_numpy()
        self.caption_start = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        captions = pc.list_flatten(table["captions"])
        self._texts = pc.struct_field(captions, "text")
        kinds = pc.struct_field(captions, "kind").to_numpy()
        self.kinds: tuple[str, ...] = tuple(sorted(set(kinds)))
        self.caption_kind = np.searchsorted(np.array(self.kinds, object), kinds).astype(np.int16)
        self.text_tokens = pc.list_flatten(table["text_tokens"]).to_numpy().astype(np.int32)

    start_s: np.ndarray
    num_frames: np.ndarray
    fps: np.ndarray
    height: np.ndarray
    width: np.ndarray

    @classmethod
    def open(cls, path: str | os.PathLike) -> "ClipIndex":
        """Reads an index. Raises BadInput when it is missing, damaged or of another version."""
        return cls(path)

    def __len__(self) -> int:
        return len(self.clip_id)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes read the file again instead of receiving its columns.
        return _reopen, (str(self.path), self.hash)

    @functools.cached_property
    def clip_hash(self) -> np.ndarray:
        """uint64 [n], a hash of each clip_id: the key for draws that belong to a clip."""
        return np.array([stable_hash("clip id", name) for name in self.clip_id], np.uint64)

    @functools.cached_property
    def reader(self) -> Reader:
        """What gives the pixels."""
        return open_spec(self.spec, self.path.parent)

    def caption_text(self, number: int) -> str:
        """The text of a caption by its number in `text_tokens`."""
        return self._texts[int(number)].as_py()

    def captions(self, i: int) -> tuple[Caption, ...]:
        """All captions of clip i."""
        numbers = range(self.caption_start[i], self.caption_start[i + 1])
        return tuple(
            Caption(self.caption_text(j), self.kinds[self.caption_kind[j]]) for j in numbers
        )

    def extra(self, i: int) -> dict[str, Any]:
        """What else the index knows of clip i (codec, ground truth of a world, …)."""
        return json.loads(self._extra[int(i)].as_py())

    def record(self, i: int) -> ClipRecord:
        """Row i."""
        tokens = self.text_tokens[self.caption_start[i] : self.caption_start[i + 1]]
        return ClipRecord(
            clip_id=self.clip_id[i],
            source=self.source[i],
            start_s=float(self.start_s[i]),
            num_frames=int(self.num_frames[i]),
            fps=float(self.fps[i]),
            height=int(self.height[i]),
            width=int(self.width[i]),
            captions=self.captions(i),
            text_tokens=tuple(int(n) for n in tokens),
            sha256=self._sha256[int(i)].as_py(),
            extra=self.extra(i),
        )

    def read(
        self,
        i: int,
        start_frame: int = 0,
        count: int | None = None,
        stride: int = 1,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """Frames start_frame, start_frame + stride, … of clip i.

        count    frames returned; None for all that are left
        resize   (height, width) of the whole frame, or None for the native size
        crop     (top, left, height, width) after the resize
        Returns  uint8 RGB [count, H, W, 3]
        Raises   BadInput when the frames are not in the clip or the file is not what was indexed
        """
        frames = int(self.num_frames[i])
        if count is None:
            count = -(-(frames - start_frame) // stride)
        last = start_frame + (count - 1) * stride
        if count < 1 or stride < 1 or start_frame < 0 or last >= frames:
            what = f"frames {start_frame} to {last} by {stride} of {self.clip_id[i]}"
            raise bad(self.path.name, what, f"within its {frames} frames")
        video_THWC = self.reader.read(self.record(i), start_frame, count, stride, resize, crop)
        size = tuple(crop[2:] if crop else resize or (int(self.height[i]), int(self.width[i])))
        if video_THWC.shape[1:3] != size:
            what = f"{self.clip_id[i]} has size {video_THWC.shape[1:3]}"
            raise bad(self.path.name, what, f"{size} as indexed", "index it again")
        return video_THWC


def _reopen(path: str, content: str) -> ClipIndex:
    index = ClipIndex.open(path)
    if index.hash != content:
        raise bad(index.path.name, "has changed since it was opened", "", "start again")
    return index
