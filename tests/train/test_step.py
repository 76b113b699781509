"""The step: accumulation adds up, bad gradients change nothing, the average has its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.linear_task import OUT, WIDTH, LinearTask, host_batch, one_device
from vidsim.core.errors import BadInput
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.train.optim import OptimConfig, build_optimizer
from vidsim.train.program import Program
from vidsim.train.state import ema_decay, from_items, init_state, items
from vidsim.train.step import make_step, split_micro

OPTIM = OptimConfig(lr=0.05, warmup_steps=0)


def program(micro_steps=1, mesh=None, optim=OPTIM, **kwargs):
    return Program(
        LinearTask(**kwargs), optim, seed=0, micro_steps=micro_steps, mesh=mesh or one_device()
    )


def advance(prog, steps, rows=8, poison=()):
    state, history = prog.init(), []
    for s in range(steps):
        state, metrics = prog.step(state, prog.step.place(host_batch(s, rows, poison)), 1.0)
        history.append(jax.device_get(metrics))
    return state, history


def test_accumulation_equals_one_big_batch():
    whole, facts = advance(program(1), 5)
    parts, part_facts = advance(program(4), 5)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # only the order of sums differs
    for a, b in zip(facts, part_facts, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["clips"] == b["clips"] == 8


def test_a_step_on_eight_devices_is_the_step_on_one():
    wide, one = program(2, mesh=build_mesh(MeshConfig(data=4, fsdp=2))), program(2)
    many, _ = advance(wide, 3, rows=16)
    few, _ = advance(one, 3, rows=16)
    for a, b in zip(jax.tree.leaves(many.params), jax.tree.leaves(few.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    hidden = many.params["hidden"]["w"]
    assert hidden.sharding.spec[0] == ("fsdp", "context")
    mirrors = [
        x
        for x in jax.tree.leaves(many.opt_state)
        if x.shape == hidden.shape and x.dtype == jnp.float32
    ]
    assert mirrors and all(x.sharding == hidden.sharding for x in mirrors)


def test_loss_and_gradient_are_those_of_linear_regression():
    task = LinearTask(noise=0.0)
    batch = split_micro(host_batch(0), 1)
    tx = build_optimizer(
        OptimConfig(lr=1.0, b1=0.0, b2=0.0, eps=1e6, clip_norm=None), task.param_axes()
    )  # update = -gradient / 1e6
    state = init_state(task.init(jax.random.key(0)), tx)
    w1, w2 = np.asarray(state.params["hidden"]["w"]), np.asarray(state.params["out"]["w"])
    new, metrics = jax.jit(make_step(task, tx, 0.0, seed=0))(state, batch, jnp.float32(1.0))
    x, y = batch["x"][0].astype(np.float64), batch["y"][0]
    residual = x @ w1 @ w2 - y
    assert float(metrics["loss"]) == pytest.approx(np.sum(residual**2) / 8, rel=1e-5)
    gradient = 2 / 8 * (x @ w1).T @ residual
    moved = (np.asarray(new.params["out"]["w"]).astype(np.float64) - w2) * -1e6
    # weights of order 1 move by 1e-6 x gradient, so float32 leaves about one digit of it
    np.testing.assert_allclose(moved, gradient, atol=0.1)
    full = np.sqrt(
        np.sum(gradient**2)
        + np.sum((2 / 8 * x.T @ residual @ w2.T) ** 2)
        + np.sum((2 / 8 * residual.sum(0)) ** 2)
    )
    assert float(metrics["grad_norm"]) == pytest.approx(full, rel=1e-5)


def test_average_has_its_closed_form():
    """e_n = d_n e_(n-1) + (1 - d_n) p_n with d_n = min(decay, (1 + n) / (10 + n))."""
    prog = Program(LinearTask(), OPTIM, seed=0, ema_decay=0.5, mesh=one_device())
    state = prog.init()
    track = [np.asarray(state.params["out"]["w"], np.float64)]
    for s in range(12):
        state, _ = prog.step(state, prog.step.place(host_batch(s)), 1.0)
        track.append(np.asarray(state.params["out"]["w"], np.float64))
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(12)]
    weights = [
        (1 - d if n else 1.0) * np.prod(decays[n:]) for n, d in enumerate([0.0, *decays])
    ]  # of the initial weights and of each later state
    assert sum(weights) == pytest.approx(1.0)
    want = sum(w * p for w, p in zip(weights, track, strict=True))
    np.testing.assert_allclose(state.ema["out"]["w"], want, rtol=1e-5, atol=1e-6)
    assert state.ema["out"]["w"].dtype == jnp.float32
    assert float(ema_decay(0.999, jnp.int32(10**6))) == pytest.approx(0.999)


def test_a_bad_gradient_changes_nothing_but_the_counters():
    good, _ = advance(program(2), 3)
    state, history = advance(program(2), 5, poison=(3, 4))
    for name in ("params", "ema", "opt_state"):
        same = jax.tree.map(np.array_equal, items(good)[name], items(state)[name])
        assert all(jax.tree.leaves(same)), name
    assert [int(h["skipped_in_a_row"]) for h in history] == [0, 0, 0, 1, 2]
    assert int(state.skipped) == 2 and int(state.step) == 5
    assert not np.isfinite(history[3]["loss"])


def test_training_goes_on_after_a_bad_gradient():
    state, history = advance(program(), 6, poison=(2,))
    assert [int(h["skipped_in_a_row"]) for h in history] == [0, 0, 1, 0, 0, 0]
    assert int(state.skipped) == 1 and np.isfinite(history[-1]["loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_step_compiles_once_and_counts_each_further_shape():
    compiled = []

    def listen(event, seconds, **facts):
        if event.endswith("backend_compile_duration") and "train_step" in facts.get("fun_name", ""):
            compiled.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        prog = program(2)
        state = prog.init()
        for s in range(4):
            state, _ = prog.step(state, prog.step.place(host_batch(s)), 1.0 / (s + 1))
        assert prog.step.compilations == len(compiled) == 1
        state, _ = prog.step(state, prog.step.place(host_batch(5, rows=16)), 1.0)
        assert prog.step.compilations == len(compiled) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_probe_compiles_the_step_that_training_uses():
    prog = program()
    rate = prog.probe(host_batch(0))
    assert rate.compile_s > 0 and rate.step_s > 0
    advance(prog, 2)
    assert prog.step.compilations == 1


def test_micro_steps_are_consecutive_rows():
    batch = host_batch(0)
    split = split_micro(batch, 4)
    assert split["x"].shape == (4, 2, WIDTH) and split["y"].shape == (4, 2, OUT)
    np.testing.assert_array_equal(split["x"][1], batch["x"][2:4])
    assert split["num_clips"].ndim == 0 and np.shares_memory(split["x"], batch["x"])


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(BadInput, match="8 rows for 3 micro-steps"):
        split_micro(host_batch(0), 3)


def test_state_survives_naming_its_parts():
    state = program(optim=OptimConfig(name="muon")).init()
    again = from_items(items(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert optax.tree.allclose(again.params, state.params)


def test_weights_at_the_start_do_not_depend_on_the_mesh():
    one, many = program().init(), program(mesh=build_mesh(MeshConfig(data=2, fsdp=4))).init()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(a, b)
