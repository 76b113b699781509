"""Our autoencoder against diffusers' AutoencoderKLWan: tiny, random weights, CPU, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.trees import flatten
from vidsim.models import vae_import
from vidsim.models.vae import Vae, preset
from vidsim.models.vae_stream import decode_stream, encode_stream

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

# Two float32 programs sum the same thousands of products in different order, some twenty layers
# deep; measured 1e-6 to 3e-6 on values of size 1.
TOLERANCE = 2e-5
SHAPES = {
    "2.1": {
        "base_dim": 8, "z_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2],
        "temperal_downsample": [True, True], "scale_factor_spatial": 4,
    },
    "2.2": {
        "base_dim": 8, "decoder_base_dim": 16, "z_dim": 6, "num_res_blocks": 1,
        "dim_mult": [1, 2, 2], "temperal_downsample": [False, True], "is_residual": True,
        "patch_size": 2, "in_channels": 12, "out_channels": 12,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def pair(request):
    """Their model with every weight drawn, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLWan(**SHAPES[request.param]).eval().requires_grad_(False)
    for name, weight in theirs.named_parameters():
        noise = torch.randn_like(weight)
        weight.add_(0.2 * noise if "gamma" in name or "bias" in name else 0.05 * noise)
    cfg = vae_import.config_from_wan(dict(theirs.config))
    state = {name: weight.numpy() for name, weight in theirs.state_dict().items()}
    return theirs, Vae(cfg), vae_import.from_wan(state, cfg), state


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).uniform(-1, 1, (2, 9, 16, 24, 3)).astype(np.float32)


def _to_torch(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def _from_torch(x):
    return np.moveaxis(x.numpy(), 1, -1)


def test_same_number_of_weights(pair):
    theirs, vae, params, _ = pair
    fresh = jax.eval_shape(vae.init, jax.random.key(0))
    ours, want = flatten(params), flatten(fresh)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in want.items()}
    assert sum(v.size for v in ours.values()) == sum(p.numel() for p in theirs.parameters())


def test_weights_return_unchanged(pair):
    _, vae, params, state = pair
    back = vae_import.to_wan(params, vae.cfg)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], state[k]) for k in state)
    assert vae_import.config_from_wan(vae_import.config_to_wan(vae.cfg)) == vae.cfg


def test_encoder_agrees(pair, clip):
    theirs, vae, params, _ = pair
    want = theirs.encode(_to_torch(clip)).latent_dist
    mean, logvar = jax.jit(vae.encode)(params, clip)
    assert np.std(want.mean.numpy()) > 0.05, "the comparison would be empty"
    np.testing.assert_allclose(mean, _from_torch(want.mean), atol=TOLERANCE)
    np.testing.assert_allclose(logvar, _from_torch(want.logvar), atol=TOLERANCE)


def test_decoder_agrees(pair):
    theirs, vae, params, _ = pair
    latent = np.random.default_rng(1).normal(size=(2, 3, 4, 5, vae.cfg.latent_channels))
    latent = latent.astype(np.float32)
    want = _from_torch(theirs.decode(_to_torch(latent)).sample)
    got = np.clip(jax.jit(vae.decode)(params, latent), -1, 1)  # theirs clips
    assert np.mean(np.abs(want) < 1) > 0.5, "the comparison would be empty"
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_chunked_coding_agrees(pair, clip):
    theirs, vae, params, _ = pair
    want = _from_torch(theirs.encode(_to_torch(clip)).latent_dist.mean)
    parts = [part.mean_Bthwc for part in encode_stream(vae, params, [clip])]
    mean = jnp.concatenate(parts, 1)
    np.testing.assert_allclose(mean, want, atol=TOLERANCE)
    video = [part.video_BTHWC for part in decode_stream(vae, params, [mean])]
    again = _from_torch(theirs.decode(_to_torch(want)).sample)
    np.testing.assert_allclose(np.clip(jnp.concatenate(video, 1), -1, 1), again, atol=TOLERANCE)


def test_the_presets_are_the_published_shapes():
    """Every weight of the full models (127 and 705 million) has its place; nothing is computed."""
    wan22 = {
        "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True,
        "patch_size": 2, "in_channels": 12, "out_channels": 12,
    }  # fmt: skip
    for name, config in (("wan21", {}), ("wan22", wan22)):
        with torch.device("meta"):
            theirs = diffusers.AutoencoderKLWan(**config)
        cfg = vae_import.config_from_wan(config)
        assert cfg == preset(name)
        empty = np.zeros((), np.float32)
        state = {k: np.broadcast_to(empty, v.shape) for k, v in theirs.state_dict().items()}
        ours = flatten(vae_import.from_wan(state, cfg))
        fresh = flatten(jax.eval_shape(Vae(cfg).init, jax.random.key(0)))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in fresh.items()}
