"""The denoising task around a transparent stand-in for the network: what goes in, what is counted.

The stand-in answers a known function of its inputs, so every number can be redone in plain loops.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from tests.tasks.packed_clips import pack_all, some_clips
from tests.tasks.tiny_models import P, make_task
from vidsim.core.errors import BadInput
from vidsim.core.keys import stream, token_normal
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.masks import MaskConfig
from vidsim.diffusion.segments import spread
from vidsim.diffusion.solvers import integrate, make_solver
from vidsim.diffusion.times import TimeConfig, time_grid
from vidsim.models.latents import LatentConfig
from vidsim.tasks.denoising import Denoising
from vidsim.tasks.noising import batch_noise, residual_scales

SUM = 2e-5  # relative; float32 sums in another order
CLIPS = some_clips()
LAYOUT = [[0, 1, 2], [3, 4], [5, 6], []]
ALWAYS = MaskConfig(none=0.0)
LATENT = LatentConfig((1, 1, 1), (0.4,) * P, (1.7,) * P)


class FakeDit:
    """Predicts 0.5 x_t plus a number of each clip's text; remembers what it was given."""

    def __init__(self):
        self.seen = []

    def apply(self, params, x_RNP, text_RME, **given):
        self.seen.append({"x": x_RNP, "text": text_RME, **given})
        # mean of the clip's own text, by segment
        owner = given["text_segment_RM"][:, :, None] == jnp.arange(1, 5)[None, None, :]
        total = jnp.einsum("rm,rms->rs", text_RME.mean(-1), owner.astype(jnp.float32))
        mean = total / jnp.maximum(owner.sum(1), 1)
        return 0.5 * x_RNP + spread(mean, given["patch_segment_RN"])[..., None]


class FakeEncoder:
    """A token's encoding is its id and its position."""

    def apply(self, params, ids_RM, segment_RM, position_RM):
        return jnp.stack([ids_RM / 100.0, position_RM / 10.0], -1)


@functools.cache
def _cached(changes):
    return fake_task(**dict(changes))


def base_task(**changes):
    """A task with everything switched on, kept with its compiled loss."""
    settings = {"masks": ALWAYS, "latent": LATENT, "text_drop_prob": 0.3, **changes}
    return _cached(tuple(sorted(settings.items())))


def fake_task(**changes):
    """A fresh task around a stand-in that has seen nothing yet."""
    task = make_task(**changes)
    task.__dict__["dit"], task.__dict__["encoder"] = FakeDit(), FakeEncoder()
    return task


PARAMS = {"dit": {}, "text": {}}


def _run(task, batch, seed=0, step=3):
    """Loss, metrics and what the network was given, jitted once for a task and a batch shape."""
    if "run" not in task.__dict__:

        def run(batch, seed, step):
            loss, metrics = task.loss(PARAMS, batch, seed=seed, step=step)
            return loss, metrics, task.dit.seen[-1]

        task.__dict__["run"] = jax.jit(run)
    loss, metrics, seen = jax.device_get(task.__dict__["run"](batch, seed, step))
    return float(loss), {k: float(v) for k, v in metrics.items()}, seen


@jax.jit
def _clip_noise(key, clip_key):
    """Noise of a clip's first 16 tokens."""
    index = jnp.arange(16)[None]
    return token_normal(key, jnp.full_like(index, clip_key, jnp.uint32), index, P)[0]


@pytest.mark.parametrize("weighting", ["clip", "token"])
def test_loss_equals_the_slow_loop(weighting):
    task = base_task(weighting=weighting)
    batch = pack_all(CLIPS, LAYOUT, P)
    loss, _, seen = _run(task, batch)
    segment = np.asarray(batch["patch_segment"])
    level = np.asarray(seen["level_index_RN"])
    times = np.take_along_axis(np.asarray(seen["levels_RK"]), segment, 1)
    target = (np.asarray(batch["patches"]) - 0.4) / 1.7
    predicted = np.asarray(FakeDit().apply({}, seen["x"], seen["text"],
                                           text_segment_RM=seen["text_segment_RM"],
                                           patch_segment_RN=seen["patch_segment_RN"]))  # fmt: skip
    slow = ref.step_loss(
        predicted, target, times, 0.05, (level > 0) & (segment > 0), segment, weighting,
        len(CLIPS), sum(c.tokens for c in CLIPS),
    )  # fmt: skip
    np.testing.assert_allclose(loss, slow, rtol=SUM)
    assert (level[segment > 0] == 0).any(), "some tokens are given"


