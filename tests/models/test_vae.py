"""Laws of the video autoencoder, on two small shapes: Wan 2.1's kind and Wan 2.2's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten, unflatten
from vidsim.models.vae import Vae, VaeConfig, kl_standard_normal, preset
from vidsim.models.vae_blocks import average_down, repeat_up

# The same float32 sums in another order, some fifteen layers deep, on values of size 1.
TOLERANCE = 1e-5
PLAIN = VaeConfig(
    latent_channels=4, base_dim=8, dim_mult=(1, 2), num_res_blocks=1, decoder_res_blocks=1,
    space_down=(True,), time_down=(True,), patch=(1, 4, 4),
)  # fmt: skip
RESIDUAL = dataclasses.replace(
    PLAIN, dim_mult=(1, 1), decoder_dim=4, patch=(2, 4, 4), residual=True
)


def _weight(name, shape):
    """Drawn with the spread of a fresh kernel; gains and biases about 1 and 0, but none exactly."""
    draw = np.random.default_rng(list(name.encode())).normal(size=shape).astype(np.float32)
    if len(shape) == 1:
        return name.endswith("/g") + 0.2 * draw
    return draw / np.sqrt(np.prod(shape[:-1]))


@functools.cache
class Case:
    """A model with no weight left at its start value, and its compiled halves."""

    def __init__(self, cfg):
        self.vae = Vae(cfg)
        shapes = flatten(jax.eval_shape(self.vae.init, jax.random.key(0)))
        self.params = unflatten({name: _weight(name, x.shape) for name, x in shapes.items()})
        self.encode = jax.jit(self.vae.encode)
        self.decode = jax.jit(self.vae.decode)
        shape = (2, 1 + 2 * cfg.time_stride, 32, 24, 3)  # three latent frames
        self.video = np.random.default_rng(1).uniform(-1, 1, shape).astype("f")
        self.mean, self.logvar = self.encode(self.params, self.video)
        self.pixels = self.decode(self.params, self.mean)


@pytest.fixture(scope="module", params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def case(request):
    return Case(request.param)


def test_strides_and_shapes_are_those_of_the_config(case):
    cfg = case.vae.cfg
    assert (cfg.time_stride, cfg.space_stride) == (4 if cfg.residual else 2, 8)
    assert case.mean.shape == case.logvar.shape == (2, 3, 4, 3, cfg.latent_channels)
    assert case.pixels.shape == case.video.shape
    assert (preset("wan21").time_stride, preset("wan21").space_stride) == (4, 8)
    assert (preset("wan22").time_stride, preset("wan22").space_stride) == (4, 16)


def test_encoder_is_causal(case):
    """The Jacobian of latent frame j is zero for frames after stride * j, and not for that."""
    stride = case.vae.cfg.time_stride
    _, back = jax.vjp(lambda x: case.encode(case.params, x)[0], case.video)
    pull = jax.jit(back)
    for j in range(3):
        g = np.zeros(case.mean.shape, np.float32)
        g[:, j] = np.random.default_rng(j).normal(size=g[:, j].shape)
        size = np.abs(pull(g)[0]).max(axis=(0, 2, 3, 4))
        assert np.all(size[stride * j + 1 :] == 0), size
        assert size[stride * j] > 0, size


def test_decoder_is_causal(case):
    """The Jacobian of a frame is zero for latents after the one that covers it, not for that."""
    _, back = jax.vjp(lambda z: case.decode(case.params, z), case.mean)
    pull = jax.jit(back)
    stride = case.vae.cfg.time_stride
    for frame in (0, 1, stride, stride + 1, 2 * stride):
        g = np.zeros(case.pixels.shape, np.float32)
        g[:, frame] = np.random.default_rng(frame).normal(size=g[:, frame].shape)
        size = np.abs(pull(g)[0]).max(axis=(0, 2, 3, 4))
        last = -(-frame // stride)
        assert np.all(size[last + 1 :] == 0), (frame, size)
        assert size[last] > 0, (frame, size)


def test_a_prefix_has_the_prefix_of_the_latents(case):
    frames = 1 + case.vae.cfg.time_stride
    prefix, _ = case.encode(case.params, case.video[:, :frames])
    np.testing.assert_allclose(prefix, case.mean[:, :2], atol=TOLERANCE)
    pixels = case.decode(case.params, case.mean[:, :2])
    np.testing.assert_allclose(pixels, case.pixels[:, :frames], atol=TOLERANCE)


def test_an_image_is_a_video_of_one_frame(case):
    image, _ = case.encode(case.params, case.video[:, :1])
    np.testing.assert_allclose(image, case.mean[:, :1], atol=TOLERANCE)
    pixels = case.decode(case.params, image)
    assert pixels.shape[1] == 1
    np.testing.assert_allclose(pixels, case.pixels[:, :1], atol=TOLERANCE)


def test_a_clip_on_a_canvas_is_the_clip_alone(case):
    """Inside as alone, outside zero, whatever lies outside: even what is not a number."""
    valid = np.array([[4, 3], [2, 1]], np.int32)
    video = np.array(case.video)
    video[1, :, 16:], video[1, :, :, 8:] = np.nan, np.nan
    mean, logvar = jax.jit(case.vae.encode)(case.params, video, valid)
    np.testing.assert_allclose(mean[0], case.mean[0], atol=TOLERANCE)
    alone, alone_logvar = case.encode(case.params, case.video[1:, :, :16, :8])
    np.testing.assert_allclose(mean[1:, :, :2, :1], alone, atol=TOLERANCE)
    np.testing.assert_allclose(logvar[1:, :, :2, :1], alone_logvar, atol=TOLERANCE)
    latent = np.array(mean)
    assert not latent[1, :, 2:].any() and not latent[1, :, :, 1:].any()
    latent[1, :, 2:], latent[1, :, :, 1:] = np.nan, np.nan
    pixels = np.asarray(jax.jit(case.vae.decode)(case.params, latent, valid))
    want = case.decode(case.params, alone)
    np.testing.assert_allclose(pixels[1:, :, :16, :8], want, atol=TOLERANCE)
    assert not pixels[1, :, 16:].any() and not pixels[1, :, :, 8:].any()


def test_clips_of_a_batch_do_not_meet(case):
    other = np.array(case.video)
    other[1] = -other[1]
    mean, _ = case.encode(case.params, other)
    np.testing.assert_array_equal(mean[0], case.mean[0])
    assert np.abs(mean[1] - case.mean[1]).max() > 0.01


def test_gradients_are_finite_and_reach_every_weight(case):
    """Also on a flat clip and flat latents, where norms divide by almost nothing."""

    def loss(params, video):
        mean, logvar = case.vae.encode(params, video)
        pixels = case.vae.decode(params, mean)
        return jnp.mean(jnp.square(pixels - video)) + jnp.mean(kl_standard_normal(mean, logvar))

    grad = jax.jit(jax.grad(loss))
    for name, g in flatten(grad(case.params, case.video)).items():
        assert np.all(np.isfinite(g)) and np.any(g != 0), name
    without_bias = jax.tree.map(lambda x: x if x.ndim > 1 else jnp.round(x), case.params)
    flat = grad(without_bias, jnp.zeros_like(case.video))
    assert all(np.all(np.isfinite(g)) for g in flatten(flat).values())


@pytest.mark.slow  # drawing weights takes long to compile
def test_fresh_weights_keep_the_size_of_things():
    """Latents and pixels of a fresh model have a spread near 1: neither dead nor exploding."""
    vae = Vae(preset("tiny"))
    params = vae.init(jax.random.key(0))
    video = np.random.default_rng(0).uniform(-1, 1, (1, 5, 16, 16, 3)).astype("f")
    mean, _ = vae.encode(params, video)
    assert 0.1 < np.std(mean) < 10
    assert 0.1 < np.std(vae.decode(params, np.asarray(mean / np.std(mean)))) < 10


def test_every_weight_names_its_axes(case):
    axes = flatten(case.vae.param_axes())
    weights = flatten(case.params)
    assert axes.keys() == weights.keys()
    assert all(len(axes[k]) == weights[k].ndim for k in axes)


def test_winograd_computes_the_same_model():
    """Same weights, same numbers: 16 products per tile instead of 36, a few more roundings."""
    case = Case(PLAIN)
    fast = Vae(dataclasses.replace(PLAIN, conv="winograd"))
    mean, _ = jax.jit(fast.encode)(case.params, case.video)
    np.testing.assert_allclose(mean, case.mean, atol=3 * TOLERANCE)


def test_bfloat16_stays_near_float32():
    """8 bits of mantissa in the products only: an error of some 2**-7 of the spread."""
    case = Case(PLAIN)
    half = Vae(dataclasses.replace(PLAIN, dtype="bfloat16"))
    mean, _ = jax.jit(half.encode)(case.params, case.video)
    assert mean.dtype == jnp.float32
    error = float(jnp.std(mean - case.mean) / jnp.std(case.mean))
    assert 0 < error < 2**-5


def test_kl_is_the_integral():
    """Against numerical integration of p log(p / q) on a fine grid, float64."""
    x = np.linspace(-30, 30, 600_001)
    for mean, logvar in ((0.0, 0.0), (1.5, -1.0), (-0.3, 1.2)):
        log_p = -0.5 * ((x - mean) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))
        log_q = -0.5 * (x**2 + np.log(2 * np.pi))
        want = np.sum(np.exp(log_p) * (log_p - log_q)) * (x[1] - x[0])
        got = float(kl_standard_normal(jnp.float32(mean), jnp.float32(logvar)))
        assert got == pytest.approx(want, abs=1e-5)


def test_shortcuts_keep_means_and_constants():
    """Averaging down keeps the mean of the numbers, repeating up keeps a constant."""
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 6, 8)).astype(np.float32)
    down = average_down(jnp.asarray(x), 16, (2, 2, 2), first=True)
    assert down.shape == (1, 3, 2, 3, 16)
    np.testing.assert_allclose(jnp.mean(down[:, 1:]), x[:, 1:].mean(), atol=1e-6)
    # the first block holds one frame and one frame of zeros
    np.testing.assert_allclose(jnp.mean(down[:, 0]), x[:, 0].mean() / 2, atol=1e-6)
    up = repeat_up(jnp.full((1, 3, 2, 3, 8), 1.25), 4, (2, 2, 2), first=True)
    assert up.shape == (1, 5, 4, 6, 4)
    np.testing.assert_array_equal(up, np.full(up.shape, 1.25))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 6, 32, 32, 3), r"6 frames; 1 \+ k \* 2; cut to 5"),
        ((1, 5, 20, 32, 3), "20x32 pixels; multiples of 8; crop to 16x32"),
        ((1, 5, 32, 32, 1), r"\[batch, frames, height, width, 3\]"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(shape, message):
    vae = Vae(PLAIN)
    with pytest.raises(BadInput, match=message):
        jax.eval_shape(vae.encode, {"encoder": {}}, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_down": (True, True)}, "VaeConfig.time_down: 2 entries for 2 stages"),
        ({"conv": "winogard"}, "did you mean 'winograd'"),
        ({"conv": "winograd", "dtype": "bfloat16"}, "conv='taps'"),
        ({"patch": (1, 2, 4)}, r"\(frames, n, n\)"),
        ({"residual": True, "dim_mult": (1, 3)}, "must divide"),
        ({"dtype": "float16"}, "float32, bfloat16"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(PLAIN, **change)
