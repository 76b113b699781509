"""`vidsim launch` as it is typed: refusals before anything is written, dry runs, submission."""

import pathlib
import subprocess
import sys

import pytest

from tests.launch.stubs import calls, put
from vidsim.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = ["--config=experiments/pod.py:base", "--workdir=gs://films/runs/a"]
GKE = ["launch", "gke", *RUN, "--topology=v5e:4x4", "--image=r.dev/p/vidsim:1"]


@pytest.fixture(autouse=True)
def in_the_project(tmp_path, monkeypatch):
    """A working directory that looks like the project's root."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)


def new_files(folder):
    return sorted(p.name for p in folder.iterdir() if p.name not in ("experiments", "bin", "calls"))


def code_of(words):
    try:
        return main(words)
    except SystemExit as left:  # argparse
        return left.code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch", "gek", *RUN, "--topology=v5e:4x4"], "invalid choice: 'gek'"),
        (["launch", "gke", *RUN, "--topology=v5e:4x5", "--image=x"], "v5e has 1x1, 2x2, 2x4"),
        (["launch", "gke", *RUN, "--topology=v9:4x4", "--image=x"], "known: v5e, v5p"),
        (["launch", "gke", "--config=experiments/own_dti.py", "--workdir=gs://films/a",
          "--topology=v5e:4x4", "--image=x"], "did you mean 'own_dit.py'"),
        ([*GKE, "optim.lrr=1"], "unknown key 'lrr'"),
        ([*GKE, "parallel.data=3"], "on 16 devices"),
        ([*GKE, "--slices=2"], "add parallel.slices=2"),
        ([*GKE, "plan.rows_per_step=24", "plan.group_rows=24"], "on data x fsdp = 16"),
        (["launch", "gke", *RUN, "--topology=v5e:4x4"], "--image"),
        (["launch", "gcloud", *RUN, "--topology=v5e:4x4", "--image=x", "--project=p"], "--zone"),
        (["launch", "slurm", *RUN, "--topology=gpu:2x8", "--dry-run"], "mount it"),
        (["launch", "local", *RUN, "--topology=cpu:2"], "mount it"),
        ([*GKE, "--name=A B"], "--name: 'A B'"),
    ],
)  # fmt: skip
def test_bad_use_is_one_line_and_code_2_before_anything_is_written(
    words, message, capsys, tmp_path
):
    assert code_of(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert new_files(tmp_path) == []


def test_a_dry_run_shows_everything_and_writes_nothing(capsys, tmp_path):
    assert main([*GKE, "--dry-run"]) == 0
    said = capsys.readouterr().out
    for words in ("--- jobset.yaml", "kind: JobSet", "start    kubectl apply"):
        assert words in said
    assert "stop     kubectl delete jobset pod-base\n" in said, "named after config and variant"
    assert "fetch    gcloud storage cp --recursive gs://films/runs/a/checkpoints ." in said
    assert new_files(tmp_path) == []


def test_a_dry_run_with_a_folder_leaves_the_files(capsys, tmp_path):
    assert main([*GKE, "--dry-run", "--out=job"]) == 0
    assert "cd job && kubectl apply" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "job").iterdir()] == ["jobset.yaml"]


@pytest.mark.parametrize("code", [0, 5])
def test_a_job_is_handed_to_the_tool_in_the_folder_of_its_files(code, tmp_path, monkeypatch):
    put(tmp_path, "kubectl", f"[[ -s jobset.yaml ]] && exit {code}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert main([*GKE, "--name=first-try", "parallel.data=16"]) == code
    assert calls(tmp_path, "kubectl") == ["kubectl apply --filename=jobset.yaml"]
    assert [p.name for p in (tmp_path / "jobs" / "first-try").iterdir()] == ["jobset.yaml"]


def test_a_missing_tool_is_said_before_anything_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert main(GKE) == 2
    assert "kubectl is not installed here" in capsys.readouterr().err
    assert new_files(tmp_path) == []


def test_local_shows_its_commands(capsys, tmp_path):
    words = ["launch", "local", RUN[0], "--workdir=w", "--topology=cpu:2x2", "--dry-run"]
    assert main([*words, "run.steps=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and new_files(tmp_path) == []
    for i, line in enumerate(lines):
        assert f"VIDSIM_PROCESS={i} " in line and "VIDSIM_PROCESSES=2" in line
        assert line.endswith(
            "vidsim train --config=experiments/pod.py:base --workdir=w run.steps=2"
        )


def test_run_passes_the_code_of_a_refused_command_on(tmp_path):
    """A real child process that is refused at once: one start, no restart, nothing written."""
    done = subprocess.run(
        [sys.executable, "-m", "vidsim", "run", "--restarts=5", "--", "train", "--workdir=w"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--config" in done.stderr and done.stdout.count("ended with 2 (bad use)") == 1
    assert new_files(tmp_path) == []