def test_noisy_tokens_are_mixed_at_their_clip_time_and_given_ones_are_clean():
    task = base_task(weighting="clip")
    batch = pack_all(CLIPS, LAYOUT, P)
    _, _, seen = _run(task, batch, seed=5, step=9)
    key = stream(5, "denoise/noise", 9)
    given = 0
    for r, row in enumerate(LAYOUT):
        n = 0
        for s, place in enumerate(row, 1):
            clip = CLIPS[place]
            t = float(seen["levels_RK"][r, s])
            patches = (clip.patches(P) - 0.4) / 1.7
            eps = np.asarray(_clip_noise(key, np.uint32(clip.key)))
            for i in range(clip.tokens):
                clean = int(seen["level_index_RN"][r, n]) == 0
                want = patches[i] if clean else (1 - t) * patches[i] + t * eps[i]
                np.testing.assert_allclose(seen["x"][r, n], want, atol=1e-5)
                assert clean or int(seen["level_index_RN"][r, n]) == s
                given += clean
                n += 1
    assert given > 0
    assert (np.asarray(seen["levels_RK"])[:, 0] == 0.0).all(), "level 0 is clean"
    padding = np.asarray(batch["patch_segment"]) == 0
    assert (np.asarray(seen["level_index_RN"])[padding] == 0).all()
    assert (np.asarray(seen["x"])[padding] == 0.0).all()


def test_noise_on_given_frames_is_bounded_and_not_told():
    quiet = base_task(weighting="clip")
    loud = base_task(weighting="clip", masks=MaskConfig(none=0.0, noise=0.2))
    batch = pack_all(CLIPS, LAYOUT, P)
    clean, noisy = _run(quiet, batch)[2], _run(loud, batch)[2]
    np.testing.assert_array_equal(clean["level_index_RN"], noisy["level_index_RN"])
    np.testing.assert_array_equal(clean["levels_RK"], noisy["levels_RK"])
    real = np.asarray(batch["patch_segment"]) > 0
    given = (np.asarray(clean["level_index_RN"]) == 0) & real
    gap = np.abs(np.asarray(noisy["x"]) - np.asarray(clean["x"]))
    assert (gap[real & ~given] == 0.0).all()
    # (1 - c) x + c eps is c |eps - x| away, with c <= 0.2 and |eps - x| < 10 here
    assert 0.0 < gap[given].max() < 2.0
    # errors on given tokens count nothing: the losses are equal
    assert _run(quiet, batch)[0] == pytest.approx(_run(loud, batch)[0], rel=1e-6)


class Echo:
    """Predicts a x_t + b (what was said before), and counts."""

    def apply(self, params, x_RNP, text_RME, *, estimate_RNP=None, **given):
        said = 0.0 if estimate_RNP is None else estimate_RNP
        return params["a"] * x_RNP + params["b"] * said


def test_in_half_of_the_steps_the_network_reads_its_first_say_and_learns_nothing_from_it():
    """With a first say of a x_t, b's slope is a times a's; through it a's would be larger."""
    cfg = make_task(masks=ALWAYS, latent=LATENT).cfg
    task = Denoising(replace(cfg, dit=replace(cfg.dit, self_condition=True)))
    task.__dict__["dit"], task.__dict__["encoder"] = Echo(), FakeEncoder()
    batch = pack_all(CLIPS, LAYOUT, P)
    a, b = 0.6, 0.3

    @jax.jit
    def slopes(step):
        def loss(dit):
            return task.loss({"dit": dit, "text": {}}, batch, seed=0, step=step)[0]

        return jax.grad(loss)({"a": jnp.float32(a), "b": jnp.float32(b)})

    found = [jax.device_get(slopes(step)) for step in range(24)]
    said = np.array([slope["b"] != 0.0 for slope in found])
    assert 6 <= said.sum() <= 18 and found[3] == jax.device_get(slopes(3))
    for slope in np.array(found)[said]:
        assert slope["b"] == pytest.approx(a * slope["a"], rel=1e-3)


def test_micro_batches_add_up_to_one_big_batch():
    task = base_task(weighting="clip")
    batch = pack_all(CLIPS, LAYOUT, P)
    loss, metrics, _ = _run(task, batch)
    sums = {}
    for i in range(4):
        part = {k: v[i : i + 1] if v.ndim else v for k, v in batch.items()}
        for name, value in _run(task, part)[1].items():
            sums[name] = sums.get(name, 0.0) + value
    assert loss == pytest.approx(metrics["loss"])
    for name in metrics:
        np.testing.assert_allclose(sums[name], metrics[name], rtol=SUM, err_msg=name)


