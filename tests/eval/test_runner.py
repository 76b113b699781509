"""An evaluation leaves results.json, samples, sheets and a page, and refuses bad use early."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from tests.generate.tiny_generator import save_workdir
from vidsim.core.errors import BadInput
from vidsim.eval import runner
from vidsim.eval.page import build_page
from vidsim.eval.result import Sample, SuiteResult, View, load_result
from vidsim.eval.score import Score

WORLD = "shapes?split=heldout&sizes=48x48&frames=1"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_workdir(folder)
    return folder


@pytest.fixture
def fake_suite(monkeypatch):
    """Suite vae with its computation replaced: the runner is under test here, not the suite."""
    calls = []

    def run(model, config, progress):
        calls.append((model, config))
        video = np.full((3, 16, 16, 3), 50, np.uint8)
        sample = Sample("s", "a prompt", (View(video, "a"), View(video, "b")), 8.0, "Pairs")
        scores = (
            Score("vae/psnr", 31.0, 30.0, 32.0, 9, "higher", None, {"flat colour": 17.0}, "dB"),
            Score("vae/psnr/48x48", 28.0, 27.0, 29.0, 9, "higher", unit="dB"),
            Score("vae/ssim", math.nan, math.nan, math.nan, 0, "higher"),
        )
        return SuiteResult("vae", "VAE", "A summary.", scores, (sample,), {"clips": 9})

    entry = runner.SUITES["vae"]
    monkeypatch.setitem(
        runner.SUITES, "vae", runner.Suite(entry.config, run, entry.denoiser, entry.about)
    )
    return calls


def test_everything_is_written_and_read_back(workdir, tmp_path, fake_suite):
    out = tmp_path / "out"
    saved = runner.evaluate(
        "vae", workdir, out, {"world": WORLD, "clips": 9}, requirements=["vae/psnr>=30"]
    )
    assert fake_suite[0][1].clips == 9
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert names == {
        "results.json", "report.html", "contact_pairs.png", "samples/s_a.mp4", "samples/s_b.mp4",
    }  # fmt: skip
    back = load_result(out)
    assert (saved.scores[:2], saved.samples) == (back.scores[:2], back.samples)
    record = json.loads((out / "results.json").read_text())
    assert record["run"]["vae_hash"] and record["run"]["code"]["vidsim"]
    assert record["run"]["suite_config"]["clips"] == 9
    assert record["requirements"][0]["passed"] is True
    page = (out / "report.html").read_text()
    assert "31.00 dB" in page and "all 1 requirements met" in page


def test_same_work_gives_the_same_file_but_for_time(workdir, tmp_path, fake_suite):
    records = []
    for name in "ab":
        runner.evaluate("vae", workdir, tmp_path / name)
        record = json.loads((tmp_path / name / "results.json").read_text())
        for key in ("date", "seconds"):
            del record["run"][key]
        records.append(record)
    assert records[0] == records[1]


def test_screen_shows_headlines_required_rows_and_verdict(workdir, tmp_path, fake_suite):
    saved = runner.evaluate(
        "vae", workdir, tmp_path / "out", requirements=["vae/psnr.low>=30", "vae/psnr/48x48>=30"]
    )
    screen = io.StringIO()
    assert runner.show([saved], Console(file=screen, width=160)) is False
    text = screen.getvalue()
    assert "FAIL: 1 of 2 requirements met" in text and "vae/psnr/48x48" in text
    plain = runner.evaluate("vae", workdir, tmp_path / "plain")
    screen = io.StringIO()
    assert runner.show([plain], Console(file=screen, width=160)) is True
    assert "vae/psnr/48x48" not in screen.getvalue()


@pytest.mark.parametrize(
    ("suite", "settings", "requirements", "says"),
    [
        ("vea", {}, [], "did you mean 'vae'"),
        ("vae", {"clip": 3}, [], "did you mean 'clips'"),
        ("vae", {"clips": "many"}, [], "expected int"),
        ("vae", {}, ["psnr=>3"], "--require"),
    ],
)
def test_refused_before_any_work(
    workdir, tmp_path, fake_suite, suite, settings, requirements, says
):
    with pytest.raises(BadInput, match=says):
        runner.evaluate(suite, workdir, tmp_path / "o", settings, requirements=requirements)
    assert not fake_suite and not (tmp_path / "o").exists()


def test_unknown_metric_does_not_lose_the_results(workdir, tmp_path, fake_suite):
    with pytest.raises(BadInput, match="did you mean 'vae/psnr'"):
        runner.evaluate("vae", workdir, tmp_path / "o", requirements=["vae/psrn>=30"])
    assert load_result(tmp_path / "o").scores[0].value == 31.0


def test_folders_of_others_are_left_alone(workdir, tmp_path, fake_suite):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds other files"):
        runner.evaluate("vae", workdir, tmp_path)
    runner.evaluate("vae", workdir, tmp_path / "o")
    runner.evaluate("vae", workdir, tmp_path / "o")  # its own results may be replaced
    with pytest.raises(BadInput, match="results of suite vae"):
        runner.check_out(tmp_path / "o", "prompts")


def test_denoiser_suites_need_a_denoiser(workdir, tmp_path):
    with pytest.raises(BadInput, match="config.json"):
        runner.evaluate("prompts", workdir / "vae", tmp_path / "o")


def test_curves_show_training_and_validation(tmp_path):
    lines = [
        {"step": s, "kind": "train", "loss": 1 / s, "step_s": 0.25, "psnr": 20 + s}
        for s in range(1, 50)
    ]
    lines += [
        {"step": s, "kind": "validation", "loss": 0.5, "t=0.10": 0.3, "t=0.90": 0.7, "by_size": {}}
        for s in (20, 40)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = runner.training_curves("Denoiser", tmp_path)
    assert len(curves.plots) == 3 and curves.facts["steps"] == 49
    assert curves.facts["seconds a step"] == "0.25"
    page = build_page("T", "", {}, [], [curves])
    for title in ("Training loss", "Training PSNR", "Validation loss by noise time"):
        assert title in page
    with pytest.raises(BadInput, match="metrics.jsonl"):
        runner.training_curves("x", tmp_path / "none")
