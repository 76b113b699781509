"""Given frames come back bit for bit; new frames continue them; windows roll over clean latents."""

import dataclasses

import numpy as np
import pytest

from tests.generate.test_media import noise
from tests.generate.tiny_generator import TASK, make_model
from vidsim.core.errors import BadInput
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.masks import MaskConfig
from vidsim.generate import roll
from vidsim.generate.conditions import Condition, given_frames
from vidsim.generate.extend import animate, extend, head_latents, tail_latents
from vidsim.generate.pack import Request
from vidsim.generate.roll import Window, WindowConfig, plan_window, roll_backward, roll_forward
from vidsim.generate.sample import SamplerConfig, sample_latents
from vidsim.models.codec import encode_clips, encode_midstream

CONFIG = SamplerConfig("euler", 2, GuidanceConfig(1.0), max_rows=2)
SMALL = WindowConfig(frames=9)  # 5 latent frames
ROUND_TRIP = 1e-5  # normalising and its inverse, float32


def asked(seeds, size=(16, 24), frames=1, prompt="a red circle"):
    return [Request(prompt, *size, frames, 8.0, seed) for seed in seeds]


def latent(t, seed=0, size=(4, 6)):
    return np.random.default_rng(seed).normal(size=(t, *size, 3)).astype(np.float32)


@pytest.mark.parametrize(("given", "frames"), [(1, 3), (4, 1), (6, 14)])
def test_forward_keeps_the_given_frames_and_adds_as_many_as_asked(given, frames):
    video = noise(given, 16, 24)
    made = extend(make_model(), video, asked([1, 2]), frames, "forward", CONFIG, SMALL)
    for one in made:
        assert one.video_THWC.shape == (given + frames, 16, 24, 3)
        assert one.given == ((0, given),) and np.array_equal(one.video_THWC[:given], video)
    assert (made[0].video_THWC[given:] != made[1].video_THWC[given:]).any()


@pytest.mark.parametrize(("given", "frames"), [(1, 1), (5, 4), (3, 12)])
def test_backward_gives_different_beginnings_with_one_identical_end(given, frames):
    video = noise(given, 16, 24)
    made = extend(make_model(), video, asked(range(4)), frames, "backward", CONFIG, SMALL)
    for one in made:
        assert one.video_THWC.shape == (given + frames, 16, 24, 3)
        assert one.given == ((frames, frames + given),)
        assert np.array_equal(one.video_THWC[frames:], video)
    beginnings = {one.video_THWC[:frames].tobytes() for one in made}
    assert len(beginnings) == 4


def test_the_image_is_the_first_frame_exactly():
    image = noise(1, 16, 24)[0]
    (made,) = animate(make_model(), image, asked([3], frames=5), CONFIG, SMALL)
    assert made.video_THWC.shape == (5, 16, 24, 3) and np.array_equal(made.video_THWC[0], image)
    (still,) = animate(make_model(), image, asked([3]), CONFIG, SMALL)
    assert np.array_equal(still.video_THWC, image[None])


def test_what_is_given_is_encoded_alone():
    """Latents of the head are those of its frames as a clip; of the tail, of each group alone."""
    model, video = make_model(), noise(8, 16, 24)
    head, used = head_latents(model, video, 3)
    assert used == 5
    (alone,) = encode_clips(model.vae.vae, model.vae.params, [video[-5:]])
    np.testing.assert_array_equal(head, alone)
    tail = tail_latents(model, video, 3)
    assert tail.shape == (3, 4, 6, 3)
    warm = np.concatenate([video[2:3], video[2:4]])
    (group,) = encode_clips(model.vae.vae, model.vae.params, [warm])
    np.testing.assert_allclose(tail[1], group[1], atol=1e-5)
    lone = tail_latents(model, video[:1], 3)  # one frame fills its group
    (filled,) = encode_midstream(model.vae.vae, model.vae.params, [np.repeat(video[:1], 2, 0)])
    np.testing.assert_array_equal(lone, filled)


def test_given_tokens_are_clean_throughout_and_returned():
    model, base = make_model(), latent(4)
    condition = Condition(base, given_frames(base, 1, 1, (1, 2, 2)))
    (made,) = sample_latents(model, asked([5], frames=7), CONFIG, None, [condition])
    np.testing.assert_allclose(made[[0, 3]], base[[0, 3]], atol=ROUND_TRIP)
    assert np.abs(made[1:3] - base[1:3]).max() > 0.1
    other = dataclasses.replace(condition, latent_thwc=base + np.float32([1, 0, 0]))
    (changed,) = sample_latents(model, asked([5], frames=7), CONFIG, None, [other])
    assert np.abs(changed[1:3] - made[1:3]).max() > 1e-3, "new frames look at the given ones"


