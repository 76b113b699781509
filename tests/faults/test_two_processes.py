"""Training over two processes: one set of files, and weights that go on over one process."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from vidsim.store.checkpoints import CheckpointStore
from vidsim.train.events import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 120

pytestmark = pytest.mark.slow


def launch(folder, devices, *words):
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.train.linear_task", "--workdir", str(folder), *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def launch_two(folder, *words):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    numbered = (("--process", str(i), "--port", port) for i in range(2))
    return [launch(folder, 2, *pair, *words) for pair in numbered]


def finish(processes):
    try:
        outputs = [p.communicate(timeout=LIMIT_S)[0] for p in processes]
    finally:
        for p in processes:  # SIGTERM would be swallowed by the preemption service
            p.kill()
    return [p.returncode for p in processes], outputs


def losses(folder):
    return [r["loss"] for r in read_metrics(folder / "metrics.jsonl")]


def test_two_processes_write_one_run_and_one_process_can_go_on(tmp_path):
    codes, outputs = finish(launch_two(tmp_path / "two"))
    assert codes == [0, 0], outputs
    store = CheckpointStore(tmp_path / "two" / "checkpoints")
    assert store.steps() == [4, 8, 10] and store.verify(10) == []
    assert sum("train 10/10" in text for text in outputs) == 1, "one process speaks"

    codes, outputs = finish([launch(tmp_path / "one", 1)])
    assert codes == [0], outputs
    # Sums over devices are taken in another order.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)

    for path in (tmp_path / "two" / "checkpoints" / "10", tmp_path / "two" / "checkpoints" / "8"):
        path.rename(path.with_name(f"{path.name}.set-aside"))
    codes, outputs = finish([launch(tmp_path / "two", 1)])
    assert codes == [0] and "finished after 6 steps" in outputs[0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_stop_of_one_process_saves_and_ends_both_with_42(tmp_path):
    processes = launch_two(tmp_path, "--save_every", "100", "--steps", "400", "--sleep_s", "0.1")
    try:
        metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + LIMIT_S
        while not (metrics.exists() and len(read_metrics(metrics)) >= 2):
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
    finally:
        codes, outputs = finish(processes)
    assert codes == [42, 42], outputs
    (step,) = CheckpointStore(tmp_path / "checkpoints").steps()
    assert 2 <= step < 400
