"""What log lines say of the machines, and traces of the steps that were asked for."""

import types

import jax
import pytest

from tests.train.test_loop import spec, start
from vidsim.core import peaks
from vidsim.core.errors import BadInput
from vidsim.scaling.topology import CHIPS
from vidsim.train import chips
from vidsim.train.events import read_metrics
from vidsim.train.profile import profiled_steps


def device(kind, process=0, held=None):
    stats = None if held is None else {"peak_bytes_in_use": held}
    return types.SimpleNamespace(
        device_kind=kind, process_index=process, memory_stats=lambda: stats
    )


def test_useful_operations_over_the_peak_of_all_devices():
    two = [device("TPU v5p", held=3), device("TPU v5p", held=5), device("TPU v5p", 1, held=9)]
    facts = chips.device_facts({"tokens_per_s": 30.0, "flops_per_s": 3 * 0.459e15 * 0.4}, two)
    assert facts["tokens_per_s_device"] == 10.0
    assert facts["mfu"] == pytest.approx(0.4)
    assert facts["memory_peak_bytes"] == 5.0  # of this process alone


def test_a_device_without_a_known_peak_gets_no_utilisation():
    facts = chips.device_facts({"flops_per_s": 1e12}, [device("cpu")])
    assert facts == {"flops_per_s_device": 1e12}


@pytest.mark.parametrize(
    "kind, flops",
    [("TPU v5 lite", 197e12), ("TPU v6 lite", 918e12), ("TPU7x", 2307e12 / 2),
     ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("cpu", None),
     ("NVIDIA GeForce RTX 3080", None)],
)  # fmt: skip
def test_peaks_by_the_name_that_jax_gives(kind, flops):
    assert peaks.peak_flops(kind) == flops


def test_plans_count_with_the_same_peaks():
    assert {name: chip.flops for name, chip in CHIPS.items()}.items() <= (
        peaks.TPU_CHIP_FLOPS.items()
    )


def test_the_slowest_of_several_processes_is_named(monkeypatch):
    assert chips.slowest_process(1.0) == {}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        chips.multihost_utils, "process_allgather", lambda x: [[0.25], [float(x)], [0.5]]
    )
    assert chips.slowest_process(2.0) == {"slowest_process": 1.0, "slowest_process_s": 2.0}


def test_log_lines_hold_the_rate_of_a_device(tmp_path):
    start(tmp_path)
    line = [m for m in read_metrics(tmp_path / "metrics.jsonl") if m["kind"] == "train"][-1]
    assert line["clips_per_s_device"] == line["clips_per_s"]  # of one device


def test_named_steps_are_traced_and_nothing_else_changes(tmp_path):
    plain = start(tmp_path / "plain")
    traced = start(tmp_path / "traced", run=spec(profile="3:5"))
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "plain" / "profile").exists()
    pairs = zip(*(jax.tree.leaves(done.state.params) for done in (plain, traced)), strict=True)
    assert all((a == b).all() for a, b in pairs)


@pytest.mark.parametrize("text", ["5", "5:5", "7:5", "a:b", ":4", "3:"])
def test_steps_that_are_no_range_are_refused(text):
    with pytest.raises(BadInput, match="run.profile"):
        profiled_steps(text)
