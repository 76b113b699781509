"""The goodput ledger of a work directory: what every start of a run gained, and what it cost."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidsim.store.manifest import NAME as MANIFEST
from vidsim.store.manifest import write_atomic
from vidsim.train.events import read_metrics

LEDGER = "goodput.jsonl"


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Sums over a ledger.

    starts        how often the run was started
    steps_gained  steps that are in a whole checkpoint
    useful_s      seconds spent on those steps
    wall_s        seconds from the first start to the last end, waiting included
    """

    starts: int
    steps_gained: int
    useful_s: float
    wall_s: float

    @property
    def share(self) -> float:
        """Useful part of the wall time, 0 to 1."""
        return self.useful_s / self.wall_s if self.wall_s > 0 else 0.0


class Ledger:
    """Two JSON lines a start, {"event": "start"} and {"event": "end"}, in goodput.jsonl.

    A start is written once the run has really begun in its folder (its provenance has changed), so
    that a refused command leaves nothing behind. A start without an end belongs to a machine that
    went away; the next ledger on the folder closes it with what its checkpoints say.

    workdir  folder of the run
    path     of the ledger; None: goodput.jsonl in the folder
    """

    def __init__(
        self, workdir: Path, path: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.workdir, self.path, self._now = workdir, path or workdir / LEDGER, now
        self._pending: dict[str, Any] | None = None
        self._before: int | None = None
        self._number = 0

    def begin(self) -> None:
        """A start is about to be made."""
        self._close_lost()
        self._number = sum(r["event"] == "start" for r in self.records()) + 1
        self._pending = {
            "event": "start", "number": self._number,
            "start": self._now(), "step": saved_step(self.workdir),
        }  # fmt: skip
        self._before = self._provenance()
        self._start = self._pending

    def watch(self) -> None:
        """Writes the start down once the run has begun; call it while the run goes on."""
        if self._pending is not None and self._provenance() != self._before:
            self._append(self._pending)
            self._pending = None

    def end(self, exit_code: int, action: str) -> int:
        """The start has ended. Returns the steps it gained.

        action  what follows: "done", "restart", "give up" or "stop"
        """
        self.watch()
        record = self._end(self._start, self._now(), exit_code, action)
        if self._pending is None:
            self._append(record)
        return record["steps_gained"]

    def records(self) -> list[dict[str, Any]]:
        """All whole lines."""
        return read_metrics(self.path) if self.path.exists() else []

    def goodput(self) -> Goodput:
        """Sums over all starts that have an end."""
        records = self.records()
        ends = [r for r in records if r["event"] == "end"]
        if not ends:
            return Goodput(0, 0, 0.0, 0.0)
        return Goodput(
            len(ends), sum(r["steps_gained"] for r in ends), sum(r["useful_s"] for r in ends),
            max(r["end"] for r in ends) - min(r["start"] for r in ends),
        )  # fmt: skip

    def _close_lost(self) -> None:
        records = self.records()
        if records and records[-1]["event"] == "start":
            last = self.workdir / "metrics.jsonl"
            seen = last.stat().st_mtime if last.exists() else records[-1]["start"]
            end = max(seen, records[-1]["start"])
            self._append(self._end(records[-1], end, None, "lost"))

    def _end(
        self, start: dict[str, Any], end: float, exit_code: int | None, action: str
    ) -> dict[str, Any]:
        saved = saved_step(self.workdir)
        gained = max(0, saved - start["step"])
        useful = useful_seconds(self.workdir, start["step"], saved)
        return {
            "event": "end", "number": start["number"], "start": start["start"], "end": end,
            "exit_code": exit_code, "steps_gained": gained,
            "useful_s": min(useful, end - start["start"]), "action": action,
        }  # fmt: skip

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(r) + "\n" for r in (*self.records(), record))
        write_atomic(self.path, lines.encode())  # a last line torn by a fall goes

    def _provenance(self) -> int | None:
        path = self.workdir / "provenance.json"
        return path.stat().st_mtime_ns if path.exists() else None


def saved_step(workdir: Path) -> int:
    """Step of the newest checkpoint with a manifest; 0 when there is none."""
    found = (workdir / "checkpoints").glob(f"*/{MANIFEST}")
    return max((int(p.parent.name) for p in found if p.parent.name.isdecimal()), default=0)


def useful_seconds(workdir: Path, start: int, saved: int) -> float:
    """Seconds spent on the steps after `start` up to `saved`, from the step times in metrics.jsonl.

    Steps that were not logged count as the mean of those that were.
    """
    path = workdir / "metrics.jsonl"
    if saved <= start or not path.exists():
        return 0.0
    times = [
        float(r["step_s"])
        for r in read_metrics(path)
        if r["kind"] == "train" and start < r["step"] <= saved and "step_s" in r
    ]
    return sum(times) / len(times) * (saved - start) if times else 0.0