def test_same_key_gives_the_same_noise_in_any_packing():
    key = stream(0, "x", 1)
    first = pack_all(CLIPS, LAYOUT, P)
    other = pack_all(CLIPS, [[6, 3], [5, 0, 4], [2, 1]], P, N=40, S=5)
    a, b = np.asarray(batch_noise(key, first)), np.asarray(batch_noise(key, other))

    def of(noise, batch, clip):
        row, slot = np.argwhere(np.asarray(batch["clip_key"]) == clip.key)[0]
        return noise[row][np.asarray(batch["patch_segment"][row]) == slot + 1]

    for clip in CLIPS:
        np.testing.assert_array_equal(of(a, first, clip), of(b, other, clip))
    everything = np.concatenate([of(a, first, c) for c in CLIPS]).ravel()
    assert len(np.unique(everything)) == everything.size, "no two tokens share noise"


def test_another_step_or_seed_draws_everything_anew():
    task = base_task(weighting="clip")
    batch = pack_all(CLIPS, LAYOUT, P)
    here, step, seed = (_run(task, batch, seed=s, step=n)[2] for s, n in ((0, 3), (0, 4), (1, 3)))
    again = _run(task, batch, seed=0, step=3)[2]
    np.testing.assert_array_equal(here["x"], again["x"])
    for other in (step, seed):
        real = np.asarray(batch["clip_key"]) > 0
        assert (np.asarray(here["levels_RK"])[:, 1:] != np.asarray(other["levels_RK"])[:, 1:])[
            real
        ].all()


def test_captions_are_dropped_at_the_configured_rate_and_replaced_by_the_empty_one():
    task = base_task(weighting="clip")
    batch = pack_all(CLIPS, LAYOUT, P)
    share = [_run(task, batch, step=s)[1]["drop_share"] for s in range(60)]
    deviation = (0.3 * 0.7 / (60 * 7)) ** 0.5
    assert abs(np.mean(share) - 0.3) < 4 * deviation
    everything = base_task(weighting="clip", text_drop_prob=1.0)
    _, metrics, seen = _run(everything, batch)
    assert metrics["drop_share"] == pytest.approx(1.0)
    count = np.asarray((seen["text_segment_RM"] > 0).sum(1))
    np.testing.assert_array_equal(count, [3, 2, 2, 0])  # one token a clip


def _validation_by_hand(t, floor=0.05):
    """(row, slot, clip, weighted squared error of each number of its patches) at one time."""
    key = stream(7, "denoise/validation")
    for r, row in enumerate(LAYOUT):
        for s, place in enumerate(row):
            clip = CLIPS[place]
            eps = np.asarray(_clip_noise(key, np.uint32(clip.key)))[: clip.tokens]
            x = clip.patches(P)
            ids = np.array([1, *(b + 2 for b in clip.caption.encode())])
            text = np.mean([ids / 100.0, np.arange(len(ids)) / 10.0])
            predicted = 0.5 * ((1 - t) * x + t * eps) + text
            yield r, s, clip, (predicted - x) ** 2 / max(t, floor) ** 2


def test_validation_is_the_loss_at_fixed_times_with_fixed_noise():
    task = fake_task(masks=ALWAYS, text_drop_prob=1.0)  # neither may have an effect
    batch = pack_all(CLIPS, LAYOUT, P)
    times = [0.02, 0.3, 0.9]
    validate = jax.jit(lambda b, t: task.validation(PARAMS, b, times=t, seed=7))
    made = np.asarray(validate(batch, jnp.asarray(times)))
    np.testing.assert_array_equal(made, validate(batch, jnp.asarray(times)))
    for band, t in enumerate(times):
        for r, s, _, error in _validation_by_hand(t):
            np.testing.assert_allclose(made[r, s, band], error.mean(), rtol=1e-4)
    for r, row in enumerate(LAYOUT):
        assert (made[r, len(row) :] == 0.0).all()


def test_validation_with_given_frames_counts_the_others_alone():
    batch, times = pack_all(CLIPS, LAYOUT, P), jnp.array([0.3])
    made = np.asarray(fake_task().validation(PARAMS, batch, times=times, seed=7, given=1))
    for r, s, clip, error in _validation_by_hand(0.3):
        if clip.grid[0] == 1:
            assert made[r, s, 0] == 0.0, "nothing is left"
            continue
        noisy = error[int(np.prod(clip.grid[1:])) :]
        np.testing.assert_allclose(made[r, s, 0], noisy.mean(), rtol=1e-4)


