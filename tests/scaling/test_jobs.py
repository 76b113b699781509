"""Jobs: a branched member is the straight run of its schedule; chains spend what they promise."""

import copy
import dataclasses
import json

import jax
import pytest

from tests.data.latents_in_memory import random_source
from tests.train.linear_task import LinearTask, batches, one_device
from vidsim.core.digest import digests
from vidsim.core.errors import BadInput
from vidsim.data.pipeline import make_plan
from vidsim.scaling.compute import spent_flops
from vidsim.scaling.families import MULTIPLES, debug_family, family
from vidsim.scaling.jobs import TRUNK, members_of, seed_members, size_chain, trunk_chain
from vidsim.scaling.members import RUN_FILE, Comparison, Members, branch
from vidsim.scaling.presets import member_run
from vidsim.scaling.run import forecast, make_comparison
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.workdir import Workdir
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig, rate_share
from vidsim.train.state import items

FAMILY = debug_family(family("laptop"))
NAMES = ("base", "2x", "4x")


@pytest.fixture(scope="module")
def plan():
    # every step of rows this long holds about the same, as in training
    config = dataclasses.replace(FAMILY.plan, row_tokens=192, row_text=256, pool_rows=16)
    return make_plan(random_source(n=400, seed=5), config, 0)


@pytest.fixture(scope="module")
def small(plan):
    """A family whose base is 60 steps of the plan."""
    task = member_run(FAMILY, 1, "steps", 1, cache="").denoising
    return dataclasses.replace(FAMILY, base_flops=float(_spent(task, plan, 60)))


def test_a_branched_and_cooled_member_is_bitwise_its_straight_run(tmp_path):
    optim = OptimConfig(name="muon", lr=0.02, warmup_steps=3, schedule="wsd", decay_share=0.3)
    program = build_program(LinearTask(4), RunSpec(10), optim, one_device())
    straight = _train(program, tmp_path / "straight", optim, 10)
    constant = dataclasses.replace(optim, schedule="constant")
    _train(program, tmp_path / "trunk-4", constant, 4)
    _train(program, tmp_path / "trunk-7", constant, 7, tmp_path / "trunk-4", 4)
    branched = _train(program, tmp_path / "member", optim, 10, tmp_path / "trunk-7", 7)
    assert branched.steps_done == 3
    assert _digests(branched) == _digests(straight)
    assert program.step.compilations == 1
    again = _train(program, tmp_path / "member", optim, 10, tmp_path / "trunk-7", 7)
    assert again.steps_done == 0 and _digests(again) == _digests(straight)
    with pytest.raises(BadInput, match="no checkpoint 5"):
        _train(program, tmp_path / "other", optim, 10, tmp_path / "trunk-7", 5)


def test_a_trunk_goes_from_cut_to_cut_and_every_member_leaves_it_before_its_rate_falls(small, plan):
    chain = trunk_chain(small, NAMES, 0, plan, "latents")
    trunk = [job for job in chain if job.member is None]
    assert len(trunk) == 2 * len(NAMES) - 1  # one between each two branches
    starts = [(None, 0), *((job.name, job.steps) for job in trunk[:-1])]
    assert [(job.start, job.start_step) for job in trunk] == starts
    assert all(job.run.optim.schedule == "constant" and TRUNK in job.name for job in trunk)
    for job in chain:
        if job.member is not None:
            optim, share = job.run.optim, small.optim.decay_share
            assert optim.schedule == "wsd"
            assert rate_share(optim, job.steps, job.start_step - 1) == 1.0
            assert rate_share(optim, job.steps, job.start_step + 1) < 1.0
            cooled = (job.steps - job.start_step) / job.steps
            assert cooled == pytest.approx(share, abs=1 / job.steps)  # the same share for all
            source = next(t for t in trunk if t.name == job.start)
            assert source.steps == job.start_step