def test_a_condition_of_nothing_changes_nothing():
    model, base = make_model(), latent(3)
    nothing = Condition(base, np.zeros((3, 2, 3), bool))
    plain = sample_latents(model, asked([1, 2], frames=5), CONFIG)
    held = sample_latents(model, asked([1, 2], frames=5), CONFIG, None, [nothing, None])
    for a, b in zip(plain, held, strict=True):
        np.testing.assert_allclose(a, b, atol=ROUND_TRIP)


def record(monkeypatch):
    """Stands in for the sampler: answers noise by seed, keeps every request and condition."""
    seen = []

    def fake(model, requests, config, progress=None, conditions=None):
        seen.append((list(requests), list(conditions)))
        return [
            np.where(
                np.repeat(np.repeat(c.given_thw, 2, 1), 2, 2)[..., None], c.latent_thwc,
                latent(c.latent_thwc.shape[0], r.seed % 1000),
            )
            for r, c in zip(requests, conditions, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr(roll, "sample_latents", fake)
    return seen


def test_windows_forward_take_over_the_last_latents_unchanged(monkeypatch):
    seen = record(monkeypatch)
    known = latent(2)
    parts = list(roll_forward(make_model(), asked([7]), [known], 9, Window(5, 2), CONFIG))
    made = np.concatenate([known, *(p[0] for p in parts)])
    assert [len(p[0]) for p in parts] == [3, 3, 3]
    at = 2
    for number, (requests, (condition,)) in enumerate(seen):
        np.testing.assert_array_equal(condition.latent_thwc[:2], made[at - 2 : at])
        assert condition.given_thw[:2].all() and not condition.given_thw[2:].any()
        assert condition.first == (0 if number == 0 else 1)
        assert requests[0].num_frames == 9
        at += 3
    assert len({requests[0].seed for requests, _ in seen}) == 3 and seen[0][0][0].seed == 7


def test_windows_backward_end_with_the_one_that_holds_the_first_frame(monkeypatch):
    seen = record(monkeypatch)
    known = latent(2)
    (made,) = roll_backward(make_model(), asked([7]), [known], 8, Window(5, 2), CONFIG)
    assert made.shape[0] == 8
    whole = np.concatenate([made, known])
    at = 8
    for _, (condition,) in seen:
        m = condition.latent_thwc.shape[0] - 2
        np.testing.assert_array_equal(condition.latent_thwc[m:], whole[at : at + 2])
        assert not condition.given_thw[:m].any() and condition.given_thw[m:].all()
        at -= m
        assert condition.first == (0 if at == 0 else 1)
    assert at == 0


def test_window_is_planned_from_what_was_trained():
    model = make_model()
    assert plan_window(model, 16, 24, WindowConfig()) == Window(9, 3)
    trained = dataclasses.replace(model, config={"longest": 6})
    assert plan_window(trained, 16, 24, WindowConfig()) == Window(6, 2)
    assert plan_window(model, 48, 48, WindowConfig()).latents == 2  # 91 tokens hold two frames
    for config, says in [
        (WindowConfig(frames=8), "nearest"),
        (WindowConfig(frames=41), "--window: 41 frames of 24x16; at most 29"),
        (WindowConfig(frames=5, overlap=3), "--overlap: 3 latent frames"),
    ]:
        with pytest.raises(BadInput, match=says):
            plan_window(model, 16, 24, config)


def untrained(**kinds):
    nothing = dict.fromkeys(("none", "first", "prefix", "suffix", "first_last", "random"), 0.0)
    masks = MaskConfig(**{**nothing, "none": 1.0, **kinds})
    cfg = dataclasses.replace(TASK.cfg, masks=masks)
    return dataclasses.replace(make_model(), task=dataclasses.replace(TASK, cfg=cfg))


def test_bad_use_is_refused_before_anything_runs():
    video = noise(3, 16, 24)
    for call, says in [
        (lambda: extend(untrained(), video, asked([0]), 4), "never trained to extend forward"),
        (lambda: extend(untrained(first=1), video, asked([0]), 4, "backward"), "masks.suffix"),
        (lambda: animate(untrained(suffix=1), video[0], asked([0])), "denoising.masks.first"),
        (lambda: extend(make_model(), video, asked([0]), 0), "--frames: 0; at least 1"),
        (lambda: extend(make_model(), video, asked([0]), 4, "up"), "forward or backward"),
        (lambda: extend(make_model(), video, asked([0], (16, 16)), 4), "given frames of 24x16"),
        (lambda: animate(make_model(), video[0], asked([0], frames=4)), "--frames: 4"),
    ]:
        with pytest.raises(BadInput, match=says):
            call()
