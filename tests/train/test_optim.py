"""Optimizers: who trains what, what a Muon update is, and the rates in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon

from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten
from vidsim.train.optim import MUON_RMS, OptimConfig, assign, build_optimizer, describe, rate_share

AXES = {
    "patch": {"w": ("patch", "embed"), "b": ("embed",)},
    "words": {"table": ("vocab", "embed")},
    "blocks": {
        "q": {"w": ("layers", "embed", "heads"), "b": ("layers", "heads")},
        "up": {"w": ("layers", "embed", "mlp")},
        "norm": {"g": ("layers", None)},
        "mod": ("layers", "table", "embed"),
    },
    "conv": {"w": (None, None, "conv_in", "conv_out")},
    "conv_rgb": {"w": (None, None, None, "conv_out")},
    "words_up": {"w": ("caption", "mlp")},
    "words_in": {"w": ("text", "embed")},
    "out": {"w": ("embed", "patch")},
}
SHAPES = {
    "patch": {"w": (6, 8), "b": (8,)},
    "words": {"table": (10, 8)},
    "blocks": {
        "q": {"w": (3, 8, 8), "b": (3, 8)},
        "up": {"w": (3, 8, 16)},
        "norm": {"g": (3, 8)},
        "mod": (3, 6, 8),
    },
    "conv": {"w": (3, 3, 4, 12)},
    "conv_rgb": {"w": (3, 3, 3, 12)},
    "words_up": {"w": (8, 16)},
    "words_in": {"w": (8, 8)},
    "out": {"w": (8, 6)},
}


def is_shape(x):
    return isinstance(x, tuple)


def random_tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), SHAPES, is_leaf=is_shape
    )


def run(cfg, axes, params, grads, share=1.0):
    """Updates of two successive steps."""
    tx = build_optimizer(cfg, axes)
    update = jax.jit(lambda g, s, share: tx.update(g, s, params, share=share))
    state, out = jax.jit(tx.init)(params), []
    for g in grads:
        updates, state = update(g, state, share)
        out.append(updates)
    return out


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    plan = assign(OptimConfig(name="muon", lr=0.02, adam_lr=0.001, weight_decay=0.1), AXES)
    by_muon = {path for path, a in plan.items() if a.optimizer == "muon"}
    assert by_muon == {"blocks/q/w", "blocks/up/w", "conv/w", "words_up/w"}
    assert plan["blocks/q/w"].dims == MuonDimensionNumbers((1,), (2,))
    assert plan["conv/w"].dims == MuonDimensionNumbers((0, 1, 2), (3,))
    assert {a.lr for p, a in plan.items() if p in by_muon} == {0.02}
    assert {a.lr for p, a in plan.items() if p not in by_muon} == {0.001}


def test_decay_is_for_matrices_and_kernels_only():
    for name in ("adamw", "muon"):
        plan = assign(OptimConfig(name=name, weight_decay=0.1), AXES)
        assert {path for path, a in plan.items() if a.weight_decay} == {
            "patch/w", "blocks/q/w", "blocks/up/w", "conv/w", "conv_rgb/w", "out/w",
            "words_up/w", "words_in/w",
        }  # fmt: skip


def test_adamw_is_optax_adamw_with_the_same_mask():
    cfg = OptimConfig(lr=0.01, weight_decay=0.1, clip_norm=None)
    params, grads = random_tree(0), [random_tree(1), random_tree(2)]
    mask = {p: a.weight_decay > 0 for p, a in assign(cfg, AXES).items()}
    other = optax.adamw(0.01, cfg.b1, cfg.b2, cfg.eps, weight_decay=0.1, mask=mask)
    state, flat = other.init(flatten(params)), flatten(params)
    for ours, grad in zip(run(cfg, AXES, params, grads), grads, strict=True):
        want, state = jax.jit(other.update)(flatten(grad), state, flat)
        for path, value in flatten(ours).items():
            np.testing.assert_allclose(value, want[path], rtol=1e-6, atol=1e-9)


def test_muon_part_is_optax_muon_scaled_to_the_rms_of_adamw():
    """optax.contrib.muon on the same matrix, without stacking, is another hand."""
    cfg = OptimConfig(name="muon", lr=0.02, weight_decay=0.1, clip_norm=None)
    params, grads = random_tree(0), [random_tree(1), random_tree(2)]
    ours = run(cfg, AXES, params, grads)
    for layer in (0, 2):
        other = muon(0.02, beta=0.95, weight_decay=0.1, consistent_rms=MUON_RMS)
        one = params["blocks"]["up"]["w"][layer]
        state, step = other.init(one), jax.jit(other.update)
        for update, grad in zip(ours, grads, strict=True):
            want, state = step(grad["blocks"]["up"]["w"][layer], state, one)
            # Batched and single matrix products round differently; five iterations amplify it.
            np.testing.assert_allclose(
                update["blocks"]["up"]["w"][layer], want, rtol=2e-4, atol=2e-6
            )


def test_stacked_update_equals_unstacked_update():
    cfg = OptimConfig(name="muon", lr=0.02, adam_lr=0.003, weight_decay=0.1)
    params, grads = random_tree(0), [random_tree(1), random_tree(2)]

    def unstack(tree):
        blocks = {
            str(i): jax.tree.map(lambda x, i=i: x[i], tree["blocks"], is_leaf=is_shape)
            for i in range(3)
        }
        return {**tree, "blocks": blocks}

    axes = jax.tree.map(lambda names: names[1:], AXES["blocks"], is_leaf=is_shape)
    loose = {**AXES, "blocks": {str(i): axes for i in range(3)}}
    stacked = run(cfg, AXES, params, grads)
    single = run(cfg, loose, unstack(params), [unstack(g) for g in grads])
    for a, b in zip(stacked, single, strict=True):
        want = flatten(b)
        for path, value in flatten(unstack(a)).items():
            # Newton-Schulz products of a batch round differently from those of one matrix.
            np.testing.assert_allclose(value, want[path], rtol=2e-4, atol=2e-6, err_msg=path)


def test_a_kernel_is_orthogonalised_as_one_matrix_of_taps_by_outputs():
    cfg = OptimConfig(name="muon", lr=1.0, clip_norm=None)
    (update,) = run(cfg, AXES, random_tree(0), [random_tree(1)])
    matrix = np.asarray(update["conv"]["w"]).reshape(36, 12) / (MUON_RMS * 36**0.5)
    values = np.linalg.svd(matrix, compute_uv=False)
    # Five iterations with these coefficients bring singular values near 1, not to it.
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_and_adamw_updates_have_one_size():
    """The point of the rms scale: one learning rate serves both parts."""
    cfg = OptimConfig(name="muon", lr=0.01, clip_norm=None)
    axes = {"m": ("embed", "mlp"), "a": ("embed", "patch")}
    rng = np.random.default_rng(0)
    grads = {k: jnp.asarray(rng.normal(size=(128, 64)), jnp.float32) for k in axes}
    (update,) = run(cfg, axes, grads, [grads])
    rms = {k: float(jnp.sqrt(jnp.mean(jnp.square(u)))) for k, u in update.items()}
    assert 0.15 * 0.01 < rms["m"] < 0.25 * 0.01
    assert rms["a"] == pytest.approx(0.01, rel=1e-3)  # the first AdamW step is the sign


def test_clipping_is_by_the_norm_of_all_weights():
    cfg = OptimConfig(lr=1.0, b1=0.0, b2=0.0, eps=1e6, clip_norm=0.5)  # update = -gradient / 1e6
    grad = random_tree(1)
    total = np.sqrt(sum(float(np.sum(np.square(g))) for g in flatten(grad).values()))
    (update,) = run(cfg, AXES, random_tree(0), [grad])
    for path, value in flatten(update).items():
        want = -flatten(grad)[path] * 0.5 / total / 1e6
        np.testing.assert_allclose(value, want, rtol=1e-4, err_msg=path)


def test_updates_scale_with_the_share():
    for name in ("adamw", "muon"):
        cfg = OptimConfig(name=name, weight_decay=0.1)
        one = run(cfg, AXES, random_tree(0), [random_tree(1)])[0]
        part = run(cfg, AXES, random_tree(0), [random_tree(1)], share=0.25)[0]
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(a * 0.25, b, rtol=1e-6)


def test_rates_in_closed_form():
    cosine = OptimConfig(schedule="cosine", warmup_steps=10, final_share=0.1)
    assert rate_share(cosine, 110, 0) == pytest.approx(0.1)
    assert rate_share(cosine, 110, 9) == pytest.approx(1.0)
    assert rate_share(cosine, 110, 60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_share(cosine, 110, 110) == pytest.approx(0.1)
    wsd = OptimConfig(schedule="wsd", warmup_steps=10, decay_share=0.2, final_share=0.0)
    assert [rate_share(wsd, 100, s) for s in (4, 9, 80, 90, 99)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.5, 0.05]
    )
    flat = OptimConfig(schedule="constant", warmup_steps=0)
    assert {rate_share(flat, 100, s) for s in range(100)} == {1.0}
    short = OptimConfig(schedule="cosine", warmup_steps=1000)
    assert rate_share(short, 5, 4) == pytest.approx(1.0), "a run shorter than its warm-up"


def test_describe_lists_every_weight_with_its_optimizer():
    rows = describe(OptimConfig(name="muon"), random_tree(0), AXES)
    assert {r["path"]: r["shape"] for r in rows} == {
        p: tuple(s) for p, s in flatten(random_tree(0)).items() for s in [s.shape]
    }
    assert {r["optimizer"] for r in rows} == {"adamw", "muon"}


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"name": "adam"}, "optim.name"),
        ({"schedule": "linear"}, "optim.schedule"),
        ({"lr": -1.0}, "optim.lr"),
        ({"b2": 1.5}, "optim.b2"),
        ({"name": "adamw", "adam_lr": 1e-3}, "optim.adam_lr"),
    ],
)
def test_impossible_settings_are_refused(fields, where):
    with pytest.raises(BadInput, match=where):
        OptimConfig(**fields)
