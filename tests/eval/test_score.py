"""Score rows survive JSON, requirements mean what they say, the table shows every part of a row."""

import io
import json
import math

import pytest
from rich.console import Console

from vidsim.core.errors import BadInput
from vidsim.eval.score import (
    Score,
    from_json,
    parse_requirement,
    require,
    table,
    to_json,
    verdict_line,
)

ROWS = [
    Score("prompts/colour", 0.912, 0.871, 0.941, 256, "higher", 0.997, {"chance": 0.1}, "share"),
    Score("vae/psnr", 31.234, 30.9, 31.6, 64, "higher", None, {"flat colour": 18.0}, "dB"),
    Score("loss/velocity", math.nan, math.nan, math.nan, 0, "lower"),
]


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("prompts/colour>=0.90", True),
        ("prompts/colour >= 0.912", True),
        ("prompts/colour>0.912", False),
        ("prompts/colour<=.912", True),
        ("prompts/colour<1e-1", False),
        ("prompts/colour.low>=0.85", True),
        ("prompts/colour.low>=0.90", False),
        ("prompts/colour.high<0.95", True),
        ("vae/psnr>=31.2", True),
        ("vae/psnr>=inf", False),
        ("loss/velocity<1e9", False),  # a number that is not there fulfils nothing
        ("loss/velocity>-1e9", False),
    ],
)
def test_requirement(text, passed):
    (outcome,) = require(ROWS, text)
    assert outcome.passed is passed


@pytest.mark.parametrize("text", ["", "a", "a>=", ">=3", "a=3", "a=>3", "a>=b", "a>=nan", "a b>=3"])
def test_malformed_requirement(text):
    with pytest.raises(BadInput, match="--require"):
        parse_requirement(text)


def test_unknown_metric_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'prompts/colour'"):
        require(ROWS, "prompt/color>=0.9")


def test_json_round_trip_is_strict_json():
    text = json.dumps([to_json(row) for row in ROWS], allow_nan=False)
    back = [from_json(row) for row in json.loads(text)]
    assert back[:2] == ROWS[:2] and math.isnan(back[2].value)


def test_table_shows_interval_n_floor_and_baselines_in_80_columns():
    screen = io.StringIO()
    Console(file=screen, width=80).print(table(ROWS, "Scores"))
    text = screen.getvalue()
    parts = ["0.912", "0.871 … 0.941", "256", "0.997", "chance", "31.23 dB", "30.90 … 31.60", "↓"]
    assert [part for part in parts if part not in text] == []


def test_all_rows_below_a_metric_can_be_required():
    sizes = {"48x48": 0.9, "96x64": 0.76, "64x96": 0.8}
    rows = [Score(f"p/colour/{s}", v, v - 0.1, v + 0.1, 20, "higher") for s, v in sizes.items()]
    (met,) = require(rows, "p/colour/*>=0.75")
    assert met.passed and (met.metric, met.value) == ("p/colour/96x64", 0.76)
    (missed,) = require(rows, "p/colour/*.low>=0.75")
    assert not missed.passed and missed.value == pytest.approx(0.66)
    (upper,) = require(rows, "p/colour/*<=0.85")
    assert not upper.passed and upper.metric == "p/colour/48x48"
    absent = Score("p/colour/1x1", math.nan, math.nan, math.nan, 0, "higher")
    (unknown,) = require([*rows, absent], "p/colour/*>=0.1")
    assert not unknown.passed and unknown.metric == "p/colour/1x1"
    with pytest.raises(BadInput, match="no metric"):
        require(rows, "p/shape/*>=0.75")


def test_verdict_names_the_row_and_its_number():
    outcome = require(ROWS, "vae/psnr.low>=31")[0]
    assert verdict_line(outcome, "dB") == "FAIL  vae/psnr.low>=31: vae/psnr is 30.90"


def test_bad_rows_are_refused():
    with pytest.raises(BadInput):
        Score("a", 1, 0, 1, 1, "up")  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        Score("a b", 1, 0, 1, 1, "higher")
