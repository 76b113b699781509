"""Joins keep both clips, loops close by construction, edits keep what they are told to keep."""

import dataclasses

import numpy as np
import pytest

from tests.generate.test_extend import CONFIG, SMALL, asked, latent, untrained
from tests.generate.test_media import noise
from tests.generate.tiny_generator import make_model, referring_model
from vidsim.core.batch import REFERENCE_TIME
from vidsim.core.errors import BadInput
from vidsim.generate import edit as editing
from vidsim.generate import join as joining
from vidsim.generate import loop as looping
from vidsim.generate import roll
from vidsim.generate import sample as sampling
from vidsim.generate.edit import edit, kept_tokens, read_mask
from vidsim.generate.join import blend_clips, blend_prompts, join
from vidsim.generate.loop import loop_clip, loop_latents, loop_prompt, naive_loop, seam
from vidsim.generate.roll import WindowConfig
from vidsim.models.codec import decode_clips, encode_clips

ROUNDING = 2e-4  # of latents of size 1 after a few network calls in rows of another order


def test_a_join_keeps_both_clips_and_depends_on_both():
    a, b = noise(5, 16, 24, 1), noise(4, 16, 24, 2)
    (made,) = join(make_model(), a, b, asked([3]), 4, CONFIG, SMALL)
    assert made.given == ((0, 5), (9, 13)) and len(made.video_THWC) == 13
    assert np.array_equal(made.video_THWC[:5], a) and np.array_equal(made.video_THWC[9:], b)
    middle = made.video_THWC[5:9].astype(int)
    for other in (
        join(make_model(), noise(5, 16, 24, 7), b, asked([3]), 4, CONFIG, SMALL),
        join(make_model(), a, noise(4, 16, 24, 7), asked([3]), 4, CONFIG, SMALL),
    ):
        assert (other[0].video_THWC[5:9].astype(int) != middle).any()


def test_a_join_of_strangers_moves_from_one_prompt_to_the_other():
    """Its first new latent is that of the one prompt, its last of the other, both clips given. With
    one Euler step the prediction is linear in the shares: the frames can be redone."""
    model, once = make_model(), dataclasses.replace(CONFIG, steps=1)
    head, tail = latent(2, 1), latent(1, 2)
    (request,) = asked([3])
    other = dataclasses.replace(request, prompt="a green star")
    (mixed,) = roll.fill(model, [request], [head], [tail], 3, once, None, "a green star")
    one, two = (roll.fill(model, [r], [head], [tail], 3, once)[0] for r in (request, other))
    share = np.array([0.0, 0.5, 1.0], np.float32)[:, None, None, None]
    np.testing.assert_allclose(mixed, (1 - share) * one + share * two, atol=ROUNDING)
    assert np.abs(one - two).max() > 5 * ROUNDING
    a, b = noise(5, 16, 24, 1), noise(4, 16, 24, 2)
    (made,) = join(model, a, b, [request], 4, once, SMALL, towards="a green star")
    (plain,) = join(model, a, b, [request], 4, once, SMALL)
    assert np.array_equal(made.video_THWC[:5], a) and np.array_equal(made.video_THWC[9:], b)
    assert not np.array_equal(made.video_THWC, plain.video_THWC)


def test_a_loop_from_a_clip_is_the_clip_and_a_way_back():
    video = noise(3, 16, 24)
    (made,) = loop_clip(make_model(), video, asked([3]), 4, CONFIG, SMALL)
    assert len(made.video_THWC) == 7 and np.array_equal(made.video_THWC[:3], video)
    (joined,) = join(make_model(), video, video, asked([3]), 4, CONFIG, SMALL)
    assert np.array_equal(made.video_THWC, joined.video_THWC[:7])
    assert "seam" in made.notices[0]


def test_time_of_a_loop_goes_round_and_its_reference_stays(monkeypatch):
    """At every look of the network each latent frame stands one place earlier, the first last."""
    plain, seen = sampling._denoise, []

    def watched(*asked):
        seen.append((np.asarray(asked[3]["patch_position"])[0, :, 0], np.asarray(asked[7])[0]))
        return plain(*asked)

    monkeypatch.setattr(sampling, "_denoise", watched)
    config = dataclasses.replace(CONFIG, steps=4)
    for model, begin in ((make_model(), 0), (referring_model(), 6)):
        seen.clear()
        (made,) = loop_latents(model, asked([1], frames=6), config, None)
        assert made.shape[0] == 3 and len(seen) == (8 if begin else 4)
        for look, (time_N, given_N) in enumerate(seen[-4:]):
            places = [1 + (frame - look) % 3 for frame in range(3)]
            np.testing.assert_array_equal(time_N[begin : begin + 18], np.repeat(places, 6))
            assert (time_N[:begin] == REFERENCE_TIME).all() and given_N[:begin].all()
            assert not given_N[begin:].any()


