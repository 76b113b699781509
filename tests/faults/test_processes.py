"""Real processes, really stopped and killed: the same command ends with the same weights."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vidsim.store.checkpoints import CheckpointStore
from vidsim.train.events import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 120  # for a busy machine; alone each start takes about 3 s

pytestmark = pytest.mark.slow


def command(folder, *words):
    flags = ["--workdir", str(folder), *words]
    return [sys.executable, "-m", "tests.train.linear_task", *flags]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def run(folder, *words):
    return subprocess.run(
        command(folder, *words), cwd=ROOT, env=environment(), timeout=LIMIT_S,
        capture_output=True, text=True,
    )  # fmt: skip


def launch(folder, *words):
    return subprocess.Popen(
        command(folder, *words), cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_until(ready, process):
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fingerprint(folder, step):
    """Digests of all arrays of a checkpoint, as its manifest has them."""
    store = CheckpointStore(folder / "checkpoints")
    assert store.verify(step) == []
    return {path: entry["digest"] for path, entry in store.manifest(step).arrays.items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(folder, "--steps", "10")
    assert done.returncode == 0, done.stderr
    return fingerprint(folder, 10)


def test_four_steps_and_a_restart_equal_ten_steps(tmp_path, unbroken):
    assert run(tmp_path, "--steps", "10", "--stop_at", "4").returncode == 42
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [4]
    done = run(tmp_path, "--steps", "10")
    assert done.returncode == 0 and "finished after 6 steps" in done.stdout
    assert fingerprint(tmp_path, 10) == unbroken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_leaves_with_42(tmp_path, unbroken, number):
    process = launch(tmp_path, "--save_every", "100", "--sleep_s", "0.2")
    metrics = tmp_path / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(read_metrics(metrics)) >= 2, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 42, output
    (step,) = CheckpointStore(tmp_path / "checkpoints").steps()
    assert 2 <= step < 10 and f"stopped and saved at step {step}" in output
    assert run(tmp_path).returncode == 0
    assert fingerprint(tmp_path, 10) == unbroken


def test_killed_in_the_middle_of_a_save_loses_that_save_only(tmp_path, unbroken):
    """kill -9 as soon as the third save has begun to write."""
    process = launch(tmp_path, "--save_every", "1", "--sleep_s", "0.1")
    checkpoints = tmp_path / "checkpoints"
    wait_until(lambda: any(checkpoints.glob("3.saving*")), process)
    process.kill()
    process.communicate(timeout=LIMIT_S)
    left = CheckpointStore(checkpoints)
    assert left.steps() and set(left.steps()) <= {1, 2, 3}
    assert all(left.verify(step) == [] for step in left.steps())
    done = run(tmp_path, "--save_every", "1")
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path, 10) == unbroken
    assert not list(checkpoints.glob("*.saving*"))


def test_killed_at_random_moments_still_ends_the_same(tmp_path, unbroken):
    delays_s = (0.5, 1.7, 2.3, 2.9, 3.5)
    for delay_s in delays_s:
        process = launch(tmp_path, "--save_every", "1", "--sleep_s", "0.15")
        time.sleep(delay_s)
        process.kill()
        process.communicate(timeout=LIMIT_S)
    done = run(tmp_path, "--save_every", "1")
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path, 10) == unbroken
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, 11)), "each step is recorded once"


def test_a_folder_of_another_run_is_refused_before_anything_is_written(tmp_path):
    assert run(tmp_path).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    done = run(tmp_path, "--width", "5")
    assert done.returncode == 2 and "width is 4 there; 5 here" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_a_folder_in_use_is_refused(tmp_path):
    process = launch(tmp_path, "--sleep_s", "0.3")
    try:
        wait_until(lambda: (tmp_path / "metrics.jsonl").exists(), process)
        done = run(tmp_path)
        assert done.returncode == 2 and f"in use by process {process.pid}" in done.stderr
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def test_every_checkpoint_damaged_ends_with_46(tmp_path):
    assert run(tmp_path).returncode == 0
    for path in (tmp_path / "checkpoints").glob("*/VIDSIM_MANIFEST.json"):
        path.unlink()
    done = run(tmp_path)
    assert done.returncode == 46 and "is whole" in done.stdout
