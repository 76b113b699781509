"""The work directory: made, entered again by the same run, refused to any other."""

import json
import subprocess
import sys

import pytest

from vidsim.core.errors import BadInput
from vidsim.store.workdir import Workdir, git_id, read_config

CONFIG = {"model": {"width": 64, "axes": (1, 2)}, "run": {"steps": 10, "log_every": 5}}


def changed(**run):
    return CONFIG | {"run": CONFIG["run"] | run}


def opened(path, *args, **kwargs):
    workdir = Workdir.open(path, *args, **kwargs)
    workdir.close()
    return workdir


def test_the_same_run_enters_again(tmp_path):
    assert not opened(tmp_path / "w", CONFIG, {"index": "aa"}).resumed
    assert opened(tmp_path / "w", CONFIG, {"index": "aa"}).resumed
    assert read_config(tmp_path / "w") == json.loads(json.dumps(CONFIG))


@pytest.mark.parametrize(
    "config, message",
    [
        (changed(steps=20), "run.steps is 10 there; 20 here"),
        (CONFIG | {"model": {"width": 32, "axes": (1, 2)}}, "model.width is 64 there; 32 here"),
        (
            CONFIG | {"model": {"width": 64, "axes": (1, 3)}},
            "model.axes is [1, 2] there; [1, 3] here",
        ),
        (CONFIG | {"extra": 1}, "extra is 'absent' there; 1 here"),
    ],
)
def test_another_run_is_refused_by_the_first_key_and_nothing_changes(tmp_path, config, message):
    opened(tmp_path, CONFIG)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(BadInput) as error:
        opened(tmp_path, config)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_free_keys_may_change_and_are_noted(tmp_path):
    opened(tmp_path, CONFIG)
    assert opened(tmp_path, changed(log_every=1), free=("run.log_every",)).resumed
    assert read_config(tmp_path)["run"]["log_every"] == 1


def test_a_setting_newer_than_the_folder_had_its_default(tmp_path):
    opened(tmp_path, CONFIG)

    def read(stored):
        return {"more": []} | stored

    with pytest.raises(BadInput, match="more is .* there"):
        opened(tmp_path, CONFIG | {"more": ["b"]}, read=read)
    assert opened(tmp_path, CONFIG | {"more": []}, read=read).resumed
    with pytest.raises(BadInput, match="run.steps is 10 there"):
        opened(tmp_path, changed(steps=20) | {"more": []}, read=read)


def test_other_data_is_refused(tmp_path):
    opened(tmp_path, CONFIG, {"index": "aa"})
    with pytest.raises(BadInput, match="trained on index aa"):
        opened(tmp_path, CONFIG, {"index": "bb"})


def test_a_folder_with_checkpoints_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(BadInput, match="no config.json"):
        opened(tmp_path, CONFIG)


def test_a_damaged_config_is_one_line(tmp_path):
    opened(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        opened(tmp_path, CONFIG)


def test_a_remote_address_is_refused():
    with pytest.raises(BadInput, match="mount the bucket"):
        Workdir.open("gs://bucket/run", CONFIG)


def test_only_one_process_at_a_time(tmp_path):
    first = Workdir.open(tmp_path, CONFIG)
    with pytest.raises(BadInput, match="in use by process"):
        Workdir.open(tmp_path, CONFIG)
    first.close()
    opened(tmp_path, CONFIG)


def test_the_lock_goes_with_its_process(tmp_path):
    program = (
        "import os, sys; from vidsim.store.workdir import Workdir;"
        "Workdir.open(sys.argv[1], {}); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert done.returncode == 9
    assert opened(tmp_path, {}).resumed


def test_starts_are_recorded(tmp_path):
    workdir = Workdir.open(tmp_path, CONFIG)
    workdir.record_start(0)
    workdir.record_start(7, {"devices": "2 x cpu"})
    starts = json.loads((tmp_path / "provenance.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, 7] and starts[1]["devices"] == "2 x cpu"
    assert starts[0]["libraries"]["jax"] and "git" in starts[0]


def test_git_id_says_when_files_were_changed(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert git_id(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    assert git_id(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert git_id(tmp_path).endswith("+changes")
