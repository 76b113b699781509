"""The command as a user types it: help, refusals in one line, a tiny road to a video."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vidsim.cli.main import COMMANDS, build_parser, main, parse, split_settings
from vidsim.config import load_experiment
from vidsim.generate.write import write_media
from vidsim.runs import build_run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _vidsim(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "vidsim", *map(str, words)],
        capture_output=True, text=True, timeout=300, cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert COMMANDS[command].split(",")[0][:10].lower() in capsys.readouterr().out.lower()


def test_every_option_says_what_it_does():
    for action in build_parser()._subparsers._group_actions[0].choices.values():
        for option in action._actions:
            assert option.help or option.choices, option


def test_settings_may_be_written_as_flags():
    assert split_settings(["--config=x.py", "--config.optim.lr=3", "a=1"]) == [
        "--config=x.py", "optim.lr=3", "a=1",
    ]  # fmt: skip


def test_settings_may_stand_anywhere_among_the_options(capsys):
    words = ["encode", "a=1", "--vae", "v", "b.c=2", "--index", "i.parquet", "--out", "o", "d=x=3"]
    args = parse(words)
    assert args.settings == ["a=1", "b.c=2", "d=x=3"]
    assert (args.vae, args.index, args.out) == ("v", "i.parquet", "o")
    for wrong in ("--wokers=3", "loose", "=3"):
        with pytest.raises(SystemExit) as end:
            parse([*words, wrong])
        assert end.value.code == 2 and f"arguments: {wrong}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["sample", "--ckpt", "demo", "--prompt", "a", "--out", "x.png", "a=1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smaple"], "unknown command 'smaple'; did you mean 'sample'"),
        (["index", "/no/such/folder", "--out", "x.parquet"], "does not exist"),
        (["train", "--config=experiments/shapes_vaee.py", "--workdir", "w"], "shapes_vae.py"),
        (["train", "--config=experiments/shapes_vae.py", "--workdir", "w", "optim.lrr=1"],
         "unknown key 'lrr' in OptimConfig; did you mean 'lr'"),
        (["sample", "--ckpt", "/no/such", "--prompt", "x", "--out", "a.mp4"], "no config.json"),
        (["sample", "--ckpt", "w", "--prompt", "x", "--size", "wide", "--out", "a.mp4"],
         "WIDTHxHEIGHT"),
        (["sample", "--ckpt", "w", "--prompt", "x", "--out", "a.txt"], "ending '.txt'"),
        (["eval", "--ckpt", "w", "--suite", "vea", "--out", "r"], "did you mean 'vae'"),
        (["quickstart", "--minutes", "0", "--workdir", "w"], "0.5 to 600"),
    ],
)  # fmt: skip
def test_bad_use_is_one_line_and_code_2(words, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (ROOT / "w").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.name)
@pytest.mark.parametrize("variant", ["", ":debug"])
def test_every_experiment_builds(path, variant):
    run = build_run(load_experiment(f"{path}{variant}"))
    assert run.run.steps >= 1
    text = path.read_text()
    for word in ("Purpose", "Command", "Hardware", "Cost"):
        assert word in text, f"{path.name} does not say its {word}"
    assert ("Reaches" in text) != ("Target" in text), f"{path.name}: measured, or still a target"


def _own_clips(folder):
    """Three captioned clips of different sizes."""
    rng = np.random.default_rng(0)
    for i, (frames, height, width) in enumerate([(17, 64, 96), (9, 96, 64), (13, 64, 64)]):
        base = rng.integers(0, 255, (1, height, width, 3))
        video = np.stack([np.roll(base[0], 2 * t, 1) for t in range(frames)])
        smooth = (video + np.roll(video, 1, 1) + np.roll(video, 1, 2)) // 3
        write_media(folder / f"clip{i}.mp4", smooth.astype(np.uint8), 12.0)
        (folder / f"clip{i}.txt").write_text(f"clip number {i}")


@pytest.mark.slow
def test_own_videos_go_the_whole_road(tmp_path):
    _own_clips(tmp_path)
    steps = [
        ["index", tmp_path, "--out", tmp_path / "i.parquet"],
        ["train", "--config=experiments/own_vae.py:debug", "--workdir", tmp_path / "vae",
         f"data.index={tmp_path}/i.parquet", "data.crops.batch_size=2",
         "data.crops.image_batch_size=2"],
        ["encode", "--vae", tmp_path / "vae", "--index", tmp_path / "i.parquet",
         "--out", tmp_path / "lat"],
        ["train", "--config=experiments/own_dit.py:debug", "--workdir", tmp_path / "dit",
         f"--config.data.cache={tmp_path}/lat", "denoising.dit.layers=1", "plan.rows_per_step=1"],
        ["sample", "--ckpt", tmp_path / "dit", "--prompt", "clip number 1", "--size", "64x64",
         "--frames", "5", "--steps", "2", "--out", tmp_path / "out.mp4"],
        ["eval", "--ckpt", tmp_path / "dit", "--suite", "vae", "--out", tmp_path / "r",
         f"index={tmp_path}/i.parquet", "clips=3", "--require", "vae/psnr>=5"],
    ]  # fmt: skip
    for words in steps:
        done = _vidsim(*words)
        assert done.returncode == 0, (words, done.stdout[-800:], done.stderr[-1500:])
    assert (tmp_path / "out.mp4").stat().st_size > 200
    assert (tmp_path / "r" / "report.html").exists()
    metrics = [json.loads(x) for x in (tmp_path / "dit" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 3
    again = _vidsim(*steps[3])  # the same command on a finished run does nothing and succeeds
    assert again.returncode == 0 and "resuming at step 3" in again.stdout
    other = _vidsim(*steps[3], "optim.lr=0.5")
    assert other.returncode == 2 and "optim.lr" in other.stderr
