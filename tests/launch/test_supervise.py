"""Supervision of real processes: which ends are answered with a restart, and what it cost."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.supervisor import fake
from vidsim.cli.main import main
from vidsim.core.errors import BadInput
from vidsim.core.exits import GIVE_UP, RESTARTABLE
from vidsim.launch.group import StopRequest, one_code, run_group
from vidsim.launch.ledger import Ledger, saved_step, useful_seconds
from vidsim.launch.supervise import Board, Patience, first_host, supervise

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 60


def run(folder, plan, restarts=9, *words, board=None):
    said = []
    code = supervise(
        lambda: [fake(folder, plan, *words)],
        Patience(restarts, delay_s=0.01, longest_delay_s=0.02),
        ledger=Ledger(folder), board=board, say=said.append,
    )  # fmt: skip
    return code, said


def ends(folder):
    return [r for r in Ledger(folder).records() if r["event"] == "end"]


def test_the_table_of_exit_codes():
    """The published table: 2 and 44-47 fail, 42 and 43 restart; nothing is in both."""
    assert GIVE_UP == {2, 44, 45, 46, 47} and RESTARTABLE == {42, 43}


def test_preemption_watchdog_crash_and_kill_are_restarted_until_done(tmp_path):
    code, said = run(tmp_path, "42,43,1,kill,0")
    assert code == 0
    assert [r["exit_code"] for r in ends(tmp_path)] == [42, 43, 1, 137, 0]
    assert [r["action"] for r in ends(tmp_path)] == ["restart"] * 4 + ["done"]
    assert [r["steps_gained"] for r in ends(tmp_path)] == [10] * 5
    assert "goodput" in said[-1] and "5 starts" in said[-1]


@pytest.mark.parametrize("code", sorted(GIVE_UP - {2}))
def test_ends_that_no_restart_mends_are_final(tmp_path, code):
    assert run(tmp_path, f"1,{code},0")[0] == code
    assert [r["action"] for r in ends(tmp_path)] == ["restart", "give up"]


def test_a_refused_command_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "not" / "made"
    assert run(folder, "2,0", board=Board(tmp_path))[0] == 2
    assert not (folder / "goodput.jsonl").exists()


def test_restarts_are_counted(tmp_path):
    assert run(tmp_path, "1,1,1,0", 2)[0] == 1
    assert [r["action"] for r in ends(tmp_path)] == ["restart", "restart", "give up"]


def test_goodput_is_the_time_of_saved_steps_over_all_time(tmp_path):
    run(tmp_path, "1,0", 9, "--gain", "4", "--step_s", "0.05")
    sums = Ledger(tmp_path).goodput()
    assert sums.steps_gained == 8 and sums.useful_s == pytest.approx(8 * 0.05)
    records = Ledger(tmp_path).records()
    wall_s = records[-1]["end"] - records[0]["start"]
    assert sums.wall_s == pytest.approx(wall_s) and sums.share == pytest.approx(0.4 / wall_s)


def test_steps_that_were_lost_are_not_useful(tmp_path):
    """fake_run writes two steps more to the metrics than it saves."""
    run(tmp_path, "0", 0, "--gain", "3", "--step_s", "0.01")
    assert saved_step(tmp_path) == 3
    assert useful_seconds(tmp_path, 0, 3) == pytest.approx(0.03)
    assert useful_seconds(tmp_path, 3, 3) == 0.0


def test_a_machine_that_went_away_is_closed_by_the_next_start(tmp_path):
    """The supervisor itself is killed: its last start has no end until someone comes back."""
    process = start_supervisor(tmp_path, "wait,0")
    wait_for(tmp_path / "ready", process)
    wait_for(tmp_path / "goodput.jsonl", process)
    process.kill()
    process.wait()
    wait_until_gone(tmp_path)
    with (tmp_path / "goodput.jsonl").open("a") as stream:
        stream.write('{"event": "en')  # a line torn by the fall
    assert run(tmp_path, "wait,0")[0] == 0
    first, second = ends(tmp_path)
    assert (first["action"], first["exit_code"], first["steps_gained"]) == ("lost", None, 10)
    assert (second["action"], second["exit_code"], second["steps_gained"]) == ("done", 0, 10)


def start_supervisor(folder, plan, grace_s=5.0):
    words = [sys.executable, "-m", "tests.launch.supervisor", str(folder), "--plan", plan]
    return subprocess.Popen(
        [*words, f"--grace_s={grace_s}"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(path, process):
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def child_of(folder):
    """Process id of the fake run of a folder, from /proc; None when there is none."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(w.endswith(b"fake_run.py") for w in words) and str(folder).encode() in words:
            return int(path.parent.name)
    return None