def test_guidance_scale_one_is_the_conditional_model_and_others_combine_two_calls():
    task = fake_task()
    batch = pack_all(CLIPS, LAYOUT, P)
    x = jax.random.normal(jax.random.key(0), batch["patches"].shape)
    t = jnp.full((4, 4), 0.6)
    plain = task.denoise_fn(PARAMS, batch)(x, t)
    assert len(task.dit.seen) == 1 and task.dit.seen[0]["x"].shape[0] == 4, "no second call"
    empty = fake_task()
    none_RN = jnp.zeros(batch["patch_segment"].shape, bool)
    unconditional = empty.predict(
        PARAMS, batch, empty.encode_text(PARAMS, batch, jnp.ones((4, 4), bool)), x, t, none_RN
    )
    guided = task.denoise_fn(PARAMS, batch, GuidanceConfig(scale=3.0))(x, t)
    want = unconditional + 3.0 * (plain - unconditional)
    real = np.asarray(batch["patch_segment"]) > 0
    np.testing.assert_allclose(np.asarray(guided)[real], np.asarray(want)[real], atol=1e-5)
    assert np.abs(np.asarray(guided - plain)[real]).max() > 0.01


class GaussianDit:
    """The best denoiser of independent numbers N(0.8, 0.5^2) at the levels it is told."""

    def apply(self, params, x_RNP, text_RME, *, levels_RK, level_index_RN, **given):
        t_RN = jnp.take_along_axis(levels_RK, level_index_RN, 1)[..., None]
        return ref.gaussian_x(x_RNP, jnp.maximum(t_RN, 1e-6), 0.8, 0.5)


def test_residual_is_what_a_unit_gaussian_leaves_open():
    """For x ~ N(0, 1): skip x_t is E[x | x_t], and (x - skip x_t) / scale has unit variance and no
    correlation with x_t, at every time."""
    times = np.array([0.0, 0.1, 0.35, 0.5, 0.8, 1.0])
    skip, scale = (np.asarray(a, float) for a in residual_scales(jnp.asarray(times, jnp.float32)))
    for x_t in (-2.0, 0.3, 1.7):
        np.testing.assert_allclose(
            skip * x_t, ref.gaussian_x(x_t, np.maximum(times, 1e-9), 0.0, 1.0), atol=1e-6
        )
    # x_t = (1 - t) x + t eps with independent unit x and eps: variances and covariance by hand
    power = (1 - times) ** 2 + times**2
    left = 1 - 2 * skip * (1 - times) + skip**2 * power
    np.testing.assert_allclose(left, scale**2, atol=1e-6)
    np.testing.assert_allclose((1 - times) - skip * power, 0.0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["x", "v", "eps", "residual"])
def test_sampling_a_packed_batch_follows_the_exact_flow_of_each_clip(prediction):
    task = make_task(
        prediction=prediction, times=TimeConfig(base_tokens=4, base_shift=1.5, max_shift=9.0)
    )
    task.__dict__["encoder"] = FakeEncoder()
    exact = GaussianDit()

    class Converted:
        def apply(self, params, x, text, *, levels_RK, level_index_RN, **given):
            x_hat = exact.apply(params, x, text, levels_RK=levels_RK, level_index_RN=level_index_RN)
            t = jnp.take_along_axis(levels_RK, level_index_RN, 1)
            if prediction == "residual":
                skip, scale = residual_scales(t[..., None])
                return (x_hat - skip * x) / jnp.maximum(scale, 1e-6)
            return task.flow.convert(x_hat, "x", prediction, x, t)

    task.__dict__["dit"] = Converted()
    batch = pack_all(CLIPS, LAYOUT, P)
    noise = batch_noise(stream(0, "sample"), batch)
    segment = batch["patch_segment"]
    condition = (segment == 2) & (batch["patch_position"][..., 0] == 0)
    given = 3.0 * jnp.ones_like(noise)
    grid = time_grid(task.cfg.times, 48, jnp.prod(batch["grid"], -1))
    denoise = task.denoise_fn(PARAMS, batch, condition_RN=condition, given_RNP=given)
    lift = lambda t: spread(t, segment)[..., None]  # noqa: E731
    x = jax.jit(lambda noise: integrate(denoise, noise, grid, make_solver("heun"), lift))(noise)
    free = np.asarray((segment > 0) & ~condition)
    want = ref.gaussian_flow(np.asarray(noise), 0.0, 0.8, 0.5)
    np.testing.assert_allclose(np.asarray(x)[free], want[free], atol=0.01)
    assert (np.asarray(x)[np.asarray(condition)] == 3.0).all(), "given tokens come back untouched"
    assert np.asarray(condition).sum() > 0


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"text_drop_prob": 1.2}, "DenoisingConfig.text_drop_prob: 1.2"),
        ({"weighting": "clips"}, "DenoisingConfig.weighting: 'clips'; did you mean 'clip'"),
        ({"prediction": "noise"}, "DenoisingConfig.prediction: 'noise'; known: eps, "),
        ({"time_floor": 0.0}, "DenoisingConfig.time_floor: 0.0"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        make_task(**wrong)
