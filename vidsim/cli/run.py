"""What every long command shares: its end as one line and an exit code."""

import sys
from collections.abc import Callable
from typing import Any

from vidsim.core.exits import DONE, RunEnded


def run_and_report(name: str, work: Callable[[], Any]) -> int:
    """Runs the work; a run that ends early for a stated reason prints it and gives its code."""
    try:
        work()
    except RunEnded as end:
        print(f"vidsim {name}: {end}", file=sys.stderr)
        return end.code
    return DONE


def split_settings(words: list[str]) -> list[str]:
    """Turns --config.a.b=value into the plain setting a.b=value; leaves everything else."""
    return [w.removeprefix("--config.") if w.startswith("--config.") else w for w in words]