def wait_until_gone(folder):
    deadline = time.monotonic() + LIMIT_S
    while child_of(folder) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children outlive their parent")
def test_no_orphan_is_left_when_the_supervisor_is_killed(tmp_path):
    process = start_supervisor(tmp_path, "wait,0")
    wait_for(tmp_path / "ready", process)
    assert child_of(tmp_path) is not None
    process.kill()
    process.wait()
    wait_until_gone(tmp_path)


def test_a_stop_is_passed_on_and_not_answered_with_a_restart(tmp_path):
    process = start_supervisor(tmp_path, "wait,0")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 42, output
    assert [r["action"] for r in ends(tmp_path)] == ["stop"]
    assert not (tmp_path / "ended.json").exists(), "a stopped job has not ended"


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path):
    process = start_supervisor(tmp_path, "hang", grace_s=0.3)
    wait_for(tmp_path / "ready", process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 137 and time.monotonic() - began >= 0.3, output
    assert child_of(tmp_path) is None


def test_a_second_stop_kills_at_once(tmp_path):
    process = start_supervisor(tmp_path, "hang", grace_s=1000)
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 137


def test_one_failure_ends_a_group(tmp_path):
    """The peer of a failed process hangs, as one inside a collective does."""
    group = [fake(tmp_path / "a", "hang"), fake(tmp_path / "b", "44")]
    with StopRequest() as stop:
        assert run_group(group, stop, grace_s=5, settle_s=0.1) == 44


@pytest.mark.parametrize(
    ("codes", "one"),
    [([0, 0], 0), ([0, 1], 1), ([134, 2], 2), ([134, 45, 137], 45), ([1, 43], 43), ([42, 42], 42),
     ([139, 1], 139)],
)  # fmt: skip
def test_one_code_for_a_group(codes, one):
    assert one_code(codes) == one


def test_hosts_tell_each_other_of_a_final_end(tmp_path):
    """Host b waits between two starts while host a gives up; what an earlier job said is past."""
    shared = tmp_path / "shared"
    Board(shared).post(45)
    board = Board(shared)
    said = []

    def starts():
        Board(shared).post(44)  # meanwhile, on another host
        return [fake(tmp_path / "b", "1,0")]

    code = supervise(starts, Patience(9, delay_s=30), ledger=None, board=board, say=said.append)
    assert code == 44 and "another host ended with 44 (non-finite limit)" in said[-1]
    assert json.loads((shared / "ended.json").read_text())["code"] == 44


def test_a_used_up_supervisor_tells_too_unless_another_restarts(tmp_path):
    run(tmp_path / "a", "1,1", 1, board=Board(tmp_path / "a"))
    assert json.loads((tmp_path / "a" / "ended.json").read_text())["code"] == 1
    run(tmp_path / "b", "1", 0, board=Board(tmp_path / "b"))
    assert not (tmp_path / "b" / "ended.json").exists()


@pytest.mark.parametrize(
    ("variables", "first"),
    [({}, True), ({"SLURM_PROCID": "0"}, True), ({"SLURM_PROCID": "3"}, False),
     ({"JOB_COMPLETION_INDEX": "0", "MEGASCALE_SLICE_ID": "1"}, False),
     ({"JOB_COMPLETION_INDEX": "0", "MEGASCALE_SLICE_ID": "0"}, True),
     ({"VIDSIM_HOST": "5"}, False)],
)  # fmt: skip
def test_one_host_keeps_the_ledger(variables, first):
    assert first_host(variables) is first


def test_run_refuses_what_it_cannot_supervise(capsys):
    for words, message in [
        (["run", "--restarts", "1", "--", "tarin"], "did you mean 'train'"),
        (["run", "--restarts", "1", "--", "run", "--restarts", "1"], "command 'run'"),
        (["run", "--restarts", "1"], "command ''"),
        (["run", "--restarts", "-1", "--", "train"], "--restarts: -1; 0 or more"),
        (["run", "--restarts", "1", "--announce", "--", "train"], "train without --workdir"),
    ]:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_patience_has_limits():
    with pytest.raises(BadInput, match="--grace"):
        Patience(1, grace_s=-1)
