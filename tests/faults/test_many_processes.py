"""Training over real processes on loopback: a layout changes where, never what, is computed."""

import json
import shutil

import pytest

from tests.parallel.members import finish, launch_all
from vidsim.store.checkpoints import CheckpointStore
from vidsim.train.events import read_metrics

ME = "tests.parallel.packed_run"
SAME = 2e-5  # float32 sums over devices in another order, six optimizer steps
# processes, devices of each, how they are laid out; the third reads each row in two processes
LAYOUTS = {
    "two": (2, 2, {"preset": "fsdp"}),
    "four": (4, 2, {"preset": "fsdp", "data": 2}),
    "shared": (2, 2, {"preset": "context", "context": 4}),
    "four shared": (4, 1, {"preset": "fsdp_context", "context": 2}),
}

pytestmark = pytest.mark.slow


def run(folder, processes, devices, parallel, *words):
    layout = ["--workdir", str(folder), "--parallel", json.dumps(parallel), *words]
    return finish(launch_all(ME, processes, *layout, devices=devices))


def losses(folder):
    return [r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "train"]


def clips(folder, processes):
    """Clip keys of every step by row, from what all processes noted."""
    steps = []
    for process in range(processes):
        path = folder.parent / f"{folder.name}.clips.{process}.jsonl"
        for step, line in enumerate(map(json.loads, path.read_text().splitlines())):
            if step == len(steps):
                steps.append({})
            for row, keys in zip(line["rows"], line["keys"], strict=True):
                assert steps[step].setdefault(row, keys) == keys
    return steps


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    codes, _, errors = run(folder, 1, 1, {})
    assert codes == [0], errors
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_the_losses_and_reads_the_clips_of_one_process(name, alone, tmp_path):
    processes, devices, parallel = LAYOUTS[name]
    codes, _, errors = run(tmp_path / "run", processes, devices, parallel)
    assert codes == [0] * processes, errors
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=SAME)
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert record["slowest_process"] in range(processes)
        assert record["slowest_process_s"] >= record["data_wait_s"] * 0.999  # process 0 writes
        rate = record["tokens_per_s"] / (processes * devices)
        assert record["tokens_per_s_device"] == pytest.approx(rate)
    seen = clips(tmp_path / "run", processes)
    assert seen == clips(alone, 1) and len(seen) == 6
    if "shared" not in name:
        lines = (tmp_path / "run.clips.0.jsonl").read_text().splitlines()
        assert len(json.loads(lines[0])["rows"]) == 8 // processes, "its own rows alone"
    elif name == "shared":
        parts = [json.loads((tmp_path / f"run.clips.{p}.jsonl").read_text().splitlines()[0])
                 for p in range(2)]  # fmt: skip
        assert parts[0]["rows"] == parts[1]["rows"]
        assert [p["tokens"] for p in parts] == [[0, 48], [48, 96]]


def test_four_processes_save_and_two_or_one_go_on(alone, tmp_path):
    four = tmp_path / "four"
    codes, _, errors = run(four, 4, 2, {"preset": "fsdp", "data": 2}, "--stop_at", "2")
    assert codes == [42] * 4, errors
    assert CheckpointStore(four / "checkpoints").steps() == [2]
    for processes, parallel in ((2, {"preset": "fsdp"}), (1, {})):
        folder = tmp_path / f"of{processes}"
        shutil.copytree(four, folder)
        codes, outputs, errors = run(folder, processes, 2 if processes == 2 else 1, parallel)
        assert codes == [0] * processes, errors
        assert any("resuming at step 2" in text for text in outputs)
        assert losses(folder) == pytest.approx(losses(alone), rel=SAME)


def test_unreadable_clips_end_the_run_with_45_or_are_counted_on_every_process(tmp_path):
    codes, outputs, errors = run(tmp_path / "strict", 1, 1, {}, "--broken")
    assert codes == [45], errors
    assert "the data of step 0 cannot be read: cache: piece" in outputs[0]
    two = (2, 1, {"preset": "data"}, "--broken", "--bad_data_limit")
    codes, _, errors = run(tmp_path / "lenient", *two, "100")
    assert codes == [0, 0], errors
    first = [text for text in errors if "epoch 0 step 0: clip" in text]
    assert len(first) == 1 and "is left out: cache: piece" in first[0], "its reader speaks"
    left_out = [r["left_out"] for r in read_metrics(tmp_path / "lenient" / "metrics.jsonl")]
    assert left_out[0] == 1 and len(left_out) == 6
