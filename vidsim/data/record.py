"""The row of an index, and what every source of clips offers."""

import abc
import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from vidsim.core.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Caption:
    """One description of a clip. kind: a free word such as "short", "descriptive", "given"."""

    text: str
    kind: str


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One clip, a row of the index. An image is a clip of one frame.

    clip_id      unique name, the same on every machine; randomness is keyed by it
    source       where its pixels are: a path relative to the index, or a record number
    start_s      seconds from the first frame of the file to the first frame of the clip
    num_frames   frames on the constant-rate grid of `fps`
    fps          frames a second (1.0 for a still image)
    height, width  pixels, after rotation metadata is applied
    captions     descriptions, maybe none
    text_tokens  tokens of each caption, start token included, uncut
    sha256       hash of the file, when asked for
    extra        anything else, JSON values (codec, rotation, ground truth of a world, …)
    """

    clip_id: str
    source: str
    start_s: float
    num_frames: int
    fps: float
    height: int
    width: int
    captions: tuple[Caption, ...] = ()
    text_tokens: tuple[int, ...] = ()
    sha256: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BadClip:
    """A clip that cannot be used, and why."""

    source: str
    reason: str


class Reader(abc.ABC):
    """Gives the pixels of indexed clips. Safe to call from several threads."""

    @abc.abstractmethod
    def read(
        self,
        record: ClipRecord,
        first: int,
        count: int,
        stride: int = 1,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """Frames first, first + stride, … of a clip.

        resize   (height, width) to which the whole frame is scaled first
        crop     (top, left, height, width), in pixels after the resize
        Returns  uint8 [count, H, W, 3]
        """


class Source(Reader):
    """A collection of clips. Subclasses list candidates cheaply and examine one at a time.

    spec     JSON-able description from which `open_spec` reopens the source beside an index
    ignored  counts of things that were passed over, by what they are
    """

    spec: dict[str, Any]
    ignored: dict[str, int]

    @abc.abstractmethod
    def candidates(self) -> Iterator[Any]:
        """Things to examine, in a fixed order. A BadClip among them is passed through."""

    @abc.abstractmethod
    def examine(self, candidate: Any) -> ClipRecord:
        """Looks at one candidate. Raises BadInput. Called from several threads."""

    @abc.abstractmethod
    def name(self, candidate: Any) -> str:
        """What to call a candidate in the list of bad clips."""

    def records(self, workers: int = 1) -> Iterator[ClipRecord | BadClip]:
        """Examines every candidate; the order does not depend on the number of workers."""
        if workers <= 1:
            yield from map(self._try, self.candidates())
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future] = deque()
            candidates = self.candidates()
            try:
                for candidate in itertools.islice(candidates, 4 * workers):
                    waiting.append(pool.submit(self._try, candidate))
                while waiting:
                    done = waiting.popleft().result()
                    for candidate in itertools.islice(candidates, 1):
                        waiting.append(pool.submit(self._try, candidate))
                    yield done
            finally:
                pool.shutdown(cancel_futures=True)

    def _try(self, candidate: Any) -> ClipRecord | BadClip:
        if isinstance(candidate, BadClip):
            return candidate
        try:
            return self.examine(candidate)
        except BadInput as error:
            return BadClip(self.name(candidate), str(error))
