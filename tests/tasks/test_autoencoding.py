"""The autoencoding task: each loss against numpy, sums over micro-batches, and two players who do
not learn each other's loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.tiny_models import CRITIC, VAE
from vidsim.core.errors import BadInput
from vidsim.core.keys import stream, token_normal
from vidsim.core.trees import flatten
from vidsim.tasks.autoencoding import Autoencoding, AutoencodingConfig, psnr, to_signed

ROUND = 1e-5  # relative; float32 means over some thousand numbers in another order
PLAIN = AutoencodingConfig(VAE, l1=1.0, l2=0.3, kl=0.01)
PLAYERS = dataclasses.replace(PLAIN, critic=CRITIC, critic_weight=0.2, critic_start=10)


def _batch(clips=4, frames=5, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(rng.integers(0, 256, (clips, frames, size, size, 3)), jnp.uint8),
        "clip_key": jnp.asarray(rng.choice(10**6, clips, replace=False) + 1, jnp.uint32),
        "num_clips": jnp.float32(clips),
    }


@functools.cache
def _task(cfg):
    """The task, weights, and its jitted loss with gradient."""
    task = Autoencoding(cfg)
    params = task.init(jax.random.key(0))
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True), static_argnames="seed")
    return task, params, lambda batch, step=0: run(params, batch, seed=0, step=jnp.int32(step))


def test_every_term_equals_numpy():
    task, params, run = _task(PLAIN)
    batch = _batch()
    (loss, metrics), _ = run(batch, 4)
    video = np.asarray(batch["video"], float) / 127.5 - 1.0
    mean, logvar = (
        np.asarray(a, float) for a in task.vae.encode(params["vae"], to_signed(batch["video"]))
    )
    b, t, h, w, c = mean.shape
    noise = np.zeros(mean.shape)
    key = stream(0, "autoencode/posterior", 4)
    for place in np.ndindex(b, t, h, w):
        clip, frame, y, x = place
        index = jnp.full((1, 1), (frame * 4096 + y) * 4096 + x)
        noise[place] = token_normal(key, batch["clip_key"][clip].reshape(1, 1), index, c)[0, 0]
    latent = jnp.asarray(mean + np.exp(0.5 * logvar) * noise, jnp.float32)
    made = np.asarray(task.vae.decode(params["vae"], latent), float)
    l1, l2 = np.abs(made - video).mean(), np.square(made - video).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar).mean()
    shown = np.clip(made, -1, 1)
    db = np.mean([10 * np.log10(4.0 / np.mean((shown[i] - video[i]) ** 2)) for i in range(b)])
    for name, want in {"l1": l1, "l2": l2, "kl": kl, "psnr": db}.items():
        np.testing.assert_allclose(metrics[name], want, rtol=10 * ROUND, err_msg=name)
    np.testing.assert_allclose(loss, l1 + 0.3 * l2 + 0.01 * kl, rtol=10 * ROUND)


def test_micro_batches_add_up_to_one_big_batch():
    _, _, run = _task(PLAYERS)
    batch = _batch()
    (_, whole), whole_grads = run(batch, 10)
    parts = [run({k: v[i : i + 2] if v.ndim else v for k, v in batch.items()}, 10) for i in (0, 2)]
    for name, value in whole.items():
        np.testing.assert_allclose(
            sum(p[0][1][name] for p in parts), value, rtol=1e-4, err_msg=name
        )
    summed = jax.tree.map(jnp.add, parts[0][1], parts[1][1])
    for name, want in flatten(whole_grads).items():
        gap = np.abs(np.asarray(flatten(summed)[name]) - np.asarray(want)).max()
        assert gap <= 1e-4 * np.abs(np.asarray(want)).max() + 1e-7, name


def test_a_clip_counts_the_same_anywhere_in_the_batch():
    _, _, run = _task(PLAIN)
    batch, order = _batch(), jnp.asarray([2, 0, 3, 1])
    mixed = {k: v[order] if v.ndim else v for k, v in batch.items()}
    (loss, _), _ = run(batch)
    np.testing.assert_allclose(run(mixed)[0][0], loss, rtol=ROUND)


def test_a_clip_on_a_canvas_counts_as_alone():
    task, params, _ = _task(PLAIN)
    batch = _batch(clips=2, size=16)
    stride = VAE.space_stride
    canvas = jnp.zeros((2, 5, 16 + 2 * stride, 16 + stride, 3), jnp.uint8)
    canvas = canvas.at[:, :, :16, :16].set(batch["video"])
    valid = jnp.full((2, 2), 16 // stride, jnp.int32)
    alone = task.loss(params, batch, seed=0, step=0)[1]
    padded = task.loss(params, {**batch, "video": canvas, "valid": valid}, seed=0, step=0)[1]
    for name, value in alone.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-4, err_msg=name)


def test_each_player_learns_its_own_loss_alone():
    batch = _batch()
    _, _, with_critic = _task(PLAYERS)
    _, _, deaf = _task(dataclasses.replace(PLAYERS, critic_weight=0.0))
    _, _, without = _task(PLAIN)
    both, silent = with_critic(batch, 10)[1], deaf(batch, 10)[1]
    plain = without(batch, 10)[1]
    for name, want in flatten(plain["vae"]).items():
        np.testing.assert_allclose(
            flatten(silent["vae"])[name], want, rtol=1e-4, atol=1e-7,
            err_msg=f"{name}: the critic's own loss reached the autoencoder",
        )  # fmt: skip
    for name, want in flatten(silent["critic"]).items():
        np.testing.assert_allclose(
            flatten(both["critic"])[name], want, rtol=1e-4, atol=1e-7,
            err_msg=f"{name}: what the autoencoder hears reached the critic",
        )  # fmt: skip
    moved = [
        np.abs(np.asarray(a - b)).max()
        for a, b in zip(jax.tree.leaves(both["vae"]), jax.tree.leaves(plain["vae"]), strict=True)
    ]
    assert max(moved) > 1e-6, "the autoencoder hears the critic"


def test_hinge_equals_numpy():
    task, params, run = _task(PLAYERS)
    batch = _batch()
    metrics = run(batch, 10)[0][1]
    video = to_signed(batch["video"])
    mean, logvar = task.vae.encode(params["vae"], video)
    index = _index(mean.shape)
    noise = token_normal(
        stream(0, "autoencode/posterior", 10),
        jnp.broadcast_to(batch["clip_key"][:, None], index.shape), index, mean.shape[-1],
    ).reshape(mean.shape)  # fmt: skip
    made = task.vae.decode(params["vae"], mean + jnp.exp(0.5 * logvar) * noise)
    fake, real = (np.asarray(task.critic.apply(params["critic"], v), float) for v in (made, video))
    hinge = np.maximum(0, 1 + fake).mean() + np.maximum(0, 1 - real).mean()
    np.testing.assert_allclose(metrics["critic"], hinge, rtol=1e-4)
    np.testing.assert_allclose(metrics["adversarial"], -fake.mean(), rtol=1e-3, atol=1e-5)


def _index(shape):
    b, t, h, w, _ = shape
    cells = [(f * 4096 + y) * 4096 + x for f in range(t) for y in range(h) for x in range(w)]
    return jnp.broadcast_to(jnp.asarray(cells)[None], (b, len(cells)))


def test_the_critic_is_silent_before_its_start():
    _, _, run = _task(PLAYERS)
    batch = _batch()
    (loss, metrics), grads = run(batch, 9)
    assert float(metrics["critic"]) == float(metrics["adversarial"]) == 0.0
    assert all((np.asarray(g) == 0.0).all() for g in jax.tree.leaves(grads["critic"]))
    (plain, _), _ = _task(PLAIN)[2](batch, 9)
    np.testing.assert_allclose(loss, plain, rtol=ROUND)
    assert float(run(batch, 10)[0][1]["critic"]) > 0.0


def test_perceptual_distance_equals_numpy():
    def features(video):
        return [video[..., :2] + 2.0, video[:, :, ::2, ::2] * 3.0]

    cfg = dataclasses.replace(PLAIN, perceptual=0.5)
    task = Autoencoding(cfg, features)
    made, video = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 4, 3)).astype(np.float32)
    want = np.zeros(3)
    for a, b in zip(features(made), features(video), strict=True):
        a = a / np.linalg.norm(a, axis=-1, keepdims=True)
        b = b / np.linalg.norm(b, axis=-1, keepdims=True)
        want += ((a - b) ** 2).sum(-1).mean((1, 2, 3))
    got = task._perceptual(jnp.asarray(made), jnp.asarray(video))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert "perceptual" in task.loss(_task(PLAIN)[1], _batch(), seed=0, step=0)[1]


def test_psnr_is_its_closed_form():
    # an error of 1/255 of the range everywhere is 20 log10(255) = 48.13 dB
    np.testing.assert_allclose(psnr(jnp.float32((2 / 255) ** 2)), 48.1308, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"kl": -1.0}, "AutoencodingConfig.kl: -1.0"),
        ({"l1": 0.0, "l2": 0.0}, "AutoencodingConfig.l1: l1 and l2 are both 0"),
        ({"critic_start": -1}, "AutoencodingConfig.critic_start: -1"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(PLAIN, **wrong)


def test_a_perceptual_weight_needs_a_network():
    with pytest.raises(BadInput, match="weight 0.5 without a feature network"):
        Autoencoding(dataclasses.replace(PLAIN, perceptual=0.5))
