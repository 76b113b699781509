"""Starts a group of processes again for as long as another start can help."""

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vidsim.core.errors import bad
from vidsim.core.exits import DONE, GIVE_UP, MEANINGS
from vidsim.launch.group import Command, StopRequest, run_group
from vidsim.launch.ledger import Ledger
from vidsim.store.manifest import write_atomic

ENDED = "ended.json"
NUMBERS = ("VIDSIM_HOST", "VIDSIM_PROCESS", "SLURM_PROCID", "JOB_COMPLETION_INDEX",
           "MEGASCALE_SLICE_ID")  # fmt: skip
"""Variables that number hosts or slices; the host on which all of those set are 0 is the first."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a supervisor tries.

    restarts    starts after the first
    grace_s     from SIGTERM to SIGKILL
    settle_s    from the failure of one process to SIGTERM for its peers
    delay_s     before the first restart; doubles while no step is gained, up to longest_delay_s
    """

    restarts: int
    grace_s: float = 120.0
    settle_s: float = 15.0
    delay_s: float = 1.0
    longest_delay_s: float = 60.0

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise bad("--restarts", f"{self.restarts}", "0 or more")
        if self.grace_s < 0:
            raise bad("--grace", f"{self.grace_s}", "0 seconds or more")


def supervise(
    group: Callable[[], Sequence[Command]],
    patience: Patience,
    *,
    ledger: Ledger | None,
    board: "Board | None" = None,
    say: Callable[[str], None],
) -> int:
    """Runs a group of processes, and again after every end that a restart can mend.

    Returns the last exit code of the group (see `one_code`).

    Codes 0, 2 and 44 to 47 are final; 42, 43, crashes and signals are answered with a restart,
    `patience.restarts` times. SIGTERM or SIGINT to this process stops the group (see `run_group`)
    and restarts nothing.

    group   the commands of one start
    ledger  of the run; None on hosts other than the first
    board   where hosts of one job tell each other of a final end, None for a job of one host; with
            `restarts` 0 something else restarts, and only codes that it must not restart are told
    """
    idle = 0
    with StopRequest() as stop:
        for number in range(1, patience.restarts + 2):
            if ledger is not None:
                ledger.begin()
            began_s = time.monotonic()
            watch = ledger.watch if ledger is not None else lambda: None
            code = run_group(group(), stop, grace_s=patience.grace_s,
                             settle_s=patience.settle_s, watch=watch)  # fmt: skip
            action = _action(code, bool(stop.count), number > patience.restarts)
            gained = ledger.end(code, action) if ledger is not None else None
            idle = 0 if gained else idle + 1
            line = f"ended with {code} ({meaning(code)}) after {time.monotonic() - began_s:.0f} s"
            say(line + (f", {gained} steps gained" if gained is not None else ""))
            final = code in (DONE, *GIVE_UP) or (action == "give up" and patience.restarts > 0)
            if board is not None and final:
                board.post(code)
            if action != "restart":
                break
            delay_s = min(patience.longest_delay_s, patience.delay_s * 2 ** max(0, idle - 1))
            say(f"restart {number} of {patience.restarts} in {delay_s:.0f} s")
            posted = _pause(delay_s, stop, board)
            if posted is not None:
                say(f"another host ended with {posted} ({meaning(posted)})")
                return posted
            if stop.count:
                break
    if ledger is not None and (sums := ledger.goodput()).starts:
        say(f"goodput {sums.share:.2f}: {sums.useful_s:.0f} s of {sums.wall_s:.0f} s on "
            f"{sums.steps_gained} saved steps, {sums.starts} starts")  # fmt: skip
    return code


def meaning(code: int) -> str:
    """What an exit code says, in words."""
    return MEANINGS.get(code) or (f"signal {code - 128}" if code > 128 else "crash")


def first_host(environment: Mapping[str, str] = os.environ) -> bool:
    """True on the host (or process) whose supervisor keeps the ledger."""
    return all(environment[name] == "0" for name in NUMBERS if name in environment)


class Board:
    """ended.json in the shared work directory: the final end of a job, for all of its hosts.

    What is there when the supervisor starts is of an earlier job and does not count.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / ENDED
        self._old = self._read()

    def post(self, code: int) -> None:
        """Tells the others. An end that was posted since our start stays."""
        if self.posted() is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            body = {"code": code, "meaning": meaning(code), "id": uuid.uuid4().hex}
            write_atomic(self._path, (json.dumps(body) + "\n").encode())

    def posted(self) -> int | None:
        """The code that another host has posted since our start."""
        text = self._read()
        return json.loads(text)["code"] if text and text != self._old else None

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""


def _action(code: int, stopped: bool, used_up: bool) -> str:
    if code == DONE:
        return "done"
    if stopped:
        return "stop"
    return "give up" if code in GIVE_UP or used_up else "restart"


def _pause(delay_s: float, stop: StopRequest, board: Board | None) -> int | None:
    """Waits; returns early at a stop request, and with the code when another host has posted."""
    until = time.monotonic() + delay_s
    while True:
        posted = board.posted() if board is not None else None
        left_s = until - time.monotonic()
        if posted is not None or stop.count or left_s <= 0:
            return posted
        time.sleep(min(0.2, left_s))
