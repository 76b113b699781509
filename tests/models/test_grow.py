"""Components at right angles to what is known, motion that counts more, and wider latents that keep
every old number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate.tiny_generator import random_weights
from vidsim.models.dit import DiT, DiTConfig
from vidsim.models.grow import (
    continues,
    grown_facts,
    grown_network,
    grown_patches,
    grown_vae,
    same_latents,
)
from vidsim.models.latents import LatentConfig, channel_weights
from vidsim.models.vae import Vae, VaeConfig
from vidsim.models.vae_linear import BlockMoments, principal_start

SMALL = VaeConfig(latent_channels=2, base_dim=8, dim_mult=(1,), num_res_blocks=1,
                  decoder_res_blocks=1, space_down=(), time_down=(), patch=(2, 4, 4),
                  middle=False, edge_kernel=1, linear=True, mid_attention=False)  # fmt: skip
DENOISER = DiTConfig(patch_width=12, text_width=8, width=16, heads=2, mlp_width=16, layers=1,
                     freq_width=8)  # fmt: skip
ROUND = 2e-5  # of numbers of about 1; float32 products in another order


def videos(count=12, seed=0):
    """Smooth noise that drifts, in -1..1: [count,5,8,8,3]."""
    rng = np.random.default_rng(seed)
    big = rng.normal(size=(count, 6, 6, 3)).repeat(4, 1).repeat(4, 2)
    frames = [big[:, t : t + 8, 2 * t : 2 * t + 8] for t in range(5)]
    return np.tanh(np.stack(frames, 1)).astype(np.float32)


def one_clip(rng):
    """All that a denoiser reads of one clip of six tokens but its patches."""
    one = np.ones((1, 6), np.int32)
    return {
        "text_RME": rng.normal(size=(1, 3, 8)).astype(np.float32),
        "levels_RK": np.float32([[0.0, 0.7]]), "level_index_RN": one, "patch_segment_RN": one,
        "text_segment_RM": one[:, :3], "position_RN3": rng.integers(0, 4, (1, 6, 3)),
        "fps_RS": np.ones((1, 1), np.float32), "size_RS2": np.full((1, 1, 2), 16, np.int32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    """A trained autoencoder (random numbers everywhere), and itself with two channels more."""
    old, wide = Vae(SMALL), Vae(dataclasses.replace(SMALL, latent_channels=4))
    moments = BlockMoments(wide)
    moments.add(videos())
    few = BlockMoments(old)
    few.add(videos())
    noise = random_weights(old.init, 3)
    start = principal_start(few, noise)
    params = jax.tree.map(lambda a, b: a + 0.05 * b, start, noise)
    return old, params, wide, grown_vae(moments, params, random_weights(wide.init, 4), 2.0)


def test_old_channels_keep_every_number_and_new_ones_pass_by_the_convolutions(pair):
    old, params, wide, grown = pair
    x = jnp.asarray(videos(2, 1))
    (mean, logvar), (mean_w, logvar_w) = old.encode(params, x), wide.encode(grown, x)
    np.testing.assert_allclose(mean_w[..., :2], mean, atol=ROUND * np.abs(mean).max())
    np.testing.assert_allclose(logvar_w[..., :2], logvar, atol=1e-4)
    without = mean_w.at[..., 2:].set(0.0)
    np.testing.assert_allclose(wide.decode(grown, without), old.decode(params, mean), atol=1e-4)
    assert same_latents(old, params, wide, grown)


def test_new_channels_are_white_and_bring_the_clip_nearer(pair):
    old, params, wide, grown = pair
    x = jnp.asarray(videos())
    mean = np.asarray(wide.encode(grown, x)[0])[..., 2:].reshape(-1, 2)
    np.testing.assert_allclose(mean.std(0), 1.0, rtol=1e-3)
    np.testing.assert_allclose(mean.mean(0), 0.0, atol=1e-3)
    errors = [
        float(jnp.square(vae.decode(p, vae.encode(p, x)[0]) - x).mean())
        for vae, p in ((old, params), (wide, grown))
    ]
    assert errors[1] < 0.95 * errors[0]


def test_other_latents_are_told_apart(pair):
    old, params, wide, grown = pair
    moved = grown | {"encoder": jax.tree.map(lambda x: 1.02 * x, grown["encoder"])}
    assert not same_latents(old, params, wide, moved)
    assert not same_latents(wide, grown, old, params), "narrower"
    other = Vae(dataclasses.replace(SMALL, patch=(2, 2, 2)))
    assert not same_latents(old, params, other, random_weights(other.init, 0))


def test_components_lie_at_right_angles_to_what_is_known():
    moments = BlockMoments(Vae(SMALL))
    moments.add(videos())
    known = np.random.default_rng(1).normal(size=(3, 96))
    _, std, axes = moments.components(5, known)
    np.testing.assert_allclose(known @ axes, 0, atol=1e-9)
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-9)
    blocks = np.asarray(moments.vae.to_encoder(jnp.asarray(videos()), True)).reshape(-1, 96)
    np.testing.assert_allclose((blocks @ axes).std(0), std, rtol=1e-4)


def test_motion_counts_as_often_as_asked():
    """Blocks whose frames agree vary by 2, frames against each other by 1: variances 8 and 2 of
    the two unit directions, so motion is chosen first when it counts more than twice."""
    rng = np.random.default_rng(0)
    level, swing = 2 * rng.normal(size=(400, 1)), rng.normal(size=(400, 1))
    frames = np.stack([level - swing, level + swing], 1)  # [400,2,1]
    video = np.broadcast_to(frames[..., None, None], (400, 2, 1, 1, 1))
    video = np.concatenate([video[:, :1], video], 1).repeat(4, 2).repeat(4, 3).repeat(3, 4)
    moments = BlockMoments(Vae(SMALL))
    blocks = video.astype(np.float32)[:, 1:].reshape(400, -1)
    moments.count, moments.sum = len(blocks), blocks.sum(0, dtype=np.float64)
    moments.square = blocks.T.astype(np.float64) @ blocks
    for motion, moves in ((1.0, False), (1.9, False), (2.2, True)):
        axis = moments.components(1, motion=motion)[2][:, 0].reshape(2, -1)
        assert (np.sign(axis[0, 0]) != np.sign(axis[1, 0])) == moves, motion


@pytest.mark.parametrize("exponents", [(0.7, 0.7), (0.7, 0.3), (0.0, 1.0)])
def test_a_denoiser_sees_and_says_of_the_old_channels_what_it_did(exponents):
    patch = (1, 2, 2)
    old = LatentConfig(patch, (0.0,) * 3, (1.0,) * 3, (0.5, 0.3, 0.2))
    new = LatentConfig(patch, (0.0,) * 5, (1.0,) * 5, (*old.gain, 0.1, 0.05))
    narrow, wide = DiT(DENOISER), DiT(dataclasses.replace(DENOISER, patch_width=20))
    params = random_weights(narrow.init, 0)
    grown = grown_patches(params, old, new, exponents)
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(1, 6, 4, 5)).astype(np.float32)
    rest = one_clip(rng)

    def run(dit, weights, x, latent, exponent):
        scale = np.sqrt(np.asarray(channel_weights(latent, x.shape[-1], exponent)))
        return np.asarray(dit.apply(weights, x * scale, **rest))

    before = run(narrow, params, cells[..., :3].reshape(1, 6, 12), old, exponents[0]).reshape(
        1, 6, 4, 3
    )
    after = run(wide, grown, cells.reshape(1, 6, 20), new, exponents[1]).reshape(1, 6, 4, 5)
    np.testing.assert_allclose(after[..., :3], before, atol=1e-5 * np.abs(before).max())
    assert not after[..., 3:].any()


@pytest.mark.parametrize(
    "more",
    [{"layers": 3}, {"mlp_width": 24}, {"layers": 2, "mlp_width": 20}, {"self_condition": True}],
)
def test_a_larger_denoiser_is_the_same_function_and_learns_with_all_of_it(more):
    small, large = DiT(DENOISER), DiT(dataclasses.replace(DENOISER, **more))
    params = random_weights(small.init, 0)
    grown = grown_network(params, random_weights(large.init, 1))
    rng = np.random.default_rng(0)
    x, rest = rng.normal(size=(1, 6, 12)).astype(np.float32), one_clip(rng)
    before = np.asarray(small.apply(params, x, **rest))
    said = {"estimate_RNP": 1.0 + x} if "self_condition" in more else {}
    np.testing.assert_allclose(large.apply(grown, x, **rest, **said), before, atol=1e-5)

    def error(weights):
        return jnp.square(large.apply(weights, x, **rest, **said) - x).mean()

    slopes = jax.grad(error)(grown)
    down, (layers, units) = slopes["blocks"]["down"]["w"], (DENOISER.layers, DENOISER.mlp_width)
    new = [down[layers:], down[:layers, units:]]
    new += [slopes["inputs"]["estimate"]["w"]] if said else []
    assert all(np.abs(part).max(-1).min() > 0 for part in new if part.size)


def test_statistics_begin_with_the_old_ones():
    old = {"mean": [1.0], "std": [2.0], "gain": [3.0], "clips": 9}
    new = {"mean": [1.1, 4.0], "std": [2.1, 5.0], "gain": [3.1, 6.0], "clips": 2}
    grown = grown_facts(old, new)
    assert grown == {"mean": [1.0, 4.0], "std": [2.0, 5.0], "gain": [3.0, 6.0], "clips": 9}
    bare = {name: old[name] for name in ("mean", "std", "clips")}
    assert grown_facts(bare, new) == {name: grown[name] for name in ("mean", "std", "clips")}

    def latent(facts):
        return LatentConfig((1, 1, 1), *(tuple(facts[name]) for name in ("mean", "std", "gain")))

    assert continues(latent(old), latent(grown)) and continues(latent(old), latent(old))
    assert not continues(latent(old), latent(new)) and not continues(latent(grown), latent(old))
