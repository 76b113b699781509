"""Guidance: scale 1 is the conditional model; spread, interval and rescale against a slow loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.diffusion.guidance import GuidanceConfig, clip_spread, guide
from vidsim.diffusion.process import Flow

SEGMENT = jnp.asarray([[1] * 5 + [2] * 9 + [0] * 2, [1] * 12 + [2] * 4])
TIMES = jnp.asarray([[0.9, 0.3], [0.5, 0.1]])


def _pair():
    return jax.random.normal(jax.random.key(0), (2, 2, 16, 3))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_scale_one_is_exactly_the_conditional_model(rescale):
    cond, uncond = _pair()
    made = guide(GuidanceConfig(scale=1.0, rescale=rescale), cond, 1e3 * uncond, TIMES, SEGMENT)
    np.testing.assert_array_equal(made, cond)
    assert not GuidanceConfig(scale=1.0).needed


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_guidance_equals_the_slow_loop_clip_by_clip(rescale):
    cond, uncond = _pair()
    made = np.asarray(
        guide(GuidanceConfig(scale=4.0, rescale=rescale), cond, uncond, TIMES, SEGMENT)
    )
    for row in range(2):
        for s in (1, 2):
            mine = np.asarray(SEGMENT[row] == s)
            want = ref.clip_guidance(
                np.asarray(cond[row])[mine], np.asarray(uncond[row])[mine], 4.0, rescale
            )
            np.testing.assert_allclose(made[row][mine], want, rtol=1e-4, atol=1e-5)


def test_guidance_acts_only_inside_its_interval():
    cond, uncond = _pair()
    cfg = GuidanceConfig(scale=3.0, low=0.2, high=0.6, rescale=0.5)
    made = np.asarray(guide(cfg, cond, uncond, TIMES, SEGMENT))
    for row, s, inside in [(0, 1, False), (0, 2, True), (1, 1, True), (1, 2, False)]:
        mine = np.asarray(SEGMENT[row] == s)
        same = np.array_equal(made[row][mine], np.asarray(cond)[row][mine])
        assert same != inside


def test_guiding_x_is_guiding_the_velocity():
    flow, (cond, uncond) = Flow(), _pair()
    x_t = jax.random.normal(jax.random.key(1), cond.shape)
    t = jnp.full(SEGMENT.shape, 0.4)
    times = jnp.full((2, 2), 0.4)
    x = guide(GuidanceConfig(scale=5.0), cond, uncond, times, jnp.maximum(SEGMENT, 1))
    v_cond, v_uncond = (flow.convert(p, "x", "v", x_t, t) for p in (cond, uncond))
    v = v_uncond + 5.0 * (v_cond - v_uncond)
    np.testing.assert_allclose(flow.convert(x, "x", "v", x_t, t), v, rtol=1e-4, atol=1e-4)


def test_a_clip_is_guided_the_same_beside_any_neighbour():
    cond, uncond = _pair()
    cfg = GuidanceConfig(scale=4.0, rescale=0.8)
    calm = guide(cfg, cond, uncond, TIMES, SEGMENT)
    other = SEGMENT[..., None] != 1
    loud = guide(cfg, jnp.where(other, 1e4 * cond, cond), uncond, TIMES, SEGMENT)
    mine = np.asarray(SEGMENT == 1)
    np.testing.assert_allclose(np.asarray(loud)[mine], np.asarray(calm)[mine], rtol=1e-6)


def test_spread_is_the_standard_deviation_of_each_clip():
    x, _ = _pair()
    made = np.asarray(clip_spread(x, SEGMENT, 3))
    for row in range(2):
        for s in (1, 2):
            want = np.std(np.asarray(x)[row][np.asarray(SEGMENT[row] == s)])
            np.testing.assert_allclose(made[row, s - 1], want, rtol=1e-5)
    assert (made[:, 2] == 0.0).all()


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="GuidanceConfig.scale: -1"):
        GuidanceConfig(scale=-1.0)
    with pytest.raises(BadInput, match="GuidanceConfig: low 0.8, high 0.2"):
        GuidanceConfig(low=0.8, high=0.2)
    with pytest.raises(BadInput, match="GuidanceConfig.rescale"):
        GuidanceConfig(rescale=2.0)
