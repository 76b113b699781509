"""Causal convolution and resampling against plain numpy loops, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.nn.conv import (
    CausalConv,
    ChannelNorm,
    SpaceDown,
    SpaceUp,
    TimeDown,
    TimeUp,
    convolve,
    fold,
    unfold,
)
from vidsim.nn.init import init_params

# float32 sums of some 200 products of size 1; Winograd adds a few roundings in front and behind
TOLERANCE = 1e-5


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _slow_conv(xp, w, stride=(1, 1), pads=((1, 1), (1, 1))):
    """Every sum written out in float64: valid in time, `pads` zeros around each frame."""
    kt, kh, kw, _, cout = w.shape
    x = np.pad(xp.astype(np.float64), ((0, 0), (0, 0), *pads, (0, 0)))
    b, t = x.shape[0], x.shape[1] - kt + 1
    h = (x.shape[2] - kh) // stride[0] + 1
    wide = (x.shape[3] - kw) // stride[1] + 1
    y = np.zeros((b, t, h, wide, cout))
    for f in range(t):
        for i in range(h):
            for j in range(wide):
                top, left = i * stride[0], j * stride[1]
                seen = x[:, f : f + kt, top : top + kh, left : left + kw]
                y[:, f, i, j] = np.einsum("bthwc,thwco->bo", seen, w)
    return y


def _weights(module, *args):
    """Weights with nothing left at zero, so that a forgotten bias would show."""
    params = init_params(module, jax.random.key(0), *args)
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([x + 0.1 * _draw(i, *x.shape) for i, x in enumerate(leaves)])


@pytest.mark.parametrize("method", ["taps", "winograd"])
@pytest.mark.parametrize("shape", [(2, 5, 6, 4, 3), (1, 3, 5, 7, 2), (1, 3, 1, 1, 2)])
@pytest.mark.parametrize("kt", [1, 3])
def test_convolution_is_the_written_out_sum(method, shape, kt):
    xp, w = _draw(1, *shape), _draw(2, kt, 3, 3, shape[-1], 4)
    np.testing.assert_allclose(convolve(xp, w, method), _slow_conv(xp, w), atol=TOLERANCE)


def test_winograd_has_the_gradients_of_taps():
    xp, w = _draw(1, 1, 5, 6, 5, 3), _draw(2, 3, 3, 3, 3, 4)

    def loss(method, x, w):
        return jnp.sum(jnp.sin(convolve(x, w, method)))

    want = jax.grad(lambda x, w: loss("taps", x, w), argnums=(0, 1))(xp, w)
    got = jax.grad(lambda x, w: loss("winograd", x, w), argnums=(0, 1))(xp, w)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=10 * TOLERANCE)  # weights sum over all positions


def test_convolution_pads_with_zeros_before_the_first_frame():
    module, x = CausalConv(3, 4), _draw(1, 2, 4, 5, 6, 3)
    params = _weights(module, x)
    want = _slow_conv(np.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0))), params["w"])
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got, want + params["b"].reshape(1, 1, 1, 1, -1), atol=TOLERANCE)


def test_time_down_mixes_three_frames_and_passes_the_first():
    module, x = TimeDown(3), _draw(1, 2, 7, 2, 2, 3)
    params = _weights(module, x)
    w, b = params["w"][:, 0, 0], params["b"]
    want = [x[:, 0]]
    for j in range(1, 4):
        frames = (x[:, 2 * j - 2], x[:, 2 * j - 1], x[:, 2 * j])
        want.append(sum(frame @ w[k] for k, frame in enumerate(frames)) + b.reshape(1, 1, 1, -1))
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got, np.stack(want, 1), atol=TOLERANCE)


def test_time_up_makes_pairs_and_passes_the_first():
    module, x = TimeUp(3), _draw(1, 2, 4, 2, 2, 3)
    params = _weights(module, x)
    w, b = params["w"][:, 0, 0], params["b"].reshape(1, 1, 1, -1)
    padded = np.concatenate([np.zeros_like(x[:, :2]), x[:, 1:]], 1)  # frame 0 is not seen
    want = [x[:, 0]]
    for j in range(3):
        both = sum(padded[:, j + k] @ w[k] for k in range(3)) + b
        want += [both[..., :3], both[..., 3:]]
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got, np.stack(want, 1), atol=TOLERANCE)


def test_space_down_looks_right_and_down():
    module, x = SpaceDown(3), _draw(1, 1, 2, 4, 6, 3)
    params = _weights(module, x)
    want = _slow_conv(x, params["w"], (2, 2), ((0, 1), (0, 1)))
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got, want + params["b"].reshape(1, 1, 1, 1, -1), atol=TOLERANCE)


def test_space_up_repeats_pixels_and_convolves():
    module, x = SpaceUp(3, 2), _draw(1, 1, 2, 3, 4, 3)
    params = _weights(module, x)["conv"]
    want = _slow_conv(x.repeat(2, axis=2).repeat(2, axis=3), params["w"])
    got = module.apply({"params": {"conv": params}}, x)
    np.testing.assert_allclose(got, want + params["b"].reshape(1, 1, 1, 1, -1), atol=TOLERANCE)


def test_channel_norm_is_its_formula_and_keeps_the_dtype():
    module, x = ChannelNorm(5, eps=1e-3), _draw(1, 1, 2, 3, 4, 5)
    params = _weights(module, x)
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * np.asarray(params["g"])
    np.testing.assert_allclose(module.apply({"params": params}, x), want, atol=TOLERANCE)
    assert module.apply({"params": params}, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 2, 2), (4, 1, 2)])
def test_fold_puts_blocks_into_channels_and_unfold_undoes_it(patch):
    x = _draw(1, 2, 8, 6, 6, 3)
    folded = fold(x, patch)
    pt, ph, pw = patch
    block = x[1, pt : 2 * pt, ph : 2 * ph, 2 * pw : 3 * pw]
    np.testing.assert_array_equal(folded[1, 1, 1, 2], block.reshape(-1))
    np.testing.assert_array_equal(unfold(folded, patch), x)


@pytest.mark.parametrize("method", ["taps", "winograd"])
def test_nothing_off_the_mask_reaches_the_clip(method):
    """Not even what is not a number: the clip ends where its mask ends."""
    module, x = CausalConv(3, 4, method=method), _draw(1, 1, 3, 6, 8, 3)
    mask = np.zeros((1, 1, 6, 8, 1), bool)
    mask[:, :, :4, :6] = True
    params = _weights(module, x)
    alone = module.apply({"params": params}, x[:, :, :4, :6])
    poisoned = np.where(mask, x, np.nan)
    got = module.apply({"params": params}, poisoned, mask)[:, :, :4, :6]
    np.testing.assert_allclose(got, alone, atol=TOLERANCE)


@pytest.mark.parametrize("cuts", [(1, 3, 5, 7, 9), (5, 9), (3, 9)])
@pytest.mark.parametrize(
    "layer", [CausalConv(4, 4), TimeDown(4), TimeUp(4)], ids=["conv", "down", "up"]
)
def test_chunks_equal_the_whole_to_the_bit(layer, cuts):
    x = _draw(1, 2, 9, 8, 8, 4)
    params = {"params": _weights(layer, x)}
    run = jax.jit(
        lambda variables, x, first: layer.apply(variables, x, first=first, mutable=["stream"]),
        static_argnums=2,
    )
    whole = jax.jit(lambda p, x: layer.apply(p, x))(params, x)
    state, parts, start = {}, [], 0
    for cut in cuts:
        part, state = run(params | state, x[:, start:cut], start == 0)
        parts.append(part)
        start = cut
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


def test_continuing_without_a_state_is_refused():
    module, x = CausalConv(2, 2), _draw(1, 1, 2, 2, 2, 2)
    with pytest.raises(BadInput, match="no state was given"):
        module.apply({"params": _weights(module, x)}, x, first=False)
