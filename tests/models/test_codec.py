"""Clips coded together on canvases equal clips coded alone; few shapes are compiled."""

import jax
import numpy as np
import pytest

from tests.generate.tiny_generator import VAE, vae_params
from vidsim.core.errors import BadInput
from vidsim.models.codec import (
    CodecConfig,
    decode_clips,
    encode_clips,
    plan_jobs,
    to_float,
    to_uint8,
)
from vidsim.models.vae_stream import decode_chunk

# Canvas and batch change the order of float32 sums in convolutions, nothing else.
FLOAT32_STEPS = 2e-5


@pytest.fixture(scope="module")
def params():
    return vae_params()


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(1, 8, 12), (5, 12, 8), (9, 16, 8)]
    return [rng.integers(0, 256, (T, H, W, 3), dtype=np.uint8) for T, H, W in sizes]


def test_coding_together_equals_coding_alone(params):
    videos = clips()
    together = encode_clips(VAE, params, videos, CodecConfig(canvases=2, latent_frames=3))
    encode, decode = jax.jit(VAE.encode), jax.jit(VAE.decode)
    alone = [np.asarray(encode(params, to_float(v[None]))[0][0]) for v in videos]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=FLOAT32_STEPS, rtol=0)
    decoded = decode_clips(VAE, params, together, CodecConfig(canvases=2, latent_frames=3))
    whole = [to_uint8(np.asarray(decode(params, z[None])[0])) for z in alone]
    for ours, want, video in zip(decoded, whole, videos, strict=True):
        assert ours.shape == video.shape
        # A float32 difference may tip a value that lies between two 8-bit steps.
        assert np.abs(ours.astype(int) - want).max() <= 1


def test_few_shapes_are_compiled(params):
    rng = np.random.default_rng(1)
    latents = [
        rng.normal(size=(t, h, w, 3)).astype(np.float32)
        for t in (1, 2, 4, 5) for h, w in ((2, 3), (3, 2), (2, 2), (4, 2), (2, 5))
    ]  # fmt: skip
    before = decode_chunk._cache_size()
    done = []
    decode_clips(VAE, params, latents, CodecConfig(canvases=2), lambda k, n: done.append((k, n)))
    # Two canvases, each for the first frame and for a run of frames.
    assert decode_chunk._cache_size() - before <= 4
    assert done[-1] == (20, 20) and [k for k, _ in done] == sorted(k for k, _ in done)


def test_every_clip_is_in_one_job_within_the_pixels():
    shapes = [(1 + i % 5, 4 + 2 * (i % 3), 4 + 2 * (i % 4)) for i in range(37)]
    cfg = CodecConfig(canvases=3, chunk_pixels=40_000, batch=8, latent_frames=2)
    jobs = plan_jobs(shapes, (4, 8), cfg)
    assert sorted(i for job in jobs for i in job.clips) == list(range(37))
    for job in jobs:
        assert len(job.clips) <= job.batch <= 8
        assert job.batch * job.chunk * 4 * 64 * np.prod(job.canvas) <= 40_000
    assert len({(job.canvas, job.batch, job.chunk) for job in jobs}) <= 3


def test_pixels_survive_the_round_trip_of_scales():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(values)), values)
    assert np.array_equal(to_uint8(np.float32([-9, 9])), [0, 255])


def test_sizes_off_the_grid_are_refused(params):
    with pytest.raises(BadInput, match="crop to 8x8"):
        encode_clips(VAE, params, [np.zeros((1, 9, 8, 3), np.uint8)])
