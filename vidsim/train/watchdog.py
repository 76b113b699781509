"""Ends a process that hangs: a collective whose partner is gone, a reader on a dead mount.

Heartbeats of the coordination service come from a thread of their own and go on through any hang,
so nobody else would notice.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from vidsim.core.errors import bad
from vidsim.core.exits import WATCHDOG


def leave(line: str) -> None:
    """Prints where every thread stands and one line; leaves with exit code 43, saving nothing."""
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    print(line, file=sys.stderr, flush=True)
    os._exit(WATCHDOG)


class Watchdog:
    """A thread that calls `leave` when `beat` was not called for `limit_s`.

    limit_s  seconds; None watches nothing
    label    of the run, for the line
    on_hang  takes the line, by default `leave`
    """

    def __init__(
        self, limit_s: float | None, label: str, on_hang: Callable[[str], None] = leave
    ) -> None:
        if limit_s is not None and limit_s <= 0:
            raise bad("run.watchdog_s", f"{limit_s}", "seconds above 0, or None")
        self._limit_s, self._label, self._on_hang = limit_s, label, on_hang
        self._done = threading.Event()
        self._last_s, self._what = time.monotonic(), "the start"
        self._thread: threading.Thread | None = None

    def beat(self, what: str) -> None:
        """Notes that `what` is finished."""
        self._last_s, self._what = time.monotonic(), what

    def __enter__(self) -> "Watchdog":
        if self._limit_s is not None:
            self.beat("the start")
            self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        assert self._limit_s is not None
        while not self._done.wait(max(self._last_s + self._limit_s - time.monotonic(), 0.01)):
            silent_s = time.monotonic() - self._last_s
            if silent_s >= self._limit_s:
                self._on_hang(
                    f"{self._label}: nothing finished for {silent_s:.0f} s after {self._what}; "
                    f"run.watchdog_s={self._limit_s:g}; the same command resumes"
                )
                return
