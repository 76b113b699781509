"""The scale of latents: channels end up where patches put them, statistics are those of numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.core.patching import patchify
from vidsim.models.latents import (
    LatentConfig,
    LatentMoments,
    channel_weights,
    denormalise,
    normalise,
)

RNG = np.random.default_rng(0)
ROUND = 1e-6  # one float32 rounding of numbers of size 10


def test_normalising_patches_equals_patchifying_normalised_latents():
    latent = RNG.normal(3.0, 2.0, (2, 4, 6, 3)).astype(np.float32)
    mean, std = np.array([1.0, -2.0, 5.0]), np.array([0.5, 2.0, 4.0])
    cfg = LatentConfig((1, 2, 2), tuple(mean), tuple(std))
    made = normalise(cfg, jnp.asarray(patchify(latent, (1, 2, 2))))
    want = patchify((latent - mean) / std, (1, 2, 2))
    np.testing.assert_allclose(made, want, atol=10 * ROUND)


def test_denormalise_is_the_inverse():
    cfg = LatentConfig((1, 2, 2), (1.0, -20.0), (0.3, 7.0))
    patches = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
    np.testing.assert_allclose(denormalise(cfg, normalise(cfg, patches)), patches, atol=10 * ROUND)


def test_one_number_serves_all_channels():
    one = LatentConfig((1, 1, 1), (2.0,), (3.0,))
    four = LatentConfig((1, 1, 1), (2.0,) * 4, (3.0,) * 4)
    patches = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    np.testing.assert_array_equal(normalise(one, patches), normalise(four, patches))


def test_moments_equal_numpy_whatever_the_split():
    clips = [RNG.normal(1e3, 1.0, (t, 3, 2, 4)) * [1.0, 2.0, 3.0, 4.0] for t in (1, 5, 2, 7)]
    flat = np.concatenate([c.reshape(-1, 4) for c in clips])
    one, left, right = (LatentMoments(4) for _ in range(3))
    for clip in clips:
        one.add(clip)
    for clip in clips[:1]:
        left.add(clip)
    for clip in clips[1:]:
        right.add(clip)
    for moments in (one, left + right, right + left, LatentMoments(4) + one):
        cfg = moments.config((1, 2, 2))
        np.testing.assert_allclose(cfg.mean, flat.mean(0), rtol=1e-12)
        np.testing.assert_allclose(cfg.std, flat.std(0), rtol=1e-9)


def test_statistics_make_unit_variance():
    clips = [RNG.normal(4.0, 3.0, (3, 4, 4, 2)).astype(np.float32) for _ in range(8)]
    moments = LatentMoments(2)
    for clip in clips:
        moments.add(clip)
    cfg = moments.config((1, 2, 2))
    scaled = np.stack(
        [np.asarray(normalise(cfg, jnp.asarray(patchify(c, (1, 2, 2))))) for c in clips]
    )
    by_channel = scaled.reshape(-1, 2)
    np.testing.assert_allclose(by_channel.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(by_channel.std(0), 1.0, atol=1e-5)


def test_statistics_of_another_vae_are_refused():
    cfg = LatentConfig((1, 2, 2), (0.0,) * 16, (1.0,) * 16)
    with pytest.raises(
        BadInput, match="16 channels for patches of 32 numbers in 4 cells; 8 channels"
    ):
        normalise(cfg, jnp.zeros((3, 32)))
    with pytest.raises(BadInput, match="patches of 33 numbers in 4 cells; multiples of 4"):
        normalise(LatentConfig(), jnp.zeros((3, 33)))
    with pytest.raises(BadInput, match="LatentConfig.std"):
        LatentConfig((1, 2, 2), (0.0,), (0.0,))
    with pytest.raises(BadInput, match="no latents gathered"):
        LatentMoments(3).config((1, 2, 2))


def test_channel_weights_follow_the_gain():
    cfg = LatentConfig((1, 1, 2), (0.0, 0.0), (1.0, 1.0), (3.0, 1.0))
    np.testing.assert_allclose(channel_weights(cfg, 4, 0.0), [1, 1, 1, 1])
    # squared gains 9 and 1 to the power 1, scaled to mean 1; channels vary fastest in a patch
    np.testing.assert_allclose(channel_weights(cfg, 4, 1.0), [1.8, 0.2, 1.8, 0.2], rtol=1e-6)
    with pytest.raises(BadInput, match="gain"):
        LatentConfig((1, 1, 1), (0.0, 0.0), (1.0, 1.0), (1.0, 2.0, 3.0))
