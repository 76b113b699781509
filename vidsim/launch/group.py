"""A group of processes that live and die together; signals are passed on, and escalate."""

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from vidsim.core.exits import GIVE_UP, PREEMPTED, WATCHDOG

POLL_S = 0.1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


@dataclasses.dataclass(frozen=True)
class Command:
    """One process: its words and its environment (None: ours)."""

    words: Sequence[str]
    environment: Mapping[str, str] | None = None


class StopRequest:
    """Counts SIGTERM and SIGINT of this process while it is entered."""

    def __init__(self) -> None:
        self.count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def run_group(
    commands: Sequence[Command],
    stop: StopRequest,
    *,
    grace_s: float,
    settle_s: float,
    watch: Callable[[], None] = lambda: None,
) -> int:
    """Runs all commands to their end and returns one exit code for them (see `one_code`).

    A stop request sends SIGTERM to all; who is still there after `grace_s`, or at a second request,
    gets SIGKILL with everything it started. When one fails, the others have `settle_s` (after 42
    `grace_s`, since they may be saving) to end too, then SIGTERM, and SIGKILL `settle_s` later: a
    process that waits for a lost peer inside a collective does not leave by itself.

    watch   called about ten times a second
    """
    processes: list[subprocess.Popen] = []
    try:
        for command in commands:
            processes.append(
                subprocess.Popen(
                    list(command.words),
                    env=command.environment,
                    start_new_session=True,
                    preexec_fn=_leave_with_parent if _LIBC is not None else None,
                )
            )
        return one_code(_wait(processes, stop, grace_s, settle_s, watch))
    finally:
        for process in processes:
            _kill(process)


def _wait(
    processes: Sequence[subprocess.Popen],
    stop: StopRequest,
    grace_s: float,
    settle_s: float,
    watch: Callable[[], None],
) -> list[int]:
    """Exit codes in the order of ending; those of processes killed here come last."""
    codes: dict[int, int] = {}
    told, kill_at_s, tell_at_s = False, float("inf"), float("inf")
    killed: set[int] = set()
    while len(codes) < len(processes):
        now = time.monotonic()
        for i, process in enumerate(processes):
            code = process.poll()
            if code is not None and i not in codes:
                codes[i] = 128 - code if code < 0 else code
                if codes[i] and tell_at_s == float("inf"):
                    tell_at_s = now + (grace_s if codes[i] == PREEMPTED else settle_s)
        left = [p for i, p in enumerate(processes) if i not in codes]
        if left and not told and (stop.count or now >= tell_at_s):
            told, kill_at_s = True, now + (grace_s if stop.count else settle_s)
            for process in left:
                process.send_signal(signal.SIGTERM)
        if left and (now >= kill_at_s or stop.count > 1):
            killed |= {i for i in range(len(processes)) if i not in codes}
            for process in left:
                _kill(process)
        watch()
        if left:
            time.sleep(POLL_S)
    return [codes[i] for i in codes if i not in killed] + [codes[i] for i in killed]


def one_code(codes: Sequence[int]) -> int:
    """One exit code for a group, given those of its processes in the order of ending.

    What no restart mends comes first, then what says why (watchdog, stopped and saved), then the
    first failure: the later ones are mostly its consequence. 0 only when all are.
    """
    for wanted in (*sorted(GIVE_UP), WATCHDOG, PREEMPTED):
        if wanted in codes:
            return wanted
    return next((code for code in codes if code), 0)


def _leave_with_parent() -> None:
    """In the child, before it becomes the command: SIGTERM when the supervisor is killed (Linux).

    An orphan would hold the devices and the work directory against the next start.
    """
    assert _LIBC is not None
    _LIBC.prctl(_PARENT_DEATH, int(signal.SIGTERM))


def _kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and whatever it started (it leads its own group)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def vidsim_command(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Command:
    """`vidsim ...` with this interpreter."""
    return Command([sys.executable, "-m", "vidsim", *words], environment)
