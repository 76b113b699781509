"""The memory plan against what the compiler allocates; rows and tiles that it chooses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate.tiny_generator import TASK, VAE, make_model
from vidsim.core.errors import BadInput
from vidsim.core.liveness import peak_bytes, tree_bytes
from vidsim.data.packing import RowLimits
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.generate import memory
from vidsim.generate.memory import (
    decode_bytes,
    denoise_bytes,
    encode_bytes,
    fit_memory,
    plan_memory,
    worth_planning,
)
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out, sample
from vidsim.models.vae_stream import decode_chunk, encode_chunk

# What is stated: the estimate is within this factor of what XLA allocates, above and below.
FACTOR = 2.0
CONFIG = SamplerConfig("euler", 2, GuidanceConfig(2.0), long_rows=True)


def _allocated(function, *args):
    """Bytes of temporaries and results of the compiled program."""
    found = jax.jit(function).lower(*args).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


def test_peak_of_a_chain_a_fork_and_a_loop_is_what_one_counts_by_hand():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    w = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    assert peak_bytes(lambda w, x: w @ (w @ (w @ x)), w, x) == 2 * 4000  # one read, one written
    # the first product is needed to the end: it and two more
    assert peak_bytes(lambda w, x: (lambda a: w @ (w @ a) + a)(w @ x), w, x) == 3 * 4000
    # sums on the way are never stored
    assert peak_bytes(lambda w, x: w @ (jnp.tanh(x) * 2.0 + 1.0), w, x) == 4000
    loop = peak_bytes(lambda w, x: jax.lax.fori_loop(0, 9, lambda i, y: w @ y, x), w, x)
    assert 4000 <= loop <= 3 * 4000 + 64
    assert tree_bytes({"w": w, "x": x}) == 4_004_000


def test_denoiser_estimate_is_within_the_stated_factor_of_the_compiled_program():
    model = make_model().for_rows(4096)
    limits = RowLimits(4096, 64, 6)
    R, N, P = 1, limits.tokens, model.patch_width
    batch = {
        "patch_segment": jnp.ones((R, N), jnp.int32), "action": jnp.zeros((R, N), jnp.int32),
        "patch_position": jnp.zeros((R, N, 3), jnp.int32), "fps": jnp.ones((R, 6)),
        "size": jnp.ones((R, 6, 2), jnp.int32), "grid": jnp.ones((R, 6, 3), jnp.int32),
    }  # fmt: skip
    text = {
        "text": jnp.zeros((2 * R, 64, 16)), "text_segment": jnp.ones((2 * R, 64), jnp.int32),
        "text_position": jnp.zeros((2 * R, 64), jnp.int32),
    }  # fmt: skip
    measured = _allocated(
        lambda p, x: model.task.denoise(
            p, batch, text, CONFIG.guidance, x, jnp.ones((R, 6)), jnp.zeros((R, N), bool)
        ),
        model.params, jnp.zeros((R, N, P)),
    )  # fmt: skip
    solver = memory.SOLVER_ARRAYS * 4 * R * N * P
    estimate = denoise_bytes(model, R, limits, CONFIG) - solver
    assert measured > 5e6
    assert measured / FACTOR < estimate < measured * FACTOR, (estimate, measured)
    plain = dataclasses.replace(CONFIG, guidance=GuidanceConfig(1.0))
    assert denoise_bytes(model, R, limits, plain) - solver < 0.7 * estimate


def test_decoder_estimate_is_within_the_stated_factor_of_the_compiled_program():
    model, side = make_model(), 160
    latent = jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.float32)
    measured = _allocated(lambda p, x: decode_chunk(VAE, p, None, x), model.vae.params, latent)
    estimate = decode_bytes(model, [(1, side, side)], CONFIG)
    assert measured / FACTOR < estimate < measured * FACTOR, (estimate, measured)


def test_encoder_estimate_is_within_the_stated_factor_of_the_compiled_program():
    model, request = make_model(), Request("x", 640, 640)
    pixels = jax.ShapeDtypeStruct((1, 1, 640, 640, 3), jnp.float32)
    measured = _allocated(lambda p, x: encode_chunk(VAE, p, None, x), model.vae.params, pixels)
    estimate = encode_bytes(model, request)
    assert measured / FACTOR < estimate < measured * FACTOR, (estimate, measured)


def test_what_grows_is_encoded_too_and_denoised_in_rows_of_training():
    model = make_model()
    small, large = Request("x", 32, 32), Request("x", 256, 192)
    assert plan_memory(model, [small], CONFIG, available=1 << 40).encode == 0
    grown = plan_memory(model, [large], CONFIG, available=1 << 40)
    whole = plan_memory(model, [large], CONFIG, available=1 << 40, grows=False)
    assert grown.encode == whole.encode > 0 and "encoder" in grown.lines()[0]
    assert grown.tokens <= model.limits.tokens < whole.tokens == 768
    assert plan_memory(model, [small, large, large], CONFIG, 1 << 40).denoise == grown.denoise


def test_a_picture_that_grows_needs_no_long_row_and_may_stand_beside_a_video():
    model, plain = make_model(), dataclasses.replace(CONFIG, long_rows=False)
    mixed = [Request("x", 32, 32, 5, 8.0), Request("x", 256, 192)]
    config, lines = fit_memory(model, mixed, plain)
    assert not config.long_rows and "encoder" in lines[0] and "a row of" not in "".join(lines)
    assert fit_memory(model, mixed[:1], plain) == (plain, [])
    with pytest.raises(BadInput, match="768 tokens"):
        fit_memory(model, mixed[1:], plain, grows=False)


def test_a_large_picture_gets_tiles_that_fit_and_is_the_same_picture():
    model = make_model()
    asked = [Request("x", 256, 192, seed=2)]
    roomy = plan_memory(model, asked, CONFIG, available=1 << 40, grows=False)
    assert roomy.config.tile == 0 and roomy.tokens == 768 and roomy.trained == 91
    assert any("768 tokens; trained with up to 91" in line for line in roomy.lines())
    roomy.check()
    room = memory.FIXED_BYTES + roomy.decode // 2
    tight = plan_memory(model, asked, CONFIG, available=room, grows=False)
    assert tight.config.tile > 0 and tight.decode < roomy.decode
    whole, tiled = (sample(model, asked, p.config)[0].video_THWC for p in (roomy, tight))
    assert whole.shape == (1, 256, 192, 3) and whole.std() > 5
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


def test_what_does_not_fit_is_refused_with_figures():
    plan = plan_memory(make_model(), [Request("x", 512, 512)], CONFIG, available=1 << 28)
    with pytest.raises(BadInput, match=r"memory: about .* GB of 0.27 GB free .*smaller --size"):
        plan.check()


def test_a_pictures_row_is_its_own_and_videos_keep_to_those_of_training():
    model = make_model()
    assert lay_out(model, [Request("x", 128, 128)], long_rows=True).limits.tokens == 256
    assert lay_out(model, [Request("x", 16, 16)], long_rows=True).limits == model.limits
    with pytest.raises(BadInput, match="256 tokens"):
        lay_out(model, [Request("x", 128, 128)])
    assert worth_planning(model, [Request("x", 128, 128)], CONFIG)
    assert not worth_planning(model, [Request("x", 16, 16)], CONFIG)


def test_longer_rows_run_in_a_loop_and_shorter_ones_as_trained():
    unrolled = dataclasses.replace(TASK.cfg, dit=dataclasses.replace(TASK.cfg.dit, loop="unroll"))
    model = dataclasses.replace(make_model(), task=type(TASK)(unrolled))
    assert model.for_rows(91) is model
    assert model.for_rows(92).task.cfg.dit.loop == "scan"


def test_free_memory_is_read():
    free = memory.available_bytes()
    assert 1 << 24 < free < 1 << 45
