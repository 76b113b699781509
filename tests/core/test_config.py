"""The door: plain data becomes typed dataclasses, or one line says why not."""

import dataclasses
from typing import Literal

import pytest

from vidsim.config import from_dict, load_experiment, override, to_dict
from vidsim.core.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner = Inner()
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    grid: tuple[tuple[int, int], ...] = ()


def test_round_trip():
    config = Outer(5, Inner(lr=2.0, sizes=(3,)), "b", 7, ((1, 2), (3, 4)))
    assert from_dict(Outer, to_dict(config)) == config


def test_integers_become_floats_but_not_the_reverse():
    assert from_dict(Inner, {"lr": 1}).lr == 1.0
    with pytest.raises(BadInput, match="config.steps: 1.5 is a float; expected int"):
        from_dict(Outer, {"steps": 1.5})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": 1, "iner": {}}, "unknown key 'iner' in Outer; did you mean 'inner'"),
        ({"steps": 1, "inner": {"lrr": 1}}, "config.inner: unknown key 'lrr'"),
        ({}, "key 'steps' missing"),
        ({"steps": 1, "mode": "c"}, "one of 'a', 'b'"),
        ({"steps": 1, "inner": {"sizes": 3}}, "expected a list"),
        ({"steps": True}, "is a bool"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(BadInput, match=message):
        from_dict(Outer, data)


def test_overrides():
    data = override({"inner": {"lr": 1.0}}, ["inner.lr=2e-4", "steps=3", "mode=b", "limit=none"])
    assert from_dict(Outer, data) == Outer(3, Inner(lr=2e-4), "b", None)
    with pytest.raises(BadInput, match="expected name=value"):
        override({}, ["steps"])


def test_experiment_variants(tmp_path):
    path = tmp_path / "exp.py"
    path.write_text("def get_config(arg=''):\n    return {'steps': 3 if arg == 'debug' else 100}\n")
    assert load_experiment(f"{path}:debug") == {"steps": 3}
    with pytest.raises(BadInput, match="did you mean 'exp.py'"):
        load_experiment(str(tmp_path / "exq.py"))
