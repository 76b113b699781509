"""Progress of commands: a line that rewrites itself on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

LOG_EVERY_S = 10.0
TERMINAL_EVERY_S = 0.2


class Show(Protocol):
    """Tells how far the work is: done of total (None = unknown), with further counts."""

    def __call__(self, done: int, total: int | None, **counts: int) -> None: ...


@contextlib.contextmanager
def counter(label: str, unit: str) -> Iterator[Show]:
    """Shows a count, its rate and the time left until the block ends."""
    start = time.perf_counter()
    terminal = sys.stderr.isatty()
    last_s, shown = [0.0], [""]

    def show(done: int, total: int | None, **counts: int) -> None:
        now = time.perf_counter()
        over = total is not None and done >= total
        every = TERMINAL_EVERY_S if terminal else LOG_EVERY_S
        if now - last_s[0] < every and not over:
            return
        line = _line(label, unit, done, total, now - start, counts)
        last_s[0], shown[0] = now, line
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    try:
        yield show
    finally:
        if terminal and shown[0]:
            print(file=sys.stderr)


def _line(
    label: str, unit: str, done: int, total: int | None, spent_s: float, counts: dict[str, int]
) -> str:
    rate = done / max(spent_s, 1e-9)
    parts = [f"{label}: {done:,}" + (f"/{total:,}" if total is not None else "") + f" {unit}"]
    parts.append(f"{rate:,.1f}/s")
    if total is not None and done:
        parts.append(f"{(total - done) / max(rate, 1e-9):,.0f} s left")
    parts += [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(parts)


@contextlib.contextmanager
def stages(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows work in stages: each call says (stage, done, of)."""
    current: list[tuple[str, Show]] = []
    with contextlib.ExitStack() as stack:

        def show(stage: str, done: int, of: int) -> None:
            if not current or current[-1][0] != stage:
                stack.close()
                name = f"{label}, {stage}"
                current.append((stage, stack.enter_context(counter(name, ""))))
            current[-1][1](done, of)

        yield show
