"""The README's table: one row a capability, skill beside score, every number of the screen's."""

import pathlib

import pytest

from vidsim.eval.markdown import markdown_table
from vidsim.eval.result import SavedResult
from vidsim.eval.score import Score


def saved(suite, *scores):
    folder = pathlib.Path("nowhere")
    return SavedResult(folder, suite, "", "", scores, (), (), {}, {}, (), ())


def table(lines):
    """Rows as dicts by heading; checks that the lines are a table."""
    head, rule, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert all(len(row) == len(head) for row in (rule, *body)) and set(rule) == {"---"}
    return [dict(zip(head, row, strict=True)) for row in body]


LOOP = Score(
    "capabilities/loop", 0.5, 0.4, 0.6, 32, "higher", 1.0, {"frozen | frame": 0.0}, "share"
)
SKILL = Score("capabilities/loop_skill", 0.51, 0.3, 0.7, 32, "higher", 1.0, {"frozen": 0.0})
SIZES = Score("capabilities/sizes", 0.7, 0.6, 0.8, 16, "higher", 0.98, {"chance": 0.2}, "share")
DETAIL = Score("capabilities/loop/object", 0.9, 0.8, 1.0, 32, "higher", 1.0, {}, "share")


def test_a_capability_has_its_skill_beside_its_score():
    loop, sizes = table(markdown_table(saved("capabilities", LOOP, SKILL, DETAIL, SIZES)))
    assert loop == {
        "capability": "loop", "skill": "0.51", "95% interval of the skill": "0.3 … 0.7",
        "score": "0.500", "95% interval": "0.400 … 0.600", "n": "32", "floor": "1.000",
        "baselines": "frozen   frame 0.000",
    }  # fmt: skip
    assert (sizes["skill"], sizes["score"], sizes["n"]) == ("–", "0.700", "16")
    every = table(markdown_table(saved("capabilities", LOOP, SKILL, DETAIL, SIZES), details=True))
    assert [row["capability"] for row in every] == ["loop", "loop/object", "sizes"]


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_other_suites_have_the_columns_of_the_screen(direction):
    score = Score("vae/psnr", 31.07, 30.3, 31.9, 72, direction, None, {"flat": 17.2}, "dB")
    (row,) = table(markdown_table(saved("vae", score)))
    assert row["metric"] == "vae/psnr" and row["value"] == "31.07 dB" and row["floor"] == "–"
    assert row["better"] == {"higher": "↑", "lower": "↓"}[direction]
    assert markdown_table(saved("vae")) == ["No rows."]
