"""The whole road at its smallest: data, trunk, members, measurements, page; and going on."""

import contextlib
import dataclasses
import json

import jax
import pytest

from vidsim import runs
from vidsim.cli.progress import counter, stages
from vidsim.parallel.mesh import build_mesh
from vidsim.scaling import compute
from vidsim.scaling.families import Shape, debug_family, family
from vidsim.scaling.measure import Protocol
from vidsim.scaling.members import Comparison, Members, _claim
from vidsim.scaling.run import run_comparison

TINY = Protocol(clips=6, prompts=3, steps=1, shown=3)


def comparison(base_flops=1.5e9):
    """Members of a few steps of one block."""
    small = debug_family(family("laptop"))
    task = dataclasses.replace(
        small.denoising, text=dataclasses.replace(small.denoising.text, layers=1)
    )
    small = dataclasses.replace(
        small, base_flops=base_flops, shapes={m: Shape(48, 2, 1) for m in small.shapes},
        denoising=task, plan=dataclasses.replace(small.plan, rows_per_step=1),
        optim=dataclasses.replace(small.optim, warmup_steps=1),
    )  # fmt: skip
    return Comparison(small, "steps", ("base", "4x"), 1, 60, 1)


@pytest.mark.slow
def test_a_comparison_from_nothing_to_its_page_and_the_same_command_again(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "MIN_STEPS", 2)
    one = jax.devices()[:1]  # steps of one row do not split over the devices of the tests
    monkeypatch.setattr(runs, "build_mesh", lambda parallel: build_mesh(parallel, one))
    said: list[str] = []
    page = run_comparison(comparison(), TINY, tmp_path / "run", said.append, counter, stages)
    assert page == tmp_path / "run" / "report.html"
    summary = json.loads((page.parent / "scaling.json").read_text())
    assert summary["fits"]["members"]["points"] == 3
    assert summary["fits"]["members"]["exponent"]["low"] is None  # three points have no interval
    assert summary["fits"]["constant rate"]["points"] == 5
    spent = {c["member"]: c["flops"] for c in summary["checkpoints"] if c["member"]}
    assert spent["4x"] > spent["2x"] > spent["base"]
    text = page.read_text()
    assert text.count("<figcaption>") == 3 and "shapes world alone" in text
    trained = [line for line in said if "FLOPs spent" in line]
    assert len(trained) == 5 + 3

    said.clear()
    run_comparison(comparison(), TINY, tmp_path / "run", said.append, counter, stages)
    assert not [line for line in said if "FLOPs spent" in line]  # nothing is trained twice
    again = json.loads((page.parent / "scaling.json").read_text())
    assert again["checkpoints"] == summary["checkpoints"]


def test_a_chain_that_another_process_holds_is_left_to_it(tmp_path):
    members = Members(comparison(), tmp_path / "run", print, None)

    class Job:
        name = "seed0/4x"

    with contextlib.ExitStack() as stack:
        held = stack.enter_context(_claim(members.folder / "locks" / "seed0-4x.lock"))
        assert held
        with members.claim((Job,)) as mine:
            assert not mine
    with members.claim((Job,)) as mine:
        assert mine
