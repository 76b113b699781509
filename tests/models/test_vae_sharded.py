"""The autoencoder over devices, by clips and by rows of pixels, equals the one on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel.compiled import gathered, results
from tests.tasks.tiny_models import scattered
from vidsim.core.errors import BadInput
from vidsim.models import vae_blocks
from vidsim.models.codec import CodecConfig, decode_clips, encode_clips, plan_jobs
from vidsim.models.vae import Vae, VaeConfig
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.place import place_batch, replicated
from vidsim.parallel.rules import Rules, shardings

# 3 frames of 96 x 16 pixels; the middle attends over 12 x 2 positions.
CLIPS, FRAMES, HIGH, WIDE = 4, 3, 96, 16
CFG = VaeConfig(
    latent_channels=3, base_dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, decoder_res_blocks=1,
    space_down=(True, True), time_down=(True, False), patch=(1, 2, 2),
)  # fmt: skip
SAME = 1e-5  # float32 of size 1, convolutions in another order


@functools.cache
def vae_and_weights():
    vae = Vae(CFG)
    return vae, scattered(vae)


@functools.cache
def video():
    return np.random.default_rng(0).uniform(-1, 1, (CLIPS, FRAMES, HIGH, WIDE, 3)).astype("f4")


def code(params, batch):
    vae, _ = vae_and_weights()
    mean, logvar = vae.encode(params, batch["video"], jnp.asarray(VALID))
    return mean, logvar, vae.decode(params, mean, jnp.asarray(VALID))


# sizes in latent positions: whole canvases and clips that end inside another device's rows
VALID = np.array([[12, 2], [12, 1], [7, 2], [1, 1]], np.int32)


@functools.cache
def on_one_device():
    return jax.tree.map(np.asarray, jax.jit(code)(vae_and_weights()[1], {"video": video()}))


@functools.cache
def on(mesh, split=False):
    """Results and program; weights whole on every device, or split as training holds them."""
    vae, params = vae_and_weights()
    if split:
        params = jax.device_put(params, shardings(Rules(), mesh, vae.param_axes(), params))
    else:
        params = jax.device_put(params, replicated(mesh))
    batch = place_batch({"video": video()}, mesh)
    with jax.set_mesh(mesh):
        done = jax.jit(code).lower(params, batch).compile()
    return jax.tree.map(np.asarray, done(params, batch)), done.as_text()


MESHES = [
    MeshConfig(data=2, context=4),
    pytest.param(MeshConfig(data=4, context=2), marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=2, fsdp=2, context=2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("config", MESHES, ids=str)
def test_latents_and_pixels_are_those_of_one_device(config):
    found, _ = on(build_mesh(config))
    for mine, theirs in zip(found, on_one_device(), strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(mine, theirs, atol=SAME * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("split", [False, True], ids=["whole weights", "split weights"])
@pytest.mark.parametrize("config", MESHES, ids=str)
def test_borders_are_exchanged_and_only_the_middle_gathers(config, split):
    """Rows of pixels pass between neighbours; a gather brings no more than keys and values, and
    where weights are split it brings these and no frame.
    """
    found, text = on(build_mesh(config), split)
    for mine, theirs in zip(found, on_one_device(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=SAME * np.abs(theirs).max(), rtol=0)
    assert any(r.kind.startswith("collective-permute") for r in results(text))
    local = CLIPS // (config.data * config.fsdp)
    positions = (HIGH // 8) * (WIDE // 8)
    keys = local * 2 * positions * 3 * CFG.encoder_widths[-1]
    weights = {x.shape for x in jax.tree.leaves(vae_and_weights()[1])} if split else set()
    brought = [r for r in gathered(text) if r.kind.startswith("all-")]
    frames = [r for r in brought if r.dims not in weights]
    assert brought and max((r.size for r in frames), default=0) <= keys
    pixels = local * HIGH * WIDE * 3  # one frame of all rows, and never more of a stage
    whole = [r for r in results(text) if HIGH in r.dims and r.size >= pixels]
    assert whole == []


def test_a_frame_that_the_mesh_does_not_divide_is_refused():
    mesh, (vae, params) = build_mesh(MeshConfig(data=1, context=8)), vae_and_weights()
    with jax.set_mesh(mesh), pytest.raises(BadInput, match="axis 'height' of size 12 over 8"):
        jax.eval_shape(vae.decode, params, jnp.zeros((1, 1, 12, 2, 3)))


def test_jobs_are_rounded_up_to_what_the_mesh_divides():
    shapes, cfg = [(2, 5, 3), (1, 6, 3), (3, 2, 2)], CodecConfig(batch=2)
    alone = plan_jobs(shapes, (2, 8), cfg)
    with jax.set_mesh(build_mesh(MeshConfig(data=2, context=4))):
        jobs = plan_jobs(shapes, (2, 8), cfg)
    assert all(job.batch % 2 == 0 and job.canvas[0] % 4 == 0 for job in jobs)
    assert sorted(i for job in jobs for i in job.clips) == [0, 1, 2]
    assert all(a.canvas[0] <= b.canvas[0] < a.canvas[0] + 4
               for a, b in zip(alone, jobs, strict=True))  # fmt: skip


@pytest.mark.slow
def test_attention_in_blocks_keeps_each_devices_queries(monkeypatch):
    """As on frames too large for one product, with blocks of 5 queries of the 6 of a device."""
    monkeypatch.setattr(vae_blocks, "ATTENTION_ROWS", 5)
    on.cache_clear()
    found, text = on(build_mesh(MeshConfig(data=2, context=4)))
    on.cache_clear()
    for mine, theirs in zip(found, on_one_device(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=SAME * np.abs(theirs).max(), rtol=0)
    keys = CLIPS // 2 * 2 * 24 * 3 * CFG.encoder_widths[-1]
    assert max(r.size for r in gathered(text) if r.kind.startswith("all-")) <= keys


@pytest.mark.slow
def test_clips_of_any_size_through_the_codec_on_a_mesh():
    vae, params = vae_and_weights()
    clips = [np.random.default_rng(i).integers(0, 256, (3, h, 16, 3)).astype(np.uint8)
             for i, h in enumerate((16, 40, 24))]  # fmt: skip
    cfg = CodecConfig(canvases=1)
    one = encode_clips(vae, params, clips, cfg)
    pixels = decode_clips(vae, params, one, cfg)
    with jax.set_mesh(build_mesh(MeshConfig(data=2, context=4))):
        many = encode_clips(vae, params, clips, cfg)
        again = decode_clips(vae, params, one, cfg)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(b, a, atol=SAME * max(1.0, np.abs(a).max()), rtol=0)
    for a, b in zip(pixels, again, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1  # rounding to whole numbers
