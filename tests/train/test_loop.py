"""The loop: resumes to the bit, keeps its order, records each step once, ends with its code."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import grain
import jax
import numpy as np
import pytest

from tests.train.linear_task import LinearTask, batches, host_batch, one_device
from vidsim.core.digest import digests
from vidsim.core.errors import BadInput
from vidsim.core.exits import NonFiniteLimit, Preempted
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.workdir import Workdir
from vidsim.train import loop
from vidsim.train.events import read_metrics
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig
from vidsim.train.state import items

OPTIM = OptimConfig(name="muon", lr=0.02, warmup_steps=3)
TIMES = ("step_s", "data_wait_s", "clips_per_s", "clips_per_s_device")


def spec(steps=10, **kwargs):
    return RunSpec(**{"steps": steps, "save_every": 4, "eval_every": 5, "log_every": 1} | kwargs)


@functools.cache  # compiling takes most of the time of these tests
def cached_program(optim, width):
    return build_program(LinearTask(width), spec(), optim, one_device())


def start(folder, run=None, data=None, optim=OPTIM, width=4, program=None, **kwargs):
    run = run or spec()
    workdir = Workdir.open(folder, {"optim": optim.name})
    try:
        program = program or cached_program(optim, width)
        return train(program, data or batches(run.steps), run, workdir, **kwargs)
    finally:
        workdir.close()


def all_digests(state):
    trees = items(state)
    return {n: digests(dict(enumerate(jax.tree.leaves(trees[n])))) for n in trees}


def stop_after(step, data=None):
    """Batches that ask the process to stop (as a scheduler would) while `step` is being made."""

    def batch(s):
        if s == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return host_batch(s)

    return grain.MapDataset.range(10).map(batch)


def test_stopped_and_resumed_is_bitwise_the_run_never_stopped(tmp_path):
    whole = start(tmp_path / "whole")
    with pytest.raises(Preempted) as end:
        start(tmp_path / "parts", data=stop_after(5))
    assert end.value.code == 42
    middle = CheckpointStore(tmp_path / "parts" / "checkpoints").steps()[-1]
    assert 0 < middle < 10
    rest = start(tmp_path / "parts")
    assert rest.steps_done == 10 - middle
    assert all_digests(rest.state) == all_digests(whole.state)

    def untimed(folder):
        records = read_metrics(tmp_path / folder / "metrics.jsonl")
        return [{k: v for k, v in r.items() if k not in TIMES} for r in records]

    assert untimed("parts") == untimed("whole")
    assert [r["step"] for r in untimed("parts")] == list(range(1, 11))


def test_every_save_point_leads_to_the_same_end(tmp_path):
    want = all_digests(start(tmp_path / "whole", spec(6)).state)
    for cut in range(1, 6):
        start(tmp_path / "tmp", spec(6, save_every=1, keep=10))
        steps = tmp_path / "tmp" / "checkpoints"
        for step in range(cut + 1, 7):
            (steps / str(step)).rename(steps / f"{step}.set-aside")
        done = start(tmp_path / "tmp", spec(6, save_every=1, keep=10))
        assert done.steps_done == 6 - cut and all_digests(done.state) == want
        for path in steps.glob("*.set-aside"):
            shutil.rmtree(path)


def test_a_finished_run_does_nothing_more(tmp_path):
    first = start(tmp_path)
    again = start(tmp_path)
    assert again.steps_done == 0
    assert all_digests(again.state) == all_digests(first.state)


def test_order_at_a_step_is_evaluate_save_batch_step_write(tmp_path, monkeypatch):
    seen = []
    real = CheckpointStore.save
    monkeypatch.setattr(
        CheckpointStore,
        "save",
        lambda self, step, *a: (seen.append(("save", step)), real(self, step, *a))[1],
    )
    write = loop.JsonLines.write
    monkeypatch.setattr(
        loop.JsonLines,
        "write",
        lambda self, step, kind, v: (seen.append((kind, step)), write(self, step, kind, v))[1],
    )

    def check(state):
        seen.append(("evaluate", int(state.step)))
        return {"score": 1.0}

    start(tmp_path, spec(4, save_every=2, eval_every=2), evaluations={"val": check})
    assert seen == [
        ("train", 1), ("train", 2), ("evaluate", 2), ("val", 2), ("save", 2),
        ("train", 3), ("train", 4), ("evaluate", 4), ("val", 4), ("save", 4),
    ]  # fmt: skip


def test_the_step_compiles_once_in_a_run(tmp_path):
    program = build_program(LinearTask(), spec(), OptimConfig(), one_device())
    assert start(tmp_path / "a", program=program).compilations == 1
    assert start(tmp_path / "b", spec(5), program=program).compilations == 1, "of any length"


def test_reading_ahead_never_changes_what_is_read(tmp_path):
    ends = [
        all_digests(start(tmp_path / f"{threads}", spec(read_threads=threads, prefetch=9)).state)
        for threads in (1, 4)
    ]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_reading_in_other_processes_never_changes_what_is_read(tmp_path):
    threads = start(tmp_path / "a", spec(6))
    processes = start(tmp_path / "b", spec(6, read_processes=2))
    assert all_digests(threads.state) == all_digests(processes.state)


def test_too_many_bad_gradients_in_a_row_end_the_run(tmp_path, capsys):
    with pytest.raises(NonFiniteLimit, match="3 updates in a row") as end:
        start(tmp_path, spec(nonfinite_limit=3), batches(10, poison=(1, 4, 5, 6)))
    assert end.value.code == 44
    assert "step 2: loss or gradient not finite" in capsys.readouterr().out
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if r["skipped_in_a_row"]] == [2, 5, 6, 7]


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_end_is_the_same(tmp_path, capsys):
    want = all_digests(start(tmp_path).state)
    checkpoints = tmp_path / "checkpoints"
    victim = max((checkpoints / "10").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[40] ^= 1
    victim.write_bytes(content)
    done = start(tmp_path)
    assert done.steps_done == 2 and all_digests(done.state) == want
    assert "passed over a damaged checkpoint, step 10" in capsys.readouterr().out
    assert {p.name for p in checkpoints.iterdir()} == {"4", "8", "10", "10.corrupt"}


def test_another_architecture_in_the_folder_is_refused(tmp_path):
    start(tmp_path)
    with pytest.raises(BadInput, match=r"params/hidden/w is float32\[4,4\]"):
        start(tmp_path, width=5)


def test_too_few_batches_are_refused(tmp_path):
    with pytest.raises(BadInput, match="the data has 5 steps"):
        start(tmp_path, data=batches(5))
    assert not (tmp_path / "checkpoints").exists()


def test_metrics_and_provenance_of_a_run(tmp_path):
    start(tmp_path, spec(6, log_every=2), work=lambda b: {"tokens": 64.0})
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [2, 4, 6]
    assert {"loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_s", "skipped"} <= set(
        records[0]
    )
    body = json.loads((tmp_path / "provenance.json").read_text())
    assert body["starts"][0]["step"] == 0 and "cpu" in body["starts"][0]["devices"]


def test_plain_progress_lines_say_loss_rate_work_and_time_left(tmp_path, capsys):
    start(tmp_path, spec(3), label="vae")
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vae 3/3")]
    assert len(last) == 1
    assert all(word in last[0] for word in ("loss ", "steps/s", "clips/s", "0:00 left"))


def test_a_second_signal_interrupts_at_once():
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    before = signal.getsignal(signal.SIGINT)  # ignored where a script started us in the background
    with pytest.raises(KeyboardInterrupt), loop.StopRequest() as stop:
        assert not stop.asked(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked(0)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    "fields", [{"steps": 0}, {"save_every": 0}, {"ema_decay": 1.0}, {"read_processes": -1}]
)
def test_impossible_runs_are_refused(fields):
    with pytest.raises(BadInput, match="run."):
        spec(**fields)


def test_training_imports_neither_torch_nor_tensorflow(tmp_path):
    code = (
        "import sys; import vidsim.train.loop;"
        "print([m for m in ('torch', 'tensorflow', 'tensorboardX') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_learning_happens(tmp_path):
    optim = OptimConfig(lr=0.05, schedule="wsd")
    done = start(tmp_path, spec(200, save_every=500, eval_every=500, log_every=1), optim=optim)
    losses = [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.1 * losses[0] and np.isfinite(float(done.state.step))
