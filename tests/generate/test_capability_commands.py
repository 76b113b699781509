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
from vidsim.generate.provenance import read_settings
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


def test_a_picture_larger_than_a_row_of_training_is_planned_and_edited(place, capsys):
    write_media(place / "large.png", noise(1, 160, 128, 5), 1)
    words = ["--video", place / "large.png", "--strength", 0.5, "--prompt", "x"]
    assert vidsim(place, "edit", *words, out="edited.png") == 0
    assert "a row of 384 tokens; trained with up to 91" in capsys.readouterr().out
    assert decode(place / "edited.png").shape == (1, 160, 128, 3)


def test_the_long_command_streams_its_windows_and_clears_up(place, capsys):
    words = ["--size", "24x16", "--seconds", 2, "--fps", 8]
    assert vidsim(place, "long", *words, out="long.mp4") == 0
    assert decode(place / "long.mp4").shape == (16, 16, 24, 3)
    assert not (place / "long.parts").exists()


@pytest.mark.slow
def test_the_long_command_ramps_and_says_what_that_is(place, capsys):
    words = ["--size", "24x16", "--seconds", 2, "--fps", 4, "--ramp"]
    assert vidsim(place, "long", *words, out="ramp.mkv") == 0
    assert "noise that rises along a window" in capsys.readouterr().out
    assert decode(place / "ramp.mkv").shape == (8, 16, 24, 3)
    assert read_settings(place / "ramp.mkv")["options"]["ramp"] is True


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
        (["animate", "--image", A, "--negative", "blur"], "--negative: 'blur' with guidance 1"),
        (["loop", "--prompt", "x"], "--size"),
        (["long", "--size", "24x16", "--seconds", "0"], "--seconds: 0"),
        (["long", "--size", "24x16", "--ramp", "--one-clip"], "--ramp: with --one-clip"),
        (["long", "--size", "24x16", "--ramp", "--noise", "token"], "token with --ramp; shared"),
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


EVERY = ["--steps", "2", "--guidance", "2.5", "--guidance-interval", "0.2:0.9", "--rescale", "0.3",
         "--solver", "sde-euler", "--sde", "0.5", "--noise", "token", "--negative", "blur",
         "--window", "9"]  # fmt: skip
COMMANDS = {
    "animate": ["--image", A, "--frames", "5"],
    "extend": ["--video", A, "--frames", "3", "--direction", "backward"],
    "loop": ["--size", "24x16", "--frames", "8"],
    "join": ["--a", A, "--b", A, "--frames", "2"],
    "edit": ["--video", A, "--strength", "0.7"],
    "long": ["--size", "24x16", "--seconds", "2"],
}


@pytest.mark.parametrize(
    "command",
    ["extend", *(pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS if c != "extend")],
)
def test_every_command_takes_the_samplers_options_and_makes_a_file_again(place, command, tmp_path):
    """Settings reach the file by the names of `vidsim sample`, and --like makes it bit for bit."""
    words = [word.format(place) for word in COMMANDS[command]]
    one, two, three = (str(tmp_path / f"{name}.mkv") for name in ("one", "two", "three"))
    ckpt = ["--ckpt", str(place / "model")]
    assert main([command, *ckpt, *words, "--prompt", "a", "--seed", "7", *EVERY, "--out", one]) == 0
    facts = read_settings(one)
    found = {"steps": 2, "guidance": 2.5, "guidance_range": "0.2:0.9", "rescale": 0.3, "sde": 0.5,
             "solver": "sde-euler", "noise": "token", "negative": "blur", "prompt": "a", "seed": 7,
             "command": command, "step": 3, "checkpoint": str(place / "model")}  # fmt: skip
    assert found.items() <= facts.items() and facts["options"]["window"] == 9
    assert main([command, "--like", one, "--out", two]) == 0
    assert read_settings(two) == facts
    np.testing.assert_array_equal(decode(one), decode(two))
    assert main([command, "--like", one, "--seed", "8", "--out", three]) == 0
    assert read_settings(three) == facts | {"seed": 8}
    assert (decode(one) != decode(three)).any()


def test_given_frames_and_loops_are_guided_less_than_prompts_unless_it_is_said(place):
    """The guidance written into the file is that of the options, or the command's own default."""
    words = ["--prompt", "a", "--size", "24x16", "--frames", "8"]
    for options, guidance in ((["--steps", "1"], 1.0), (["--steps", "1", "--guidance", "2"], 2.0)):
        assert vidsim(place, "loop", *words, options=options) == 0
        facts = read_settings(place / "o.mkv")
        assert facts["guidance"] == guidance and "guidance" not in facts["options"]
    others = {"animate": 1.0, "extend": 1.0, "join": 1.0, "edit": 3.0}
    for command, guidance in others.items():
        given = [word.format(place) for word in COMMANDS[command]]
        assert vidsim(place, command, *given, "--prompt", "a", options=["--steps", "1"]) == 0
        assert read_settings(place / "o.mkv")["guidance"] == guidance, command
    blend = ["--blend", "--prompt", "a", "--prompt-b", "b", "--size", "24x16", "--frames", "9"]
    assert vidsim(place, "join", *blend, options=["--steps", "1"]) == 0
    assert read_settings(place / "o.mkv")["guidance"] == 3.0


def test_settings_of_other_commands_and_kinds_are_refused(place, tmp_path, capsys):
    frame = np.zeros((1, 8, 8, 3), np.uint8)
    facts = {"vidsim": "0", "checkpoint": str(place / "model"), "command": "extend"}
    for name, more in (("a", {"command": "edit"}), ("b", {"options": {"frames": "many"}}),
                       ("c", {"steps": True}), ("d", {"options": [1]})):  # fmt: skip
        write_media(tmp_path / f"{name}.png", frame, 1, facts | more)
    video = ["--video", str(place / "a.mkv")]
    for name, says in (("a", "made by vidsim edit"), ("b", "frames is 'many'"),
                       ("c", "steps is True"), ("d", "options are [1]")):  # fmt: skip
        words = ["extend", "--like", str(tmp_path / f"{name}.png"), *video]
        assert main([*words, "--out", str(tmp_path / "o.mkv")]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1, said
    lone = ["extend", "--ckpt", str(place / "model")]
    for words, says in ((["extend", *video], "no checkpoint"), (lone, "--video: missing")):
        assert main([*words, "--out", str(tmp_path / "o.mkv")]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "o.mkv").exists()


def test_a_long_prompt_is_cut_where_asked(place, capsys):
    words = ["--video", place / "a.mkv", "--frames", 2, "--prompt", "x" * 80]
    assert vidsim(place, "extend", *words, options=[*QUICK, "--cut-prompt"], out="cut.mkv") == 0
    assert "--prompt cut by" in capsys.readouterr().out
    assert len(read_settings(place / "cut.mkv")["prompt"]) < 80
