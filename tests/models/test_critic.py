"""Discriminator and perceptual distance: closed forms and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.models.critic import (
    Critic,
    CriticConfig,
    PerceptualSpec,
    hinge_critic,
    hinge_generator,
    perceptual_distance,
)

SPEC = PerceptualSpec(
    (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), ("conv a", "relu", "tap", "pool", "conv b", "tap 0.5")
)


def _video(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _weights():
    draw = np.random.default_rng(0).normal
    shapes = {"a.weight": (4, 3, 3, 3), "a.bias": (4,), "b.weight": (5, 4, 3, 3), "b.bias": (5,)}
    return {name: draw(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def critic():
    critic = Critic(CriticConfig(width=4, halves=1))
    return critic, critic.init(jax.random.key(0))


def test_a_critic_judges_patches_and_does_not_see_later_frames(critic):
    model, params = critic
    video = _video(1, 1, 3, 16, 24, 3)
    judged = model.apply(params, video)
    assert judged.shape == (1, 3, 2, 3)
    image = model.apply(params, video[:, :1])
    np.testing.assert_allclose(image, judged[:, :1], atol=1e-6)


def test_a_critic_judges_a_clip_on_a_canvas_as_alone(critic):
    model, params = critic
    video = _video(1, 1, 2, 24, 24, 3)
    valid = np.zeros((1, 3, 3), bool)
    valid[:, :2, :1] = True
    alone = model.apply(params, video[:, :, :16, :8])
    video[:, :, 16:], video[:, :, :, 8:] = np.nan, np.nan
    judged = model.apply(params, video, valid)
    np.testing.assert_allclose(judged[:, :, :2, :1], alone, atol=1e-6)


def test_hinge_losses_are_their_formulas():
    real, fake = np.array([[2.0, 0.5, -1.0]], "f"), np.array([[-2.0, 0.5, 1.0]], "f")
    assert hinge_critic(real, fake) == pytest.approx((0 + 2.0 + 4.0) / 3)
    weight = np.array([[1.0, 1.0, 0.0]], "f")
    assert hinge_critic(real, fake, weight) == pytest.approx((0 + 2.0) / 2)
    assert hinge_generator(fake) == pytest.approx(0.5 / 3)
    assert hinge_generator(fake, weight) == pytest.approx(0.75)


def test_a_critic_learns_to_tell_two_kinds_apart(critic):
    model, params = critic
    real, fake = _video(1, 2, 1, 16, 16, 3), 0.3 * _video(2, 2, 1, 16, 16, 3)
    step = jax.jit(
        jax.value_and_grad(lambda p: hinge_critic(model.apply(p, real), model.apply(p, fake)))
    )
    before, _ = step(params)
    for _ in range(30):
        _, grad = step(params)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grad)
    assert step(params)[0] < 0.5 * before


def test_perceptual_distance_against_torch():
    torch = pytest.importorskip("torch")
    a, b, weights = _video(1, 2, 2, 8, 8, 3), _video(2, 2, 2, 8, 8, 3), _weights()

    def features(x):
        x = torch.from_numpy(x.reshape(-1, 8, 8, 3).transpose(0, 3, 1, 2).copy())
        x = (x * 0.5 + 0.5 - 0.5) / 0.2
        t = {name: torch.from_numpy(w) for name, w in weights.items()}
        first = torch.relu(torch.nn.functional.conv2d(x, t["a.weight"], t["a.bias"], padding=1))
        second = torch.nn.functional.max_pool2d(first, 2)
        second = torch.nn.functional.conv2d(second, t["b.weight"], t["b.bias"], padding=1)
        return [f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in (first, second)]

    pairs = zip(features(a), features(b), strict=True)
    parts = [(p - q).square().sum(1).reshape(2, 2, -1) for p, q in pairs]
    want = parts[0].mean((1, 2)) + 0.5 * parts[1].mean((1, 2))
    np.testing.assert_allclose(perceptual_distance(SPEC, weights, a, b), want, rtol=1e-4)


def test_perceptual_distance_is_zero_only_for_equal_clips():
    a, weights = _video(1, 2, 1, 8, 8, 3), _weights()
    b = np.array(a)
    b[1] += 0.1
    distance = perceptual_distance(SPEC, weights, a, b)
    assert distance[0] == 0 and distance[1] > 0
    valid = np.ones((2, 8, 8), bool)
    valid[1] = False
    assert perceptual_distance(SPEC, weights, a, b, valid)[1] == 0


def test_bad_perceptual_descriptions_are_refused():
    with pytest.raises(BadInput, match="layer 'con a'"):
        PerceptualSpec((0, 0, 0), (1, 1, 1), ("con a", "tap"))
    with pytest.raises(BadInput, match="no tap"):
        PerceptualSpec((0, 0, 0), (1, 1, 1), ("conv a",))
    with pytest.raises(BadInput, match="'a.bias' missing"):
        weights = {k: v for k, v in _weights().items() if k != "a.bias"}
        video = jnp.zeros((1, 1, 8, 8, 3))
        perceptual_distance(SPEC, weights, video, video)
