"""The denoising task with the real transformer and text encoder: tiny, with scattered weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.packed_clips import pack, pack_all, some_clips
from tests.tasks.tiny_models import DIT, TEXT, P, make_task, scattered
from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten, unflatten
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.masks import MaskConfig
from vidsim.models.latents import LatentConfig
from vidsim.tasks.denoising import Denoising, DenoisingConfig

# float32 products in another order: relative to the largest entry of each weight's gradient
PACKED = 2e-5
CLIPS = some_clips(seed=3)
HERE = [[0, 1, 2], [3, 4], [5, 6], []]
THERE = [[6, 3, 0, 5], [], [4, 1], [2]]


@functools.cache
def _task():
    """The task, scattered weights, its jitted loss with gradient, its jitted validation."""
    task = make_task(text_drop_prob=0.4, masks=MaskConfig(none=0.2, noise=0.1))
    params = scattered(task)
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    validate = jax.jit(task.validation)
    return (
        task,
        params,
        lambda batch, step=5: run(params, batch, seed=1, step=step),
        lambda batch: np.asarray(
            validate(params, batch, times=jnp.asarray([0.1, 0.5, 0.9]), seed=2)
        ),
    )


def _alone(place):
    """One clip by itself in the first of four rows, with the totals of the whole step."""
    total = sum(c.tokens for c in CLIPS)
    return pack([[CLIPS[place]], [], [], []], 32, 48, 4, P, len(CLIPS), total)


def _gradients_agree(found, wanted):
    found, wanted = flatten(found), flatten(wanted)
    for name, want in wanted.items():
        want = np.asarray(want)
        gap = np.abs(np.asarray(found[name]) - want).max()
        assert gap <= PACKED * max(np.abs(want).max(), 1e-3), f"{name}: {gap}"


def test_packed_equals_alone_in_value_and_gradient():
    _, _, run, _ = _task()
    (loss, metrics), grads = run(pack_all(CLIPS, HERE, P))
    parts = [run(_alone(i)) for i in range(len(CLIPS))]
    np.testing.assert_allclose(sum(p[0][0] for p in parts), loss, rtol=PACKED)
    for name in metrics:
        np.testing.assert_allclose(
            sum(p[0][1][name] for p in parts), metrics[name], rtol=PACKED, err_msg=name
        )
    _gradients_agree(functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b),
                                      [p[1] for p in parts]), grads)  # fmt: skip
    still = [n for n, g in flatten(grads).items() if not np.abs(np.asarray(g)).max() > 0.0]
    assert not still, f"no gradient reaches {still}"


def test_loss_does_not_depend_on_row_neighbours_or_order():
    _, _, run, _ = _task()
    (here, _), grads_here = run(pack_all(CLIPS, HERE, P))
    (there, _), grads_there = run(pack_all(CLIPS, THERE, P))
    np.testing.assert_allclose(there, here, rtol=PACKED)
    _gradients_agree(grads_there, grads_here)


def test_validation_of_a_clip_does_not_depend_on_the_packing():
    _, _, _, validate = _task()
    by_clip = {}
    for layout in (HERE, THERE):
        losses = validate(pack_all(CLIPS, layout, P))
        for r, row in enumerate(layout):
            for s, place in enumerate(row):
                by_clip.setdefault(place, []).append(losses[r, s])
    for place, (a, b) in by_clip.items():
        np.testing.assert_allclose(a, b, rtol=PACKED, err_msg=f"clip {place}")
        assert (a > 0).all()


def test_a_neighbours_patches_and_caption_change_nothing():
    _, _, _, validate = _task()
    batch = pack_all(CLIPS, HERE, P)
    calm = validate(batch)
    mine = np.asarray(batch["patch_segment"]) == 2
    other_text = (batch["text_segment"] != 2) & (batch["text_position"] > 0)
    loud = batch | {
        "patches": jnp.where(mine[..., None], batch["patches"], 100.0 - batch["patches"]),
        "text_ids": jnp.where(other_text, 40, batch["text_ids"]),
    }
    np.testing.assert_allclose(validate(loud)[:, 1], calm[:, 1], rtol=PACKED)
    assert np.abs(validate(loud)[:, 0] - calm[:, 0]).max() > 0.01


def test_the_network_sees_channels_by_their_gain():
    """A weight on what comes in is the same weight on the rows of the first layer."""
    gain = np.float32([3.0, 1.0, 0.5, 0.1])
    latent = LatentConfig((1, 1, 1), (0.0,) * P, (1.0,) * P, tuple(map(float, gain)))
    weighed, plain = make_task(latent=latent, channel_weight=0.7), make_task(latent=latent)
    params = scattered(weighed)
    batch = {k: jnp.asarray(v) for k, v in pack_all(CLIPS[:2], [[0, 1]], P).items()}
    x, t = batch["patches"], jnp.full(batch["clip_key"].shape, 0.4)
    nothing = jnp.zeros(batch["patch_segment"].shape, bool)
    flat = flatten(params)
    seen = gain**0.7 / np.sqrt(np.mean(gain**1.4))
    flat["dit/inputs/patch/w"] = flat["dit/inputs/patch/w"] * seen[:, None]

    def predicted(task, params):
        text = task.encode_text(params, batch, jnp.zeros(batch["clip_key"].shape, bool))
        return task.predict(params, batch, text, x, t, nothing)

    np.testing.assert_allclose(
        jax.jit(functools.partial(predicted, weighed))(params),
        jax.jit(functools.partial(predicted, plain))(unflatten(flat)),
        atol=2e-6,
    )


def test_dropping_a_caption_is_predicting_from_the_empty_prompt():
    task, params, _, _ = _task()
    batch = pack_all(CLIPS, HERE, P)
    empty_clips = [dataclasses.replace(c, caption="") for c in CLIPS]
    empty = pack_all(empty_clips, HERE, P)
    x = jax.random.normal(jax.random.key(4), batch["patches"].shape)
    t, nothing = jnp.full((4, 4), 0.5), jnp.zeros(batch["patch_segment"].shape, bool)

    @jax.jit
    def predict(batch, dropped):
        text = task.encode_text(params, batch, dropped)
        return task.predict(params, batch, text, x, t, nothing)

    every, none = jnp.ones((4, 4), bool), jnp.zeros((4, 4), bool)
    np.testing.assert_allclose(predict(batch, every), predict(empty, none), atol=1e-5)
    assert np.abs(np.asarray(predict(batch, none) - predict(batch, every))).max() > 1e-3


def test_guided_prediction_of_a_clip_is_the_same_in_any_packing():
    task, params, _, _ = _task()
    guidance = GuidanceConfig(scale=2.5, rescale=0.5)
    found = {}

    @jax.jit
    def denoise(batch, t):
        condition = batch["patch_position"][..., 0] == 0
        return task.denoise_fn(params, batch, guidance, condition, batch["patches"])(
            0.5 * batch["patches"], t
        )

    for layout in (HERE, THERE):
        batch = pack_all(CLIPS, layout, P)
        t = jnp.where(batch["clip_key"] > 0, (batch["clip_key"] % 7 + 1) / 8.0, 0.0)
        x = np.asarray(denoise(batch, t.astype(jnp.float32)))
        for r, row in enumerate(layout):
            for s, place in enumerate(row, 1):
                mine = np.asarray(batch["patch_segment"][r]) == s
                found.setdefault(place, []).append(x[r][mine])
                first = np.asarray(batch["patch_position"][r][mine][:, 0]) == 0
                np.testing.assert_array_equal(
                    x[r][mine][first], np.asarray(batch["patches"][r][mine])[first]
                )
    for place, (a, b) in found.items():
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=f"clip {place}")


@pytest.mark.slow
def test_captions_of_a_frozen_encoder():
    """With text vectors from outside, a dropped clip sees the learned vector and nothing else."""
    task = Denoising(DenoisingConfig(DIT, None, LatentConfig((1, 1, 1)), text_drop_prob=1.0))
    params = scattered(task)
    batch = pack_all(CLIPS, HERE, P)
    text = jax.random.normal(jax.random.key(2), (*batch["text_ids"].shape, TEXT.width))
    frozen = {k: v for k, v in batch.items() if k != "text_ids"}
    run = jax.jit(lambda p, b: task.loss(p, b, seed=0, step=0)[0])
    loss = float(run(params, frozen | {"text": text}))
    assert float(run(params, frozen | {"text": -3.0 * text})) == loss
    assert float(run(params | {"null": params["null"] + 1.0}, frozen | {"text": text})) != loss
    assert flatten(task.param_axes()).keys() == flatten(params).keys()


def test_axes_cover_every_weight():
    task, params, _, _ = _task()
    axes, weights = flatten(task.param_axes()), flatten(params)
    assert axes.keys() == weights.keys()
    for name, names in axes.items():
        assert len(names) == weights[name].ndim, name


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="DiTConfig.text_width: 8; 16, the encoder's width"):
        Denoising(DenoisingConfig(DIT, dataclasses.replace(TEXT, width=16)))
    with pytest.raises(BadInput, match="3 channels for patches of 4 numbers"):
        make_task(latent=LatentConfig((1, 1, 1), (0.0,) * 3, (1.0,) * 3))
