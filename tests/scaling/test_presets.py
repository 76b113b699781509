"""Compute presets: what they spend, how they grow, and that the count is the batch's own."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.latents_in_memory import random_source
from vidsim.config import load_experiment
from vidsim.core.errors import BadInput
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.runs import build_run
from vidsim.scaling.compute import MIN_STEPS, solve_steps, spent_flops, step_flops
from vidsim.scaling.families import FAMILIES, MULTIPLES, Shape
from vidsim.scaling.presets import (
    SIZE_EXPONENT,
    block_parameters,
    multiple_of,
    preset,
    transformer_parameters,
)
from vidsim.tasks.denoising import Denoising
from vidsim.train.flops import step_flops as batch_flops

EXACT = 0.01  # the promise: ratios of compute within 1%
LADDER = 0.10  # widths and blocks are whole numbers; parameters come this near to the power law


@pytest.fixture(scope="module")
def members():
    return {(f, by): {m: preset(f, m, by) for m in MULTIPLES}
            for f in FAMILIES for by in ("size", "steps")}  # fmt: skip


def test_every_member_spends_its_multiple_of_base(members):
    for (name, by), found in members.items():
        base = FAMILIES[name].base_flops
        for multiple, member in found.items():
            spent = member.flops / base
            assert spent == pytest.approx(MULTIPLES[multiple], rel=EXACT / 2), (name, by, multiple)
            assert member.flops / found["base"].flops == pytest.approx(
                MULTIPLES[multiple], rel=EXACT
            ), (name, by, multiple)


def test_sizes_follow_the_published_exponent_anchored_at_base(members):
    for name in FAMILIES:
        sizes = {m: block_parameters(s) for m, s in FAMILIES[name].shapes.items()}
        assert sizes.keys() == set(MULTIPLES.values())
        for multiple, size in sizes.items():
            law = sizes[1] * multiple**SIZE_EXPONENT
            assert size == pytest.approx(law, rel=LADDER), (name, multiple)


def test_block_parameters_are_the_matrices_of_the_blocks():
    dit = preset("host", "base").run.denoising.dit
    one, two = (transformer_parameters(dataclasses.replace(dit, layers=n)) for n in (1, 2))
    # norms, biases and tables are the rest of a block
    assert two - one == pytest.approx(block_parameters(Shape(dit.width, dit.heads, 1)), rel=0.01)


def test_pod_has_the_sizes_of_the_report_with_heads_of_128(members):
    found = members["pod", "size"]
    assert found["base"].target_flops == 1e21
    wanted = {"base": 0.8e9, "4x": 1.7e9, "16x": 3.7e9}
    for name, parameters in wanted.items():
        assert found[name].parameters == pytest.approx(parameters, rel=0.05)
    for member in found.values():
        dit = member.run.denoising.dit
        assert dit.width // dit.heads == 128
        assert member.run.plan.rows_per_step % member.devices == 0


def test_by_steps_is_one_model_and_one_rate_trained_longer(members):
    for name in FAMILIES:
        found = members[name, "steps"]
        assert len({m.run.denoising for m in found.values()}) == 1
        assert len({m.run.optim for m in found.values()}) == 1
        steps = [m.run.run.steps for m in found.values()]
        assert steps == sorted(set(steps))
        assert found["4x"].run.denoising == members[name, "size"]["4x"].run.denoising


def test_members_share_everything_but_model_rate_and_length(members):
    for name in FAMILIES:
        runs = [m.run for m in members[name, "size"].values()]
        for run in runs[1:]:
            assert (run.plan, run.captions, run.validation, run.parallel) == (
                runs[0].plan, runs[0].captions, runs[0].validation, runs[0].parallel
            )  # fmt: skip
            same = dataclasses.replace(run.denoising, dit=runs[0].denoising.dit)
            assert same == runs[0].denoising


def test_planned_count_is_the_count_of_the_assembled_batch():
    cfg, plan, source = _small()
    batches = packed_batches(source, plan, 12)
    every = step_flops(cfg, plan)
    for step in range(12):  # passes the end of the first epoch
        assert next(every) == pytest.approx(batch_flops(cfg, batches[step]).live, rel=1e-12)
    assert plan.num_steps(0) < 12


def test_solved_runs_spend_their_ratio_on_the_plan_itself():
    cfg, plan, _ = _small()
    every = step_flops(cfg, plan)
    counted = np.cumsum([next(every) for _ in range(16 * 60)])
    base = counted[59]
    spent = spent_flops(cfg, plan, base * 15)
    np.testing.assert_allclose(spent, counted[: len(spent)])
    assert spent[-2] < base * 15 <= spent[-1]
    assert solve_steps(spent, base) == 60
    for multiple in (4, 15):
        steps = solve_steps(spent, base * multiple)
        assert counted[steps - 1] / base == pytest.approx(multiple, rel=EXACT)
        for other in (steps - 1, steps + 1):  # no other length comes nearer
            assert abs(counted[steps - 1] - base * multiple) <= abs(
                counted[other - 1] - base * multiple
            )
    with pytest.raises(BadInput, match=f"at least {MIN_STEPS}"):
        solve_steps(spent, spent[5])


def test_unknown_names_are_one_line_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'pod'"):
        preset("pods", "base")
    with pytest.raises(BadInput, match="did you mean '16x'"):
        multiple_of("16")
    with pytest.raises(BadInput, match="--by"):
        preset("laptop", "base", "width")


@pytest.mark.parametrize("name", ["pod", "host", "gpu"])
def test_experiment_files_are_whole_runs(name, members):
    run = build_run(load_experiment(f"experiments/{name}.py:4x"))
    assert run == members[name, "size"]["4x"].run
    longer = build_run(load_experiment(f"experiments/{name}.py:16x-steps"))
    assert longer == members[name, "steps"]["16x"].run
    small = build_run(load_experiment(f"experiments/{name}.py:debug"))
    shapes = jax.eval_shape(Denoising(small.denoising).init, jax.random.key(0))
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes["dit"])) < 1e6
    with pytest.raises(BadInput):
        load_experiment(f"experiments/{name}.py:5x")


def _small():
    source = random_source(n=300, seed=3)
    config = PlanConfig(row_tokens=96, row_text=96, row_segments=16, rows_per_step=8, group_rows=2,
                        pool_rows=16, window_clips=64, cost_width=64)  # fmt: skip
    return preset("laptop", "base").run.denoising, make_plan(source, config, 0), source
