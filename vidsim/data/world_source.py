"""Clips of a procedural world: `world:NAME[?option=value&…]`. No files, rendered when read."""

from collections.abc import Iterator

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.decode import resize_crop
from vidsim.data.record import Caption, ClipRecord, Source
from vidsim.worlds import base as worlds


class WorldSource(Source):
    """Clip i of the world is row i. The ground truth stands in `extra["truth"]`."""

    def __init__(self, spec: str) -> None:
        self.world = worlds.from_spec(spec.removeprefix("world:"))
        self.spec = {"kind": "world", "spec": f"world:{self.world.spec}"}
        self.ignored = {}

    def candidates(self) -> Iterator[int]:
        yield from range(len(self.world))

    def name(self, candidate: int) -> str:
        return f"{self.world.spec}, clip {candidate}"

    def examine(self, candidate: int) -> ClipRecord:
        info = self.world.info(candidate)
        return ClipRecord(
            clip_id=f"{self.world.spec}/{candidate}",
            source=str(candidate),
            start_s=0.0,
            num_frames=info.num_frames,
            fps=info.fps,
            height=info.height,
            width=info.width,
            captions=tuple(Caption(c.text, c.kind) for c in info.captions),
            extra={"kind": "image" if info.num_frames == 1 else "video", "truth": info.truth},
        )

    def read(
        self,
        record: ClipRecord,
        first: int,
        count: int,
        stride: int = 1,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        number = int(record.source)
        if not 0 <= number < len(self.world):
            raise bad("world", f"clip {number}", f"below {len(self.world)}", "index it again")
        video_THWC = self.world.clip(number).video_THWC[first : first + stride * count : stride]
        if len(video_THWC) < count:
            raise bad("world", f"clip {number} has fewer frames than indexed", "", "index it again")
        return resize_crop(video_THWC, resize, crop, self.name(number))
