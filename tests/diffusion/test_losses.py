"""Losses: velocity weighting, who counts how much, and sums that do not depend on the split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.diffusion.losses import clip_losses, step_loss, token_errors, velocity_weight
from vidsim.diffusion.process import Flow
from vidsim.diffusion.segments import segment_sums, spread

FLOOR = 0.05
SUM = 1e-5  # relative; float32 sums of a few hundred numbers in another order


def _rows(seed=0, R=4, N=24, S=3, P=5):
    rng = np.random.default_rng(seed)
    segment = np.zeros((R, N), np.int32)
    for row in range(R):
        cuts = np.sort(rng.choice(np.arange(1, N), S, replace=False))
        segment[row, : cuts[-1]] = 1 + np.searchsorted(cuts, np.arange(cuts[-1]), side="right")
    noisy = (rng.random((R, N)) < 0.7) & (segment > 0)
    return {
        "predicted": rng.normal(size=(R, N, P)).astype(np.float32),
        "target": rng.normal(size=(R, N, P)).astype(np.float32),
        "time": rng.uniform(0, 1, (R, N)).astype(np.float32),
        "noisy": noisy,
        "segment": segment,
    }


def _loss(rows, weighting, num_clips, num_tokens, S=3):
    error = token_errors(rows["predicted"], rows["target"])
    error = error * velocity_weight(jnp.asarray(rows["time"]), FLOOR)
    clips = clip_losses(error, rows["noisy"], jnp.asarray(rows["segment"]), S)
    return step_loss(clips, weighting, jnp.float32(num_clips), jnp.float32(num_tokens))


@pytest.mark.parametrize("weighting", ["clip", "token"])
def test_loss_equals_the_slow_loop(weighting):
    rows = _rows()
    slow = ref.step_loss(**rows, floor=FLOOR, weighting=weighting, num_clips=12, num_tokens=80)
    np.testing.assert_allclose(_loss(rows, weighting, 12, 80), slow, rtol=SUM)


@pytest.mark.parametrize("weighting", ["clip", "token"])
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_add_up_to_one_big_batch(weighting, parts):
    rows = _rows(1)
    whole = _loss(rows, weighting, 12, 80)
    size = 4 // parts
    pieces = [
        _loss({k: v[i * size : (i + 1) * size] for k, v in rows.items()}, weighting, 12, 80)
        for i in range(parts)
    ]
    np.testing.assert_allclose(sum(pieces), whole, rtol=SUM)


def test_clip_weighting_counts_a_long_and_a_short_clip_the_same():
    # one clip of 2 tokens with error 1, one of 20 tokens with error 3: mean over clips is 2
    segment = jnp.asarray([[1] * 2 + [2] * 20 + [0] * 2])
    error = jnp.asarray([[1.0] * 2 + [3.0] * 20 + [99.0] * 2])
    clips = clip_losses(error, segment > 0, segment, 3)
    np.testing.assert_allclose(step_loss(clips, "clip", 2.0, 22.0), 2.0, rtol=SUM)
    np.testing.assert_allclose(step_loss(clips, "token", 2.0, 22.0), (2 + 60) / 22, rtol=SUM)


def test_clean_tokens_carry_no_loss_and_no_gradient():
    rows = _rows(2)

    def loss(predicted):
        return _loss({**rows, "predicted": predicted}, "clip", 12, 80)

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(rows["predicted"])))
    assert (gradient[~rows["noisy"]] == 0.0).all()
    assert (np.abs(gradient[rows["noisy"]]).max(-1) > 0.0).all()


def test_weight_turns_an_error_of_x_into_one_of_velocity():
    flow = Flow()
    x, eps, guess = jax.random.normal(jax.random.key(0), (3, 1, 6, 4))
    t = jnp.asarray([[0.06, 0.2, 0.4, 0.6, 0.8, 1.0]])
    v = flow.convert(guess, "x", "v", flow.mix(x, eps, t), t)
    from_v = token_errors(v, eps - x)
    from_x = token_errors(guess, x) * velocity_weight(t, FLOOR)
    np.testing.assert_allclose(from_x, from_v, rtol=1e-3)  # x_t - x cancels digits at small t


def test_weight_is_bounded_by_its_floor():
    t = jnp.asarray([0.0, 0.01, 0.05, 0.5, 1.0])
    np.testing.assert_allclose(velocity_weight(t, 0.05), [400, 400, 400, 4, 1], rtol=1e-6)


def test_an_empty_step_has_no_loss():
    segment = jnp.zeros((1, 5), jnp.int32)
    clips = clip_losses(jnp.ones((1, 5)), segment > 0, segment, 2)
    assert float(step_loss(clips, "clip", 0.0, 0.0)) == 0.0
    assert float(step_loss(clips, "token", 0.0, 0.0)) == 0.0


def test_spread_and_sums_equal_loops():
    rows = _rows(3)
    segment = rows["segment"]
    value = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    spread_RN2 = np.asarray(spread(jnp.asarray(value), jnp.asarray(segment), 7.0))
    sums = np.asarray(segment_sums(jnp.asarray(rows["time"]), jnp.asarray(segment), 3))
    for row in range(4):
        for n in range(24):
            s = segment[row, n]
            want = value[row, s - 1] if s else np.full(2, 7.0)
            np.testing.assert_array_equal(spread_RN2[row, n], want)
        for s in range(1, 4):
            want = rows["time"][row][segment[row] == s].sum()
            np.testing.assert_allclose(sums[row, s - 1], want, rtol=SUM)


def test_unknown_weighting_is_refused():
    clips = clip_losses(jnp.ones((1, 5)), jnp.ones((1, 5), bool), jnp.ones((1, 5), jnp.int32), 2)
    with pytest.raises(BadInput, match="loss weighting: 'clips'; did you mean 'clip'"):
        step_loss(clips, "clips", 1.0, 5.0)
