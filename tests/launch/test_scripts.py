"""The rendered scripts, really run by bash, with small programs in place of the clouds' tools."""

import pathlib
import subprocess

import pytest

from tests.launch.jobs import RENDERED, disk_job
from tests.launch.stubs import bash, calls, put
from vidsim.launch.files import write_files
from vidsim.launch.slurm import render_slurm

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A queued resource that goes through the states of the file `states`, one a look, and the file
# `ended` that the training leaves behind.
CLOUD = """
cd {folder}
case "$*" in
  *" describe "*) line=$(head -n 1 states); sed -i 1d states; [[ -n $line ]] && echo "$line" ;;
  "storage cat "*) cat ended 2>/dev/null || exit 1 ;;
  "storage rm "*) rm ended 2>/dev/null || exit 1 ;;
esac
"""


def cloud(folder, states):
    put(folder, "gcloud", CLOUD.format(folder=folder))
    (folder / "states").write_text("".join(f"{s}\n" for s in states))
    write_files(folder, RENDERED["gcloud"].files)
    return folder / "job.sh"


def asked(folder, verb):
    return [c for c in calls(folder, "gcloud") if f" {verb} " in c]


def test_a_preempted_slice_is_asked_for_again_until_the_training_has_ended(tmp_path):
    """NONE is an empty line: `describe` fails. The run ends while the second slice is active."""
    states = ["", "", "ACTIVE", "SUSPENDED", "SUSPENDING", "", "ACTIVE", "ACTIVE"]
    script = cloud(tmp_path, states)
    put(
        tmp_path, "sleep", f"[[ -s {tmp_path}/states ]] || echo '{{\"code\": 0}}' >{tmp_path}/ended"
    )
    done = bash(tmp_path, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(asked(tmp_path, "create")) == 2
    assert len(asked(tmp_path, "delete")) == 2, "the preempted one, and the last one"
    create = asked(tmp_path, "create")[0]
    assert "queued-resources create own-dit --node-id=own-dit" in create
    assert "--project=films --zone=us-west4-a" in create and "--quiet" in create


@pytest.mark.parametrize("code", [2, 44, 134])
def test_a_final_end_deletes_the_slice_and_is_passed_on(tmp_path, code):
    script = cloud(tmp_path, ["ACTIVE"] * 3)
    (tmp_path / "ended").write_text(f'{{"code": {code}, "meaning": "x", "id": "y"}}\n')
    done = bash(tmp_path, script, POLL_S="0")
    assert done.returncode == code, done.stdout + done.stderr
    assert len(asked(tmp_path, "delete")) == 1 and not asked(tmp_path, "create")


def test_what_an_earlier_job_said_is_not_taken_for_the_end(tmp_path):
    script = cloud(tmp_path, ["", "", "ACTIVE"])
    (tmp_path / "ended").write_text('{"code": 44}\n')
    put(
        tmp_path, "sleep", f"[[ -s {tmp_path}/states ]] || echo '{{\"code\": 0}}' >{tmp_path}/ended"
    )
    assert bash(tmp_path, script).returncode == 0
    assert len(asked(tmp_path, "create")) == 1


def test_a_slice_that_is_never_kept_is_given_up(tmp_path):
    script = cloud(tmp_path, [""] + ["", "FAILED"] * 30)
    text = script.read_text()
    assert "restarts=20\n" in text
    script.write_text(text.replace("restarts=20\n", "restarts=2\n"))
    done = bash(tmp_path, script, POLL_S="0")
    assert done.returncode == 42 and len(asked(tmp_path, "create")) == 3


METADATA = """
case "$*" in
  *agent-worker-number) echo 3 ;;
  *tpu-env) printf "ACCELERATOR_TYPE: 'v6e-256'\\n%s" "$SLICE_LINE" ;;
esac
"""


@pytest.mark.parametrize(
    ("line", "host"), [("", 3), ("MEGASCALE_SLICE_ID: '2'\n", 2 * 64 + 3)], ids=["one", "several"]
)
def test_a_host_starts_its_container_with_its_own_number(tmp_path, line, host):
    write_files(tmp_path, RENDERED["gcloud-slices"].files)
    put(tmp_path, "curl", METADATA)
    put(tmp_path, "gcloud")
    put(tmp_path, "docker")
    done = bash(tmp_path, tmp_path / "startup.sh", SLICE_LINE=line)
    assert done.returncode == 0, done.stderr
    pull, remove, run = calls(tmp_path, "docker")
    assert pull == "docker pull us-docker.pkg.dev/p/r/vidsim:1" and "rm --force" in remove
    assert f" --env=VIDSIM_HOST={host} " in run
    assert r"--env=VIDSIM_BUCKETS=my.films\ latents" in run
    assert r"vidsim run --restarts=20 --announce -- train" in run
    assert calls(tmp_path, "gcloud") == ["gcloud auth configure-docker us-docker.pkg.dev --quiet"]


def test_a_pull_that_fails_is_tried_again(tmp_path):
    write_files(tmp_path, RENDERED["gcloud"].files)
    put(tmp_path, "curl", METADATA)
    put(tmp_path, "gcloud")
    put(tmp_path, "sleep")
    tries = f"[[ $1 != pull ]] || [[ $(grep -c pull {tmp_path}/calls) -ge 3 ]]"
    put(tmp_path, "docker", tries)
    assert bash(tmp_path, tmp_path / "startup.sh", SLICE_LINE="").returncode == 0
    assert [c.split()[1] for c in calls(tmp_path, "docker")] == ["pull"] * 3 + ["rm", "run"]


def slurm(tmp_path, code, said=None, **variables):
    """Runs the batch script with an `srun` that ends with `code` after a task said `said`."""
    job = disk_job("gpu:2x8", workdir=str(tmp_path / "it's one"), restarts=3)
    (tmp_path / "it's one").mkdir()
    (tmp_path / "it's one" / "ended.json").write_text('{"code": 45}\n')  # of an earlier job
    write_files(tmp_path, render_slurm(job).files)
    tell = f'echo \'{{"code": {said}}}\' >"{tmp_path}/it\'s one/ended.json"' if said else ""
    for name, body in (("vidsim", ""), ("srun", f"{tell}\nexit {code}"), ("scontrol", "")):
        put(tmp_path, name, body)
    return bash(tmp_path, tmp_path / "job.sbatch", SLURM_JOB_ID="77", **variables)


@pytest.mark.parametrize("code", [42, 43, 1, 134, 137, 143])
def test_slurm_puts_mendable_ends_back_into_the_queue(tmp_path, code):
    done = slurm(tmp_path, code)
    assert done.returncode == 0 and calls(tmp_path, "scontrol") == ["scontrol requeue 77"]
    (run,) = calls(tmp_path, "srun")
    assert "--kill-on-bad-exit=1 vidsim run --restarts=0 --announce -- train" in run


@pytest.mark.parametrize("code", [0, 2, 44, 47])
def test_slurm_leaves_final_ends_alone(tmp_path, code):
    assert slurm(tmp_path, code).returncode == code
    assert not calls(tmp_path, "scontrol")


def test_slurm_hears_the_task_that_gave_up_over_those_killed_with_it(tmp_path):
    assert slurm(tmp_path, 137, said=44).returncode == 44
    assert not calls(tmp_path, "scontrol")


def test_slurm_counts_its_restarts(tmp_path):
    assert slurm(tmp_path, 42, SLURM_RESTART_COUNT="3").returncode == 42
    assert not calls(tmp_path, "scontrol")


def test_slurm_without_vidsim_is_one_line(tmp_path):
    write_files(tmp_path, RENDERED["slurm-cpu"].files)
    done = subprocess.run(
        ["/bin/bash", str(tmp_path / "job.sbatch")], env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "not on PATH" in done.stdout


def test_the_image_mounts_its_buckets_and_becomes_the_command(tmp_path):
    put(tmp_path, "gcsfuse")
    put(tmp_path, "vidsim", "exit 42")
    words = ["bash", ROOT / "launch" / "entrypoint.sh", "vidsim", "run", "it's one"]
    variables = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "VIDSIM_MOUNTS": str(tmp_path / "gcs")}
    for buckets in ("my.films latents", ""):
        done = subprocess.run(words, env=variables | {"VIDSIM_BUCKETS": buckets}, timeout=60)
        assert done.returncode == 42, "the command's own code, also when nothing is mounted"
    assert calls(tmp_path, "gcsfuse") == [
        f"gcsfuse --implicit-dirs {b} {tmp_path}/gcs/{b}" for b in ("my.films", "latents")
    ]
    assert calls(tmp_path, "vidsim") == [r"vidsim run it\'s\ one"] * 2


def test_the_image_copies_what_exists_and_is_not_ignored():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    kept = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().split()
    assert {"pyproject.toml", "vidsim", "experiments", "launch/entrypoint.sh"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(source == k[1:] or source.startswith(f"{k[1:]}/") for k in kept if k[0] == "!")
