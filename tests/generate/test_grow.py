"""Pictures larger than those of training: how they grow, and that nothing else changes."""

import dataclasses

import numpy as np
import pytest

from tests.generate.tiny_generator import make_model
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.generate import grow
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, sample
from vidsim.models.codec import decode_clips, encode_clips

CONFIG = SamplerConfig("euler", 4, GuidanceConfig(2.0))


@pytest.mark.parametrize("asked", [
    (2048, 2048), (1152, 2048), (2048, 640), (520, 520), (264, 1024), (8, 2000), (256, 256),
])  # fmt: skip
def test_sizes_double_from_one_that_fits_to_the_one_asked_for(asked):
    model, tokens = make_model(), 91 // 4
    way = grow.sizes(model, Request("x", *asked))
    assert model.limits.tokens == 91 and way[-1] == asked
    count = [h * w // 64 for h, w in way]
    assert count[0] <= tokens and all(n > tokens for n in count[1:])
    for (h, w), (high, wide) in zip(way, way[1:], strict=False):
        assert h % 8 == w % 8 == 0
        assert abs(high / h - 2) <= 1 / (h // 8) and abs(wide / w - 2) <= 1 / (w // 8)


def test_what_fits_and_what_moves_does_not_grow():
    model = make_model()
    for request in (Request("x", 32, 32), Request("x", 48, 48, 5, 8.0)):
        assert grow.sizes(model, request) == [(request.height, request.width)]
        assert grow.notice(model, request) == ""


def test_small_requests_are_those_of_the_sampler_whatever_grows_beside_them():
    model = make_model()
    small = [Request("x", 32, 40, seed=3), Request("y", 48, 32, 5, 8.0, seed=4)]
    large = Request("x", 80, 64, seed=3)
    plain = sample(model, small, CONFIG)
    made = grow.sample_grown(model, [small[0], large, small[1]], CONFIG)
    for one, other in zip(plain, (made[0], made[2]), strict=True):
        assert np.abs(one.video_THWC.astype(int) - other.video_THWC.astype(int)).max() <= 1
    assert made[1].video_THWC.shape == (1, 80, 64, 3) and made[1].request == large
    alone = grow.sample_grown(model, [large], CONFIG)[0]
    assert np.abs(alone.video_THWC.astype(int) - made[1].video_THWC.astype(int)).max() <= 1


def test_a_picture_may_grow_under_a_negative_prompt_though_its_tiles_are_not_guided():
    plain, other = Request("x", 80, 64, seed=3), Request("x", 80, 64, seed=3, negative="blurry")
    a, b = (grow.sample_grown(make_model(), [request], CONFIG)[0] for request in (plain, other))
    assert a.video_THWC.shape == b.video_THWC.shape and (a.video_THWC != b.video_THWC).any()


def test_tiles_start_from_the_enlarged_picture_and_are_put_together_again(monkeypatch):
    seen = []

    def spy(model, requests, config, progress, conditions):
        seen.extend(
            (r.seed, c.start, config.guidance.scale)
            for r, c in zip(requests, conditions, strict=True)
        )
        return [c.latent_thwc for c in conditions]

    monkeypatch.setattr(grow, "sample_latents", spy)
    model, large = make_model(), Request("x", 80, 64, seed=5)
    first, last = grow.sizes(model, large)
    small = dataclasses.replace(large, height=first[0], width=first[1])
    picture = grow.enlarge(sample(model, [small], CONFIG)[0].video_THWC, last)
    latents = encode_clips(model.vae.vae, model.vae.params, [picture])
    (expected,) = decode_clips(model.vae.vae, model.vae.params, latents)
    (made,) = grow.sample_grown(model, [large], CONFIG)
    assert np.abs(made.video_THWC.astype(int) - expected.astype(int)).max() <= 1
    seeds, starts, scales = zip(*seen, strict=True)
    assert len(set(seeds)) == len(seeds) == 9, "each tile has its own noise"
    assert set(starts) == {grow.STRENGTH} and set(scales) == {1.0}


@pytest.mark.parametrize(("side", "length", "cell"), [
    (256, 128, 8), (2048, 128, 8), (264, 136, 8), (80, 40, 8), (40, 40, 8), (24, 40, 8), (16, 8, 8),
])  # fmt: skip
def test_tiles_cover_a_side_and_overlap(side, length, cell):
    spans = grow._spans(side, length, cell)
    assert spans[0][0] == 0 and spans[-1][1] == side
    assert all(a % cell == 0 and b - a == min(side, length) for a, b in spans)
    for (_, end), (first, _) in zip(spans, spans[1:], strict=False):
        assert end - first >= (length // grow.OVERLAP // cell) * cell >= 0 and end >= first


def test_growing_takes_its_share_of_the_steps_and_says_at_which_size_it_is():
    events = []
    model, large = make_model(), Request("x", 160, 128)
    config = dataclasses.replace(CONFIG, steps=10)
    grow.sample_grown(model, [large], config, lambda *event: events.append(event))
    steps = {stage: of for stage, _, of in events if stage.startswith("denoise")}
    assert set(steps) == {"denoise", "denoise 64x80", "denoise 128x160"}
    assert steps["denoise"] == 10 and steps["denoise 64x80"] % 3 == 0  # batches of three steps
    assert "from 32x40 by way of 64x80, 128x160" in grow.notice(model, large)