def test_a_loop_shows_what_its_reference_shows(monkeypatch):
    """The reference is the picture of the same prompt and seed."""
    plain, conditions = looping.sample_latents, []

    def spy(model, requests, config, progress=None, given=None):
        conditions.append(given)
        return plain(model, requests, config, progress, given)

    monkeypatch.setattr(looping, "sample_latents", spy)
    model = referring_model()
    requests = asked([1, 2], frames=6)
    loop_latents(model, requests, CONFIG, None)
    pictures = plain(model, [dataclasses.replace(r, num_frames=1) for r in requests], CONFIG)
    assert len(conditions) == 2 and conditions[0] is None
    for one, picture in zip(conditions[1], pictures, strict=True):
        np.testing.assert_allclose(one.latent_thwc[:1], picture, atol=ROUNDING)
        assert one.given_thw[0].all() and not one.given_thw[1:].any()


def test_pixels_of_a_loop_are_those_of_any_later_period():
    """Decoding more periods first changes nothing: frame 0 follows the last frame."""
    model = make_model()
    (made,) = loop_prompt(model, asked([1], frames=6), CONFIG)
    assert made.video_THWC.shape == (6, 16, 24, 3)
    assert "not trained with references" in made.notices[1]
    (core,) = loop_latents(model, asked([1], frames=6), CONFIG, None)
    (long,) = decode_clips(model.vae.vae, model.vae.params, [np.concatenate([core] * 11)])
    for period in (long[-6:], long[-12:-6]):
        # The decoder's chunks fall differently: a value on the edge may round the other way.
        assert np.abs(period.astype(int) - made.video_THWC).max() <= 2
    (bare,) = decode_clips(model.vae.vae, model.vae.params, [core])
    gap = np.abs(bare[-5:].astype(int) - made.video_THWC[-5:]).max()
    assert gap > 20, "without the warm-up it would be another"


def test_the_naive_loop_is_the_ordinary_clip():
    (made,) = naive_loop(make_model(), asked([1], frames=6), CONFIG)
    assert made.video_THWC.shape == (6, 16, 24, 3) and made.notices[0].startswith("naive: seam")


def test_seam_of_a_turning_pattern_is_one_step_and_of_a_ramp_the_whole_way():
    wheel = np.stack([np.roll(noise(1, 8, 12)[0], t, 1) for t in range(12)])
    assert seam(wheel).ratio == pytest.approx(1.0, abs=0.1)
    ramp = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * 5, (9, 8, 8, 3))
    found = seam(ramp)
    assert (found.wrap, found.median, found.motion, found.ratio) == (40.0, 5.0, 5.0, 8.0)
    frozen = seam(np.zeros((5, 8, 8, 3), np.uint8))
    assert frozen.wrap == 0.0 and frozen.motion == 0.0 and np.isnan(frozen.ratio)


def test_a_blend_begins_under_one_prompt_and_ends_under_the_other(monkeypatch):
    """With one Euler step the prediction is linear in the shares: the frames can be redone."""
    model = make_model()
    once = dataclasses.replace(CONFIG, steps=1)
    (request,) = asked([4], frames=5)
    latents = joining._blended(model, [request], "a green star", None, 1.0, once, None)
    pair = [request, dataclasses.replace(request, prompt="a green star")]
    a, b = joining.sample_latents(model, pair, once)
    share = np.array([0.0, 0.5, 1.0], np.float32)[:, None, None, None]
    np.testing.assert_allclose(latents[0], (1 - share) * a + share * b, atol=ROUNDING)
    assert np.abs(a - b).max() > 5 * ROUNDING
    (made,) = blend_prompts(model, [request], "a green star", once)
    assert made.video_THWC.shape == (5, 16, 24, 3)


def test_a_blend_of_clips_starts_from_both_shared_out_along_time(monkeypatch):
    seen = {}

    def spy(model, requests, config, progress, conditions):
        seen["starts"], seen["prompts"] = (
            [c.start for c in conditions],
            [r.prompt for r in requests],
        )
        return [c.latent_thwc for c in conditions]

    monkeypatch.setattr(joining, "sample_latents", spy)
    model, a, b = make_model(), noise(5, 16, 24, 1), noise(7, 16, 24, 2)
    (made,) = blend_clips(model, a, b, asked([3], frames=5), "a green star", 0.6, CONFIG)
    first, last = encode_clips(model.vae.vae, model.vae.params, [a, b[2:]])
    want = np.concatenate([first[:1], 0.5 * (first[1:2] + last[1:2]), last[2:]])
    (pixels,) = decode_clips(model.vae.vae, model.vae.params, [want])
    assert np.abs(made.video_THWC.astype(int) - pixels).max() <= 1  # rounding
    assert seen == {"starts": [0.6, 0.6], "prompts": ["a red circle", "a green star"]}
    with pytest.raises(BadInput, match="at least 9"):
        blend_clips(model, a, b, asked([3], frames=9), "", 0.5, CONFIG)


def test_strength_zero_returns_the_input():
    video = noise(4, 16, 24)
    (made,) = edit(make_model(), video, asked([1]), 0.0, None, CONFIG, SMALL)
    assert np.array_equal(made.video_THWC, video) and made.given == ((0, 4),)


