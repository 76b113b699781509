"""A run that hangs ends by itself; one that goes on is left alone."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from vidsim.core.errors import BadInput
from vidsim.train.watchdog import Watchdog

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_silence_is_noticed_once_and_names_what_was_finished_last():
    lines, noticed = [], threading.Event()

    def note(line):
        lines.append(line)
        noticed.set()

    with Watchdog(0.2, "denoiser", note) as dog:
        dog.beat("step 7")
        assert noticed.wait(30.0)
        time.sleep(0.5)
    (line,) = lines
    assert line.startswith("denoiser: nothing finished for") and "after step 7" in line


def test_beats_keep_it_quiet_and_no_limit_watches_nothing():
    lines = []
    with Watchdog(20.0, "x", lines.append) as dog:
        dog._last_s -= 19.5  # nearly silent for too long
        dog.beat("step 1")
        time.sleep(1.0)
    with Watchdog(None, "x", lines.append) as dog:
        assert dog._thread is None
    assert lines == []
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]
    with pytest.raises(BadInput, match="run.watchdog_s: 0"):
        Watchdog(0, "x")


@pytest.mark.slow
def test_a_reader_that_hangs_ends_the_process_with_43_and_shows_where(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.train.linear_task", "--workdir", str(tmp_path),
               "--hang_at", "6", "--watchdog_s", "20"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 43, done.stderr
    assert "nothing finished for" in done.stderr and "the same command resumes" in done.stderr
    assert "linear_task.py" in done.stderr, "the stack of the thread that hangs"
    done = subprocess.run(command[:-4], cwd=ROOT, env=env, capture_output=True, text=True,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0 and "finished after 6 steps" in done.stdout
