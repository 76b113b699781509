"""The commands of the capabilities: lossless files keep given frames, bad use writes nothing."""

import dataclasses

import av
import numpy as np
import pytest

from tests.generate.test_media import noise
from tests.generate.tiny_generator import TASK, save_workdir
from vidsim.cli.main import main
from vidsim.config import to_dict
from vidsim.diffusion.masks import KINDS, MaskConfig
from vidsim.generate.write import write_media

QUICK = ["--steps", "1", "--guidance", "1", "--solver", "euler", "--window", "9"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A work directory, media, and a work directory never trained with clean tokens."""
    folder = tmp_path_factory.mktemp("commands")
    for name in ("model", "blind"):
        (folder / name).mkdir()
    save_workdir(folder / "model")
    masks = MaskConfig(**{**dict.fromkeys(KINDS, 0.0), "none": 1.0})
    save_workdir(folder / "blind", denoising=to_dict(dataclasses.replace(TASK.cfg, masks=masks)))
    write_media(folder / "a.mkv", noise(5, 16, 24, 1), 12)
    write_media(folder / "b.mkv", noise(4, 16, 16, 2), 12)
    write_media(folder / "mask.png", np.full((1, 16, 24, 3), 255, np.uint8), 1)
    write_media(folder / "dot.png", noise(1, 1, 1), 1)
    return folder


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def vidsim(place, command, *words, ckpt="model", out="o.mkv", options=QUICK):
    return main([command, "--ckpt", str(place / ckpt), *map(str, words), *options,
                 "--out", str(place / out)])  # fmt: skip


def test_given_frames_are_bit_exact_in_lossless_files(place, capsys):
    given = noise(5, 16, 24, 1)
    assert vidsim(place, "extend", "--video", place / "a.mkv", "--frames", 3) == 0
    made = decode(place / "o.mkv")
    assert made.shape == (8, 16, 24, 3) and np.array_equal(made[:5], given)
    assert "given 0 to 4" in capsys.readouterr().out
    back = ["--direction", "backward", "--n", 2, "--frames", 3, "--frames-of", "1:"]
    assert vidsim(place, "extend", "--video", place / "a.mkv", *back, out="n.mkv") == 0
    for number in (1, 2):
        made = decode(place / f"n-00{number}.mkv")
        assert made.shape == (7, 16, 24, 3) and np.array_equal(made[3:], given[1:])
    assert vidsim(place, "animate", "--image", place / "a.mkv", "--frames", 5) == 0
    assert np.array_equal(decode(place / "o.mkv")[0], given[0])
    edit = ["--video", place / "a.mkv", "--strength", 0.8, "--keep", place / "mask.png"]
    assert vidsim(place, "edit", *edit) == 0
    assert np.array_equal(decode(place / "o.mkv"), given)


def test_the_long_command_streams_its_windows_and_clears_up(place, capsys):
    words = ["--size", "24x16", "--seconds", 2, "--fps", 8]
    assert vidsim(place, "long", *words, out="long.mp4") == 0
    assert decode(place / "long.mp4").shape == (16, 16, 24, 3)
    assert not (place / "long.parts").exists()


A, B = "{}/a.mkv", "{}/b.mkv"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["extend", "--video", A, "--frames", "0"], "--frames: 0; at least 1"),
        (["extend", "--video", A, "--frames-of", "3:9"], "frames 3:9; within 0:5"),
        (["extend", "--video", A, "--direction", "up"], "forward or backward"),
        (["extend", "--video", "{}/none.mp4"], "no such file"),
        (["extend", "--video", A, "--align", "stretch"], "--align: 'stretch'"),
        (["extend", "--video", A, "--prompt", "x" * 80], "at most 63"),
        (["join", "--a", A, "--b", B, "--frames", "2"], "24x16 and 16x16; one size; --size 24x16"),
        (["join", "--a", A, "--frames", "2"], "two: --a and --b"),
        (["edit", "--video", A, "--strength", "1.5"], "--strength: 1.5"),
        (["edit", "--video", A, "--keep", "{}/dot.png"], "dot.png of 1x1; 24x16"),
        (["animate", "--image", "{}/dot.png"], "1x1 pixels; at least 8x8"),
        (["animate", "--image", A, "--frames", "4"], "--frames: 4"),
        (["loop", "--prompt", "x"], "--size"),
        (["long", "--size", "24x16", "--seconds", "0"], "--seconds: 0"),
    ],
)
def test_bad_use_is_one_line_and_writes_nothing(place, words, says, capsys):
    out = place / "bad.mkv"
    command, *rest = (word.format(place) for word in words)
    assert vidsim(place, command, *rest, out="bad.mkv", options=QUICK[:6]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1, said
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["animate", "--image", A], ["extend", "--video", A], ["join", "--a", A, "--b", A]]
)
def test_a_model_without_clean_tokens_says_which_training_adds_them(place, words, capsys):
    command, *rest = (word.format(place) for word in words)
    assert vidsim(place, command, *rest, ckpt="blind", out="bad.mkv") == 2
    said = capsys.readouterr().err
    assert "never trained" in said and "denoising.masks." in said and said.count("\n") == 1
    assert not (place / "bad.mkv").exists()
