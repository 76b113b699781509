"""Two real processes on loopback train one run; one is killed, the group starts again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vidsim.generate.write import write_media
from vidsim.store.checkpoints import CheckpointStore

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 1200  # for a busy machine
TINY = [
    "data.crops.canvases=((1,16,16),)", "data.crops.batch_size=2", "data.statistics_clips=1",
    "data.crops.image_batch_size=2", "autoencoding.vae.base_dim=8", "autoencoding.start=random",
    "autoencoding.vae.latent_channels=8", "run.tensorboard=False",
]  # fmt: skip


def vidsim(*words):
    return [sys.executable, "-m", "vidsim", *map(str, words)]


def environment():
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return clean | {"PYTHONPATH": str(ROOT)}


def make_index(folder):
    video = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    write_media(folder / "clip.mp4", video, 12.0)
    (folder / "clip.txt").write_text("noise")
    words = vidsim("index", folder, "--out", folder / "i.parquet")
    subprocess.run(words, check=True, cwd=ROOT, env=environment(), timeout=LIMIT_S)
    return folder / "i.parquet"


def process_number(number, workdir):
    """Process id of one of the two, from /proc; None before it exists."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"VIDSIM_PROCESS={number}".encode() not in (path / "environ").read_bytes():
                continue
            if f"--workdir={workdir}".encode() in (path / "cmdline").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue
    return None


@pytest.mark.slow
def test_a_killed_process_ends_the_group_and_the_group_resumes(tmp_path):
    index, workdir = make_index(tmp_path), tmp_path / "run"
    process = subprocess.Popen(
        vidsim("launch", "local", "--config=experiments/own_vae.py:debug", "--workdir", workdir,
               "--topology=cpu:2", "--restarts=2", f"data.index={index}", "run.steps=60",
               "run.save_every=5", "run.log_every=1", "run.eval_every=60", *TINY),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        store = CheckpointStore(workdir / "checkpoints")
        while not store.steps():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process_number(1, workdir), signal.SIGKILL)
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        for _ in range(2):  # the first stop is passed on, the second kills at once
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        process.wait(timeout=LIMIT_S)
    assert process.returncode == 0, output[-3000:]
    assert store.steps()[-1] == 60 and store.verify(60) == []
    lines = [json.loads(x) for x in (workdir / "goodput.jsonl").read_text().splitlines()]
    first, second = (x for x in lines if x["event"] == "end")
    assert first["exit_code"] not in (0, 2, 42) and first["action"] == "restart"
    assert second["exit_code"] == 0 and 5 <= first["steps_gained"] < 60
    assert first["steps_gained"] + second["steps_gained"] == 60
    steps = [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61)), "each step is recorded once"
    assert f"resuming at step {first['steps_gained']}" in output