def test_members_spend_their_multiple_of_base(small, plan):
    chain = trunk_chain(small, NAMES, 0, plan, "latents")
    ends = {job.member: job.flops for job in chain if job.member}
    for name in NAMES:
        assert ends[name] / ends["base"] == pytest.approx(MULTIPLES[name], rel=0.01)
    sizes = [size_chain(small, name, 0, plan, "latents")[0] for name in NAMES[:1]]
    for job in sizes:
        assert job.flops == pytest.approx(small.base_flops * MULTIPLES[job.member], rel=0.01)
        kept = [step for step, _ in job.measured[:-1]]
        part = job.run.run.keep_every
        assert kept and all(step % part == 0 for step in kept)
        assert all(rate_share(job.run.optim, job.steps, step - 1) == 1.0 for step in kept)


def test_a_trunk_is_paid_for_once(small, plan):
    chain = trunk_chain(small, NAMES, 0, plan, "latents")
    share = small.optim.decay_share
    wanted = small.base_flops * ((1 - share) * 4 + share * sum(MULTIPLES[n] for n in NAMES))
    spent = float(forecast([chain]).split(", ")[2].split()[0])
    assert spent == pytest.approx(wanted, rel=0.02)


def test_further_seeds_train_members_up_to_4x_without_points_between(small, plan):
    members = members_of(["base", "16x"])
    assert members == ["base", "2x", "4x", "8x", "16x"]
    assert seed_members(members, 0) == members
    assert seed_members(members, 1) == ["base", "2x", "4x"]
    trunk = [j for j in trunk_chain(small, NAMES, 1, plan, "latents") if j.member is None]
    assert len(trunk) == len(NAMES)
    assert all(job.run.run.seed == 1 for job in trunk)


def test_a_folder_holds_one_comparison(tmp_path):
    laptop = make_comparison("laptop", ["base", "4x"], "steps", 1, True)[0]
    Members(laptop, tmp_path / "one", print, None)
    assert json.loads((tmp_path / "one" / RUN_FILE).read_text())["by"] == "steps"
    Members(dataclasses.replace(laptop, seeds=3), tmp_path / "one", print, None)  # more is fine
    with pytest.raises(BadInput, match="by 'steps'"):
        Members(dataclasses.replace(laptop, by="size"), tmp_path / "one", print, None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds other files"):
        Members(laptop, tmp_path / "other", print, None)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_bad_use_is_one_line():
    for arguments, match in (
        (("pods", ["base", "4x"], "steps", 3, False), "did you mean 'pod'"),
        (("pod", ["base", "4x"], "steps", 3, False), "experiments/pod.py"),
        (("laptop", ["base", "3x"], "steps", 3, False), "'3x'"),
        (("laptop", ["base"], "steps", 3, False), "two or more"),
        (("laptop", ["base", "4x"], "width", 3, False), "--by"),
        (("laptop", ["base", "4x"], "steps", 0, False), "--seeds"),
    ):
        with pytest.raises(BadInput, match=match) as caught:
            make_comparison(*arguments)
        assert "\n" not in str(caught.value)
    assert isinstance(make_comparison("gpu", ["base", "4x"], "size", 3, False)[0], Comparison)


def _train(program, folder, optim, steps, source=None, step=0):
    """One job as Members trains it: a program shared by all, its own schedule and folder."""
    mine = copy.copy(program)
    mine.optim = optim
    run = RunSpec(steps, save_every=100, eval_every=100, log_every=1, keep=1)
    workdir = Workdir.open(folder, {"steps": steps, "schedule": optim.schedule})
    try:
        if source is not None:
            branch(source, step, workdir.path)
        done = train(mine, batches(steps), run, workdir)
    finally:
        workdir.close()
    assert CheckpointStore(folder / "checkpoints").steps() == [steps]
    return done


def _digests(done):
    trees = items(done.state)
    return {n: digests(dict(enumerate(jax.tree.leaves(trees[n])))) for n in trees}


def _spent(task, plan, steps):
    total = spent_flops(task, plan, 1.0)[0] * steps * 2
    return spent_flops(task, plan, total)[steps - 1]
