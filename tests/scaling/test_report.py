"""What a comparison says: planted equal models are never called better, planted laws are found."""

import json
import math

import pytest

from tests.scaling.planted import BASE, planted_run
from vidsim.scaling.compare import AT_CHANCE, BETTER, NOT_SHOWN
from vidsim.scaling.report import lines, write_comparison
from vidsim.scaling.summary import CONSTANT, MEMBERS, find

PRESETS = ("base", "4x", "16x")


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equal")
    measured = planted_run(folder, exponent=0.0, skill_at=math.inf)
    found = find(measured, PRESETS)
    write_comparison(folder, found, {"family": "laptop"})
    return folder, found


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growing")
    measured = planted_run(folder, exponent=-0.1, skill_at=4 * BASE)
    found = find(measured, PRESETS)
    write_comparison(folder, found, {"family": "laptop"})
    return folder, found


def test_two_equal_models_never_see_the_word(equal):
    folder, found = equal
    assert BETTER not in (folder / "report.html").read_text()
    assert BETTER not in (folder / "scaling.json").read_text()
    assert not any(BETTER in line for line in lines(found))


def test_a_planted_law_is_found_called_and_drawn(growing):
    folder, found = growing
    assert found.fits[MEMBERS].points == 5 and found.fits[CONSTANT].points == 9
    for fit in found.fits.values():
        assert fit.law.exponent == pytest.approx(-0.1, abs=0.01)
        assert fit.exponent.low < fit.law.exponent < fit.exponent.high < 0
    summary = json.loads((folder / "scaling.json").read_text())
    words = {(c["metric"], c["ours"], c["theirs"]): c["verdict"] for c in summary["comparisons"]}
    for pair in (("4x", "base"), ("16x", "base"), ("16x", "4x")):
        assert words["loss", *pair] == BETTER
        assert words["shape", *pair] == AT_CHANCE
    assert words["colour", "4x", "base"] == BETTER
    assert words["colour", "16x", "4x"] == NOT_SHOWN
    assert BETTER in (folder / "report.html").read_text()


def test_emergence_is_where_it_was_planted_and_says_what_it_shows(growing, equal):
    skills = _summary(growing[0])["emergence"]["skills"]
    assert skills["colour"]["first_above_chance_flops"] == 4 * BASE
    assert skills["colour"]["holds_beyond"]
    assert len(skills["colour"]["readings"]) == 5 + 9
    never = _summary(equal[0])["emergence"]["skills"]["colour"]
    assert never["first_above_chance_flops"] == "not reached"
    page = (equal[0] / "report.html").read_text()
    assert "not reached" in page and "shows the shapes world alone" in page
    assert AT_CHANCE in page


def test_columns_show_the_same_prompt_for_each_preset(growing):
    page = (growing[0] / "report.html").read_text()
    assert page.count("<figcaption>a red square<") == 1
    for preset in PRESETS:
        assert f"<small>{preset}</small>" in page


def test_three_members_have_no_interval(tmp_path):
    measured = planted_run(tmp_path, exponent=-0.1, skill_at=0, members=("base", "2x", "4x"))
    found = find([m for m in measured if m.member], ("base", "4x"))
    assert found.fits[MEMBERS].points == 3
    assert math.isnan(found.fits[MEMBERS].exponent.low)
    assert any("no interval below 5 points" in line for line in lines(found))


def test_the_summary_is_plain_json_with_every_checkpoint(growing):
    folder, found = growing
    summary = _summary(folder)
    assert len(summary["checkpoints"]) == len(found.measured)
    assert [c["flops"] for c in summary["checkpoints"]] == sorted(m.flops for m in found.measured)
    assert "NaN" not in (folder / "scaling.json").read_text()


def _summary(folder):
    return json.loads((folder / "scaling.json").read_text())
