"""What a person sees while a run trains: one living line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar


class Progress:
    """Progress of one run: step, loss, rate, work a second, time left.

    label       name of what is trained
    start       step the run begins with
    steps       step the run ends with
    interval_s  seconds between plain lines when the output is not a terminal
    quiet       True for all but one of several processes
    """

    def __init__(
        self, label: str, start: int, steps: int, interval_s: float = 5.0, quiet: bool = False
    ) -> None:
        self._quiet = quiet
        self._label, self._steps, self._interval_s = label, steps, interval_s
        self._rate = _Rate()
        self._shown_s = 0.0
        self._bar: Bar | None = None
        console = Console(file=sys.stdout)
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[text]}"), console=console)
            self._task = self._bar.add_task(label, total=steps, completed=start, text="compiling")
            self._bar.start()

    def update(self, step: int, values: Mapping[str, Any], work: float, unit: str) -> None:
        """Shows the state after `step` updates; `work` units were done in this one."""
        self._rate.add(step, work)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text(step, values, unit))
        elif not self._quiet and (now - self._shown_s >= self._interval_s or step == self._steps):
            self._shown_s = now
            text = self._text(step, values, unit)
            print(f"{self._label} {step}/{self._steps} {text}", flush=True)

    def say(self, line: str) -> None:
        """Prints one line above the progress."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        elif not self._quiet:
            print(line, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _text(self, step: int, values: Mapping[str, Any], unit: str) -> str:
        steps_s, work_s = self._rate.per_second()
        left = clock((self._steps - step) / steps_s) if steps_s else "?"
        loss = f"loss {values['loss']:.4g}" if "loss" in values else ""
        used = f"  MFU {values['mfu']:.1%}" if "mfu" in values else ""
        held = values.get("memory_peak_bytes")
        used += "" if held is None else f"  {held / 2**30:.1f} GiB at most"
        return f"{loss}  {steps_s:.3g} steps/s  {short(work_s)} {unit}/s{used}  {left} left"


class _Rate:
    """Steps and work a second over the last 20 seconds, without the first (compiling) step."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int, float]] = []
        self._work = 0.0

    def add(self, step: int, work: float) -> None:
        now = time.monotonic()
        self._work += work
        self._marks.append((now, step, self._work))
        while len(self._marks) > 2 and now - self._marks[1][0] > 20.0:
            self._marks.pop(0)

    def per_second(self) -> tuple[float, float]:
        (t0, s0, w0), (t1, s1, w1) = self._marks[0], self._marks[-1]
        return ((s1 - s0) / (t1 - t0), (w1 - w0) / (t1 - t0)) if t1 > t0 else (0.0, 0.0)


def clock(seconds: float) -> str:
    """1:02:03 or 4:05."""
    whole = int(round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: float) -> str:
    """1234567 as 1.23M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
