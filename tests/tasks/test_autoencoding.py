"""The autoencoding task: each loss against numpy, sums over micro-batches, and two players who do
not learn each other's loss."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.tasks.tiny_models import CRITIC, VAE, scattered
from vidsim.core.errors import BadInput
from vidsim.core.keys import stream
from vidsim.core.trees import flatten
from vidsim.tasks.autoencoding import (
    Autoencoding,
    AutoencodingConfig,
    load_perceptual,
    psnr,
    to_signed,
)

ROUND = 1e-4  # relative; float32 means over some thousand numbers in another order
START = 10
PLAIN = AutoencodingConfig(VAE, l1=1.0, l2=0.3, kl=0.01)
PLAYERS = dataclasses.replace(PLAIN, critic=CRITIC, critic_weight=0.2, critic_start=START)


def _batch(clips=4, frames=3, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(rng.integers(0, 256, (clips, frames, size, size, 3)), jnp.uint8),
        "clip_key": jnp.asarray(rng.choice(10**6, clips, replace=False) + 1, jnp.uint32),
        "num_clips": jnp.float32(clips),
    }


@functools.cache
def _learner(cfg):
    """(task, weights, loss and gradient), compiled once."""
    task = Autoencoding(cfg)
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    params = scattered(task)
    return task, params, lambda batch, step: run(params, batch, seed=0, step=step)


@functools.cache
def _valuer(cfg):
    """As `_learner`, without the gradient."""
    task = Autoencoding(cfg, load_perceptual(cfg))
    params = scattered(task)
    run = jax.jit(task.loss)
    return task, params, lambda batch, step: run(params, batch, seed=0, step=step)


@functools.cache
def _parts():
    """Compiled encode and decode of the tiny autoencoder."""
    vae = Autoencoding(PLAIN).vae
    return jax.jit(vae.encode), jax.jit(vae.decode)


def _remade(params, batch, step):
    """(mean, logvar, video, reconstruction) in float64; the noise of each clip drawn by itself."""
    encode, decode = _parts()
    video = to_signed(batch["video"])
    mean, logvar = encode(params["vae"], video)
    key = stream(0, "autoencode/posterior", step)
    keys = [jax.random.fold_in(key, int(k)) for k in batch["clip_key"]]
    noise = np.stack([jax.random.normal(k, mean.shape[1:]) for k in keys])
    made = decode(params["vae"], mean + np.exp(0.5 * np.asarray(logvar)) * noise)
    return tuple(np.asarray(a, float) for a in (mean, logvar, video, made))


def test_every_term_equals_numpy():
    _, params, run = _learner(PLAYERS)
    batch = _batch()
    (loss, metrics), _ = run(batch, START - 1)
    mean, logvar, video, made = _remade(params, batch, START - 1)
    np.testing.assert_allclose(video, np.asarray(batch["video"], float) / 127.5 - 1.0, atol=1e-6)
    l1, l2 = np.abs(made - video).mean(), np.square(made - video).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar).mean()
    shown = np.clip(made, -1, 1)
    noise_B = [np.mean((a - b) ** 2) for a, b in zip(shown, video, strict=True)]
    db = np.mean([10 * np.log10(4.0 / n) for n in noise_B])
    for name, want in {"l1": l1, "l2": l2, "kl": kl, "psnr": db}.items():
        np.testing.assert_allclose(metrics[name], want, rtol=ROUND, err_msg=name)
    np.testing.assert_allclose(loss, l1 + 0.3 * l2 + 0.01 * kl, rtol=ROUND)


def test_hinge_equals_numpy():
    task, params, run = _learner(PLAYERS)
    batch = _batch()
    metrics = run(batch, START)[0][1]
    _, _, video, made = _remade(params, batch, START)
    judge = jax.jit(task.critic.apply)
    fake, real = (np.asarray(judge(params["critic"], v), float) for v in (made, video))
    hinge = np.maximum(0, 1 + fake).mean() + np.maximum(0, 1 - real).mean()
    np.testing.assert_allclose(metrics["critic"], hinge, rtol=ROUND)
    np.testing.assert_allclose(metrics["adversarial"], -fake.mean(), rtol=ROUND, atol=1e-6)
    parts = metrics["l1"] + 0.3 * metrics["l2"] + 0.01 * metrics["kl"]
    parts += 0.2 * metrics["adversarial"] + metrics["critic"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=ROUND)


def test_the_critic_is_silent_before_its_start():
    _, _, run = _learner(PLAYERS)
    (_, metrics), grads = run(_batch(), START - 1)
    assert float(metrics["critic"]) == float(metrics["adversarial"]) == 0.0
    assert all((np.asarray(g) == 0.0).all() for g in jax.tree.leaves(grads["critic"]))
    (_, metrics), grads = run(_batch(), START)
    assert float(metrics["critic"]) > 0.0
    assert all(np.abs(np.asarray(g)).max() > 0.0 for g in jax.tree.leaves(grads["critic"]))


def test_micro_batches_add_up_to_one_big_batch():
    """The sum is the same function of the weights, hence so is its gradient."""
    _, _, run = _learner(PLAYERS)
    _, _, value = _valuer(PLAYERS)
    batch = _batch()
    whole = run(batch, START)[0][1]
    parts = [
        value({k: v[i : i + 2] if v.ndim else v for k, v in batch.items()}, START)[1]
        for i in (0, 2)
    ]
    for name, want in whole.items():
        total = sum(part[name] for part in parts)
        np.testing.assert_allclose(total, want, rtol=ROUND, err_msg=name)


def test_a_clip_counts_the_same_anywhere_in_the_batch():
    _, _, run = _learner(PLAYERS)
    batch, order = _batch(), jnp.asarray([2, 0, 3, 1])
    mixed = {k: v[order] if v.ndim else v for k, v in batch.items()}
    for step in (START - 1, START):
        (loss, _), (again, _) = run(batch, step)[0], run(mixed, step)[0]
        np.testing.assert_allclose(again, loss, rtol=ROUND)


@pytest.mark.slow
def test_each_player_learns_its_own_loss_alone():
    """A deaf autoencoder learns as if alone, and the critic as if it were heard."""
    batch = _batch()
    _, _, run = _learner(PLAYERS)
    _, _, deaf = _learner(dataclasses.replace(PLAYERS, critic_weight=0.0))
    before, both = run(batch, START - 1)[1], run(batch, START)[1]
    silent = deaf(batch, START)[1]
    # posterior noise differs from step to step: compare at equal steps
    own = deaf(batch, START - 1)[1]
    _close(own["vae"], before["vae"], "before the start nobody is heard")
    _close(silent["critic"], both["critic"], "what the autoencoder hears reached the critic")
    _, _, without = _learner(PLAIN)
    _close(silent["vae"], without(batch, START)[1]["vae"], "the critic's loss reached the vae")
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), both["vae"], silent["vae"])
    assert max(jax.tree.leaves(moved)) > 1e-5, "the autoencoder hears the critic"


def test_where_the_decoder_alone_learns_the_loss_is_the_same_and_the_encoder_has_no_gradient():
    alone = dataclasses.replace(PLAIN, learn="decoder")
    (loss, _), grads = _learner(alone)[2](_batch(), 0)
    (whole, _), both = _learner(PLAIN)[2](_batch(), 0)
    assert float(loss) == pytest.approx(float(whole), rel=1e-6)
    assert not any(np.any(g) for g in flatten(grads["vae"]["encoder"]).values())
    assert any(np.any(g) for g in flatten(both["vae"]["encoder"]).values())
    wanted = flatten(both["vae"]["decoder"])
    for path, found in flatten(grads["vae"]["decoder"]).items():
        _close(found, wanted[path], path)


def _close(found, wanted, message):
    for name, want in flatten(wanted).items():
        gap = np.abs(np.asarray(flatten(found)[name]) - np.asarray(want)).max()
        assert gap <= ROUND * np.abs(np.asarray(want)).max() + 1e-7, f"{message}: {name}"


def test_perceptual_network_is_read_from_its_folder_and_counts(tmp_path):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3, 1, 1)).astype(np.float32), np.float32([1, 2, 3, 4])
    save_file({"a.weight": kernel, "a.bias": bias}, tmp_path / "perceptual.safetensors")
    spec = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "layers": ["conv a", "tap"]}
    (tmp_path / "perceptual.json").write_text(json.dumps(spec))
    cfg = dataclasses.replace(PLAIN, perceptual=0.5, perceptual_weights=str(tmp_path))
    batch = _batch()
    _, params, run = _valuer(cfg)
    loss, metrics = run(batch, 0)
    _, _, video, made = _remade(params, batch, 0)
    unit = []
    for v in (made, video):
        f = (v * 2.0) @ kernel[:, :, 0, 0].T.astype(float) + bias  # ((v/2 + 1/2) - 1/2) / (1/4)
        unit.append(f / np.linalg.norm(f, axis=-1, keepdims=True))
    want = np.square(unit[0] - unit[1]).sum(-1).mean()
    np.testing.assert_allclose(metrics["perceptual"], want, rtol=ROUND)
    rest = metrics["l1"] + 0.3 * metrics["l2"] + 0.01 * metrics["kl"]
    np.testing.assert_allclose(loss, rest + 0.5 * want, rtol=ROUND)


def test_perceptual_networks_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(BadInput, match="weight 0.5 without a network"):
        dataclasses.replace(PLAIN, perceptual=0.5)
    cfg = dataclasses.replace(PLAIN, perceptual=0.5, perceptual_weights=str(tmp_path))
    with pytest.raises(BadInput, match=r"perceptual_weights: no file .*perceptual\.json"):
        load_perceptual(cfg)
    task = Autoencoding(cfg)
    with pytest.raises(BadInput, match="was not loaded"):
        jax.eval_shape(lambda p: task.loss(p, _batch(), seed=0, step=0), scattered(task))
    assert load_perceptual(PLAIN) is None


def test_psnr_is_its_closed_form():
    # an error of 1/255 of the range everywhere is 20 log10(255) = 48.13 dB
    np.testing.assert_allclose(psnr(jnp.float32((2 / 255) ** 2)), 48.1308, rtol=1e-5)


def test_axes_cover_every_weight():
    task, params, _ = _learner(PLAYERS)
    axes, weights = flatten(task.param_axes()), flatten(params)
    assert axes.keys() == weights.keys()
    assert all(len(axes[name]) == weights[name].ndim for name in axes)


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
