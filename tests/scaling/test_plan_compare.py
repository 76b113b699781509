"""A change of a stored plan beyond 5% is told, below it is not."""

import copy
import json

import pytest

from vidsim.core.errors import BadInput
from vidsim.scaling.plan_compare import SAME, differences, stored_plan

PLAN = {
    **dict.fromkeys(SAME, 1),
    "peak_bytes": 10 * 2**30,
    "largest": {"kind": "all-gather", "bytes": 100 * 2**20},
    "collectives": {"all-gather": {"bytes": 900 * 2**20}, "all-to-all": {"bytes": 1000}},
    "versions": {"jax": "0.10.2", "libtpu": "0.0.42.1"},
}


def _changed(*path, to):
    plan = copy.deepcopy(PLAN)
    node = plan
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = to
    return plan


def test_the_same_plan_and_small_changes_are_silent():
    assert differences(PLAN, PLAN) == []
    assert differences(PLAN, _changed("peak_bytes", to=int(10.4 * 2**30))) == []
    assert differences(PLAN, _changed("collectives", "all-to-all", "bytes", to=5000)) == []


@pytest.mark.parametrize(
    ("path", "to", "told"),
    [(("peak_bytes",), int(10.6 * 2**30), "peak_bytes"), (("peak_bytes",), 9 * 2**30, "-10.0%"),
     (("largest", "bytes"), 200 * 2**20, "largest collective"), (("remat",), "full", "remat"),
     (("collectives", "all-gather", "bytes"), 0, "all-gather bytes"),
     (("collectives", "all-reduce"), {"bytes": 2**21}, "all-reduce bytes"),
     (("versions", "libtpu"), "1.0", "libtpu")],
)  # fmt: skip
def test_larger_changes_are_told(path, to, told):
    lines = differences(PLAN, _changed(*path, to=to))
    assert len(lines) == 1 and told in lines[0]


def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path):
    path = tmp_path / "plan.json"
    for text in (None, "{", json.dumps({"peak_bytes": 1})):
        if text is not None:
            path.write_text(text)
        with pytest.raises(BadInput, match="plan.json"):
            stored_plan(path)
    path.write_text(json.dumps(PLAN))
    assert stored_plan(path) == PLAN
