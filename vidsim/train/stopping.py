"""How a run is asked to stop: between two steps, saved, on all processes at the same one."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Notes SIGTERM and SIGINT, so that the loop can save and leave between two steps.

    A second signal interrupts at once. Over several processes all agree on one step through JAX's
    preemption service, which takes SIGTERM itself.
    """

    def __enter__(self) -> "StopRequest":
        self._noted = False
        self._old: dict[int, Any] = {}
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """True when the run should save and leave before `step`."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, number: int, frame: Any) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
