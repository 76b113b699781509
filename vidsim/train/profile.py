"""A profiler trace of a few steps, into the work directory."""

from pathlib import Path
from typing import Any

import jax

from vidsim.core.errors import bad

FOLDER = "profile"


def profiled_steps(text: str) -> tuple[int, int]:
    """Steps from the first up to, not with, the last: 100:105 as (100, 105), nothing as (0, 0).

    Raises  BadInput for anything else
    """
    first, colon, end = text.partition(":")
    if not text:
        return 0, 0
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise bad("run.profile", repr(text), "FIRST:END with FIRST < END, e.g. 100:105")
    return int(first), int(end)


class StepTrace:
    """Traces the steps named, for TensorBoard, XProf or Perfetto.

    text    as `profiled_steps` reads it
    folder  work directory; the trace lands in profile/ below it
    """

    def __init__(self, text: str, folder: Path) -> None:
        self._first, self._end = profiled_steps(text)
        self._folder, self._running = folder / FOLDER, False

    def before(self, step: int, state: Any) -> str | None:
        """Starts or ends the trace where `step` is about to begin.

        state    of the steps before, waited for so that the trace holds whole steps
        Returns  the trace's folder when it has just ended
        """
        if self._running and step >= self._end:
            jax.block_until_ready(state)
            self.close()
            return str(self._folder)
        if not self._running and self._first <= step < self._end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder)
            self._running = True
        return None

    def close(self) -> None:
        """Ends a trace under way and writes it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
