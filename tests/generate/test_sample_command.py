"""`vidsim sample` as typed: off-grid sizes, variations, settings there and back, refusals."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.generate.tiny_generator import make_model, save_workdir
from vidsim.cli.main import main
from vidsim.data.packing import RowLimits
from vidsim.generate.fit import cut_text, excess, fit
from vidsim.generate.pack import Request, TokenGrid
from vidsim.generate.provenance import GENERATED, read_settings, source_type
from vidsim.generate.write import write_media


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoiser")
    save_workdir(folder)
    return folder


@pytest.fixture
def vidsim(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder: (code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["sample", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


QUICK = ("--steps", 2, "--guidance", 1, "--solver", "euler")


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (1, 1), (40, 9)])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_the_next_size_is_never_smaller_and_always_possible(size, frames):
    grid = TokenGrid(2, 4, (1, 2, 2))
    asked = Request("x", *size, frames)
    fitted = fit(grid, asked)
    grid.grid(fitted.sampled)  # raises off the grid
    video = np.zeros((fitted.sampled.num_frames, fitted.sampled.height, fitted.sampled.width, 3))
    assert fitted.cut(video).shape == (frames, *size, 3)
    over = np.subtract(video.shape[1:3], size)
    assert (over >= 0).all() and (over < 8).all() and 0 <= len(video) - frames < 2
    assert bool(fitted.notice) == (fitted.sampled != asked)


def test_off_the_grid_is_cropped_from_the_middle_and_said(vidsim, workdir):
    code, out, _ = vidsim("--ckpt", workdir, "--prompt", "a", "--size", "21x14", "--frames", 4,
                          *QUICK, "--out", "a.mkv")  # fmt: skip
    assert code == 0
    assert "sampled at 24x16, cropped at the centre to 21x14" in out
    assert "sampled with 5 frames, the first 4 kept" in out
    code, _, _ = vidsim("--ckpt", workdir, "--prompt", "a", "--size", "24x16", "--frames", 5,
                        *QUICK, "--out", "b.mkv")  # fmt: skip
    small, large = _pixels("a.mkv"), _pixels("b.mkv")
    assert small.shape == (4, 14, 21, 3)
    np.testing.assert_array_equal(small, large[:4, 1:15, 1:22])


def _pixels(path):
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_like_makes_the_same_video_and_options_change_it(vidsim, workdir, tmp_path):
    first = ("--ckpt", workdir, "--prompt", "a \"red\" ball", "--negative", "blurry", "--size",
             "20x16", "--frames", 3, "--fps", 12, "--seed", 7, "--steps", 3, "--guidance", 2.5,
             "--guidance-range", "0.2:0.9", "--rescale", 0.3, "--solver", "sde-euler", "--sde", 0.5,
             "--noise", "token", "--out", "a.mkv")  # fmt: skip
    assert vidsim(*first)[0] == 0
    assert source_type("a.mkv") == GENERATED
    assert vidsim("--like", "a.mkv", "--out", "b.mkv")[0] == 0
    assert read_settings("b.mkv") == read_settings("a.mkv")
    np.testing.assert_array_equal(_pixels("a.mkv"), _pixels("b.mkv"))
    assert vidsim("--like", "a.mkv", "--seed", 8, "--out", "c.mkv")[0] == 0
    assert read_settings("c.mkv") == read_settings("a.mkv") | {"seed": 8}
    assert (_pixels("a.mkv") != _pixels("c.mkv")).any()


def test_variations_are_seeds_of_one_prompt_with_a_sheet(vidsim, workdir, tmp_path):
    code, out, _ = vidsim("--ckpt", workdir, "--prompt", "a", "--size", "16x16", "--frames", 3,
                          "--seed", 5, "--variations", 3, *QUICK, "--out", "v.png.mkv")  # fmt: skip
    assert code == 0 and "v.png-sheet.png" in out
    seeds = [read_settings(f"v.png-00{i}.mkv")["seed"] for i in (1, 2, 3)]
    assert seeds == [5, 6, 7]
    assert (_pixels("v.png-001.mkv") != _pixels("v.png-002.mkv")).any()
    assert read_settings("v.png-sheet.png")["variations"] == 3
    with Image.open("v.png-sheet.png") as image:
        assert image.width > 3 * 96
    assert vidsim("--like", "v.png-sheet.png", "--out", "w.mkv")[0] == 0
    for i in (1, 2, 3):
        np.testing.assert_array_equal(_pixels(f"v.png-00{i}.mkv"), _pixels(f"w-00{i}.mkv"))
    vidsim("--like", "v.png-002.mkv", "--out", "one.mkv")
    alone, packed = _pixels("one.mkv").astype(int), _pixels("v.png-002.mkv").astype(int)
    assert np.abs(alone - packed).max() <= 1  # another row: float rounding may cross a half


def test_bad_use_is_one_line_and_writes_nothing(vidsim, workdir, tmp_path):
    ckpt = ("--ckpt", workdir)
    write_media("elsewhere.png", np.zeros((1, 8, 8, 3), np.uint8), 1, {"prompt": "of others"})
    vidsim(*ckpt, "--prompt", "a", "--size", "8x8", "--frames", 1, *QUICK, "--out", "ours.png")
    before = sorted(p.name for p in tmp_path.iterdir())
    for words, says in [
        ((*ckpt,), "nothing to make"),
        (("--prompt", "a"), "no checkpoint"),
        (("--like", "elsewhere.png"), "no settings of vidsim"),
        (("--like", "missing.png"), "no file missing.png"),
        ((*ckpt, "--prompt", "a", "--variations", 0), "--n: 0"),
        ((*ckpt, "--prompt", "a", "--size", "0x8"), "0x8"),
        ((*ckpt, "--prompt", "a", "--guidance-range", "1"), "LOW:HIGH"),
        ((*ckpt, "--prompt", "a", "--guidance-range", "0.9:0.1"), "low <= high"),
        ((*ckpt, "--prompt", "a", "--solver", "sde"), "unknown name 'sde'"),
        ((*ckpt, "--prompt", "a", "--noise", "white"), "--noise"),
        ((*ckpt, "--prompt", "word " * 40), "tokens are cut and it ends at"),
    ]:
        code, _, err = vidsim(*words, "--out", "new.png")
        assert code == 2 and says in err and err.count("\n") == 1, (words, err)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_file_of_other_weights_is_refused_unless_the_checkpoint_is_named(vidsim, workdir):
    vidsim("--ckpt", workdir, "--prompt", "a", "--size", "8x8", "--frames", 1, *QUICK,
           "--out", "a.png")  # fmt: skip
    facts = read_settings("a.png") | {"weights_id": "0" * 16}
    write_media("b.png", np.zeros((1, 8, 8, 3), np.uint8), 1, facts)
    code, _, err = vidsim("--like", "b.png", "--out", "c.png")
    assert code == 2 and "made with weights 0000" in err
    code, out, _ = vidsim("--like", "b.png", "--ckpt", workdir, "--out", "c.png")
    assert code == 0 and "it will differ" in out


def test_a_prompt_is_cut_only_when_asked_and_says_by_how_much(vidsim, workdir):
    model = dataclasses.replace(make_model(), limits=RowLimits(91, 12, 6))
    text = "ein roter Ball — rollt"
    kept, said = cut_text(model, text)
    assert text.startswith(kept) and excess(model, kept) == 0 and excess(model, text) > 0
    assert excess(model, text[: len(kept) + 1]) > 0  # nothing more would fit
    assert f"{len(text) - len(kept)} of {len(text)} characters" in said
    assert cut_text(model, "short") == ("short", "")
    code, out, _ = vidsim("--ckpt", workdir, "--prompt", "word " * 40, "--size", "8x8", "--frames",
                          1, *QUICK, "--cut-prompt", "--out", "a.png")  # fmt: skip
    # 199 bytes and a start token in a row of 64
    assert code == 0 and "--prompt cut by 136 tokens" in out
    assert len(read_settings("a.png")["prompt"]) < 64
