"""Stored plans, compiled again with the TPU compiler: peak and collectives stay within 5%."""

import importlib.util
import pathlib
import shlex
import subprocess
import sys

import pytest

from vidsim.scaling.families import FAMILIES, MULTIPLES
from vidsim.scaling.plan_compare import stored_plan
from vidsim.scaling.plan_page import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLANS = ROOT / "experiments" / "plans"
BETWEEN = ("2x", "8x")  # points of the loss law between the members that are compared
PRESETS = [
    (family, name)
    for family in FAMILIES.values()
    if family.topology
    for name in MULTIPLES
    if name not in BETWEEN
]
each_preset = pytest.mark.parametrize(
    ("family", "name"), PRESETS, ids=lambda x: getattr(x, "name", x)
)


def stored(family, name):
    return PLANS / f"{family.name}-{name}.train.{family.topology.replace(':', '-')}.json"


@each_preset
def test_a_preset_that_claims_a_slice_fits_it(family, name):
    plan = stored_plan(stored(family, name))
    assert plan["topology"] == family.topology and plan["fits"]
    assert plan["mesh"]["fsdp"] == family.devices
    assert f"--config experiments/{family.name}.py:{name} " in plan["command"]


def test_stored_plans_name_the_kernels_and_the_compiler_they_hold_for():
    plans = [stored_plan(path) for path in sorted(PLANS.glob("*.json"))]
    for plan in plans:
        assert set(plan["versions"]) == {"jax", "libtpu"}
        if plan["fits"] and "tpu_splash" in plan["attention"].values():
            assert plan["kernels"] > 0, plan["command"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'vidsim[tpu]'",
)
@each_preset
def test_a_stored_plan_compiles_to_the_same(family, name):
    path = stored(family, name)
    plan = stored_plan(path)
    assert plan["quick"], "compiled with least effort, or the check takes half an hour"
    code = "import sys; from vidsim.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(plan["command"])[1:], "--check", str(path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]


def test_the_page_shows_the_stored_plans():
    page = (ROOT / "experiments" / "PLANS.md").read_text()
    for line in table(PLANS).splitlines():
        assert line in page, "write it again: python -m vidsim.scaling.plan_page experiments/plans"
