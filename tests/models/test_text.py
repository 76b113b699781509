"""The byte encoder: nothing leaks between captions, and words are learnt from bytes at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten
from vidsim.models.text import ByteEncoder, ByteEncoderConfig, WordMixing
from vidsim.nn.init import init_params

CFG = ByteEncoderConfig(width=16, heads=2, mlp_width=24, layers=2, reach=3)
R, M = 2, 48
CAPTIONS = ["a red ball rolls left", "the cat", "", "two blue stars"]
TOLERANCE = 1e-5  # float32, other order of sums


def tokens(caption):
    """BOS = 1, then bytes + 2."""
    return [1] + [b + 2 for b in caption.encode()]


def pack(rows):
    ids, segment, position = np.zeros((3, R, M), np.int32)
    places = {}
    for r, row in enumerate(rows):
        at = 0
        for s, caption in enumerate(row):
            here = slice(at, at + len(tokens(caption)))
            ids[r, here], segment[r, here] = tokens(caption), s + 1
            position[r, here] = np.arange(here.stop - at)
            places[caption] = (r, here)
            at = here.stop
    return (ids, segment, position), places


@functools.cache
def encoder():
    model = ByteEncoder(CFG)
    return model, model.init(jax.random.key(0)), jax.jit(model.apply)


def test_a_packed_caption_is_encoded_as_alone():
    _, params, run = encoder()
    batch, places = pack([CAPTIONS[:3], CAPTIONS[3:]])
    text = run(params, *batch)
    for caption in CAPTIONS:
        alone, where = pack([[caption]])
        single = run(params, *alone)[where[caption][0], where[caption][1]]
        np.testing.assert_allclose(text[places[caption]], single, atol=TOLERANCE)
    assert np.all(np.asarray(text)[batch[1] == 0] == 0.0)


def test_no_byte_reaches_another_caption():
    """Bitwise, through convolution and attention; inside the caption every byte matters."""
    _, params, run = encoder()
    (ids, segment, position), places = pack([CAPTIONS[:3], CAPTIONS[3:]])
    before = np.asarray(run(params, ids, segment, position))
    row, here = places["the cat"]
    other = ids.copy()
    other[row, here] = 2 + np.arange(here.stop - here.start)
    after = np.asarray(run(params, other, segment, position))
    changed = np.abs(after - before).max(-1) > 0
    assert changed[row, here].all()
    changed[row, here] = False
    assert not changed.any()


def test_the_convolution_is_the_plain_sum_over_neighbours_of_the_segment():
    width, reach = 3, 2
    module = WordMixing(width, reach)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 12, width)).astype(np.float32)
    segment = np.repeat([1, 2, 3, 0], [4, 1, 5, 2])[None].astype(np.int32)
    params = init_params(module, jax.random.key(1), jnp.asarray(x), jnp.asarray(segment))
    kernel = np.asarray(params["kernel"])
    exact = np.zeros(x.shape)
    for m in range(12):
        for tap in range(2 * reach + 1):
            near = m + tap - reach
            if 0 <= near < 12 and segment[0, near] == segment[0, m]:
                exact[0, m] += kernel[tap] * x[0, near]
    got = module.apply({"params": params}, jnp.asarray(x), jnp.asarray(segment))
    np.testing.assert_allclose(got, exact, atol=1e-6)


def test_order_of_words_matters():
    _, params, run = encoder()
    batch, places = pack([["red on blue", "blue on red"]])
    text = np.asarray(run(params, *batch))
    means = [text[places[c]].mean(0) for c in ("red on blue", "blue on red")]
    assert np.abs(means[0] - means[1]).max() > 1e-2


def test_gradients_are_finite_and_reach_every_weight():
    model, params, _ = encoder()
    batch, _ = pack([CAPTIONS[:3], CAPTIONS[3:]])
    weight = np.random.default_rng(2).normal(size=(R, M, CFG.width)).astype(np.float32)
    loss = lambda p: jnp.sum(model.apply(p, *map(jnp.asarray, batch)) * weight)  # noqa: E731
    for path, g in flatten(jax.jit(jax.grad(loss))(params)).items():
        assert np.all(np.isfinite(g)) and np.any(np.asarray(g) != 0.0), path


@pytest.mark.slow
def test_colour_words_are_learnt_within_a_hundred_steps():
    """A linear reading of the mean token names the colour of unseen captions, at any place."""
    colours = ["red", "green", "blue", "yellow", "purple", "orange", "white", "black"]
    frames = ["a {c} {s} moves {d}", "{s} in {c}, {d}", "there is a small {c} {s} going {d}"]
    rng = np.random.default_rng(0)

    def batch(words):
        ids, segment, position = np.zeros((3, 16, 48), np.int32)
        labels = rng.integers(0, len(colours), 16)
        for r, label in enumerate(labels):
            shape, way = rng.choice(words), rng.choice(["left", "right", "up", "down"])
            line = tokens(rng.choice(frames).format(c=colours[label], s=shape, d=way))[:48]
            ids[r, : len(line)], segment[r, : len(line)] = line, 1
            position[r, : len(line)] = np.arange(len(line))
        return (ids, segment, position), labels

    model = ByteEncoder(dataclasses.replace(CFG, width=64, heads=2, mlp_width=128))
    params = {"text": model.init(jax.random.key(0)), "read": jnp.zeros((64, len(colours)))}
    optimizer = optax.adam(3e-3)

    def scores(params, arrays):
        text = model.apply(params["text"], *arrays)
        mean = text.sum(1) / (arrays[1] > 0).sum(1, keepdims=True)
        return mean @ params["read"]

    @jax.jit
    def step(params, state, arrays, labels):
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(  # noqa: E731
            scores(p, arrays), labels
        ).mean()
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(100):
        arrays, labels = batch(["ball", "square", "star", "ring"])
        params, state = step(params, state, arrays, labels)
    right = [np.argmax(scores(params, a), -1) == y for a, y in (batch(["cross", "moon"]),) * 4]
    assert np.mean(right) > 0.9


def test_axes_sizes_and_refusals():
    model, params, run = encoder()
    assert flatten(model.param_axes()).keys() == flatten(params).keys()
    for path, axes in flatten(model.param_axes()).items():
        assert len(axes) == flatten(params)[path].ndim, path
    with pytest.raises(BadInput, match="byte encoder: text_segment has M=47"):
        run(params, np.zeros((1, 48), int), np.zeros((1, 47), int), np.zeros((1, 48), int))
    with pytest.raises(BadInput, match="ByteEncoderConfig.width: 18; a multiple of 2"):
        dataclasses.replace(CFG, width=18)
