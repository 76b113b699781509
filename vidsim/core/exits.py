"""Exit codes of the commands, and the exceptions that end a run with one of them.

A supervisor restarts a run after 42, 43, a signal or a crash; it gives up after 2 and 44 to 47.
"""

DONE = 0
REQUIREMENT_FAILED = 1
BAD_USE = 2
PREEMPTED = 42
WATCHDOG = 43
NON_FINITE = 44
BAD_DATA = 45
NO_CHECKPOINT = 46
DISK_FULL = 47

RESTARTABLE = frozenset({PREEMPTED, WATCHDOG})
GIVE_UP = frozenset({BAD_USE, NON_FINITE, BAD_DATA, NO_CHECKPOINT, DISK_FULL})
MEANINGS = {
    DONE: "done",
    BAD_USE: "bad use",
    PREEMPTED: "stopped and saved",
    WATCHDOG: "watchdog",
    NON_FINITE: "non-finite limit",
    BAD_DATA: "bad-data limit",
    NO_CHECKPOINT: "no valid checkpoint",
    DISK_FULL: "disk full",
}


class RunEnded(RuntimeError):
    """A run that ends early for a stated reason; commands print one line and leave with `code`."""

    code = 1


class Preempted(RunEnded):
    """A stop was asked for, and the state is saved: the same command resumes."""

    code = PREEMPTED


class NonFiniteLimit(RunEnded):
    """Too many updates in a row had non-finite gradients."""

    code = NON_FINITE


class BadDataLimit(RunEnded):
    """More clips could not be read than the run allows."""

    code = BAD_DATA


class NoValidCheckpoint(RunEnded):
    """Checkpoints exist, and every one of them is damaged."""

    code = NO_CHECKPOINT


class DiskFull(RunEnded):
    """A checkpoint does not fit on the disk; the earlier ones are whole."""

    code = DISK_FULL