def test_denoising_starts_at_the_noised_input(monkeypatch):
    seen = {}

    def spy(model, requests, config, progress, conditions):
        seen["conditions"] = conditions
        return [c.latent_thwc for c in conditions]

    monkeypatch.setattr(editing, "sample_latents", spy)
    model, video = make_model(), noise(4, 16, 24)  # filled up to five frames, cut again
    (made,) = edit(model, video, asked([1]), 0.4, None, CONFIG, SMALL)
    filled = np.concatenate([video, video[-1:]])
    (want,) = encode_clips(model.vae.vae, model.vae.params, [filled])
    (condition,) = seen["conditions"]
    assert condition.start == 0.4 and not condition.given_thw.any()
    np.testing.assert_array_equal(condition.latent_thwc, want)
    (through,) = decode_clips(model.vae.vae, model.vae.params, [want])
    assert np.array_equal(made.video_THWC, through[:4])


def test_a_small_strength_moves_latents_little_and_full_strength_forgets_them():
    model = make_model()
    base = latent(3)
    from vidsim.generate.conditions import Condition
    from vidsim.generate.sample import sample_latents

    def made(start, values):
        nothing = np.zeros((3, 2, 3), bool)
        condition = Condition(values, nothing, start=start)
        return sample_latents(model, asked([1], frames=5), CONFIG, None, [condition])[0]

    np.testing.assert_allclose(made(1.0, base), made(1.0, -base), atol=1e-6)
    assert np.abs(made(0.5, base) - made(0.5, -base)).max() > 1e-2


def test_kept_pixels_are_the_input_bit_for_bit():
    video = noise(5, 16, 24)
    keep = np.zeros((1, 16, 24), bool)
    keep[:, :, :11] = True  # one token wide and three columns more
    (made,) = edit(make_model(), video, asked([1]), 0.9, keep, CONFIG, SMALL)
    assert np.array_equal(made.video_THWC[:, :, :11], video[:, :, :11])
    assert (made.video_THWC[:, :, 11:] != video[:, :, 11:]).any()
    assert made.notices == ("45.8% of the pixels are kept exactly",)


def test_a_picture_larger_than_any_row_can_be_edited():
    model, picture = make_model(), noise(1, 160, 128)  # 320 tokens; rows of training hold 91
    one = dataclasses.replace(asked([1])[0], height=160, width=128, num_frames=1)
    keep = np.zeros((1, 160, 128), bool)
    keep[:, :80] = True
    (made,) = edit(model, picture, [one], 0.5, keep, CONFIG)
    assert np.array_equal(made.video_THWC[:, :80], picture[:, :80])
    assert (made.video_THWC[:, 80:] != picture[:, 80:]).any()


def test_tokens_are_given_only_where_all_of_their_pixels_are():
    keep = np.ones((5, 16, 24), bool)
    keep[0, 3, 3] = keep[4, 9, 20] = False
    given = kept_tokens(keep, 2, (8, 8))
    want = np.ones((3, 2, 3), bool)
    want[0, 0, 0] = want[2, 1, 2] = False
    assert np.array_equal(given, want)


def test_masks_are_read_at_half_brightness():
    mask = np.array([[[[128] * 3, [127] * 3, [255, 255, 0], [0] * 3]]], np.uint8)
    assert read_mask(mask).tolist() == [[[True, False, True, False]]]


def test_bad_use_is_refused_before_anything_runs():
    model, video = make_model(), noise(5, 16, 24)
    other = noise(5, 24, 24)
    for call, says in [
        (lambda: join(model, video, other, asked([0]), 4), "24x16 and 24x24; one size; --size"),
        (lambda: join(model, video, video, asked([0]), 3, CONFIG, SMALL), "nearest 4"),
        (lambda: join(model, video, video, asked([0]), 8, CONFIG, SMALL), "at most 6"),
        (lambda: join(untrained(suffix=1), video, video, asked([0]), 4), "never trained to join"),
        (lambda: loop_prompt(model, asked([0], frames=5)), "--frames: 5 of a loop"),
        (lambda: loop_prompt(referring_model(), asked([0], frames=30)), "of 96 tokens"),
        (lambda: naive_loop(model, asked([0], frames=2)), "at least 4; nearest 4"),
        (lambda: edit(model, video, asked([0]), 1.2), "--strength: 1.2"),
        (lambda: edit(model, video, asked([0]), 0.5, np.zeros((1, 8, 8), bool)), "mask of 8x8"),
        (lambda: edit(model, video, asked([0]), 0.5, None, CONFIG, WindowConfig(3)), "at most 3"),
        (lambda: blend_prompts(model, asked([0]), "x"), "a blend moves along time"),
        (lambda: blend_clips(model, video, video, asked([0], frames=5), "", 0.0), "above 0"),
    ]:
        with pytest.raises(BadInput, match=says):
            call()
