"""Suites measure what they say: perfect clips reach the floor, wrong ones fall to chance."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate.tiny_generator import TASK, make_model
from vidsim.core.errors import BadInput
from vidsim.data.index import build_index
from vidsim.eval.clips import Alignment, index_clips, world_clips
from vidsim.eval.score import require
from vidsim.eval.suites import loss, prompts, retrieval, vae
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, Video
from vidsim.generate.write import write_media
from vidsim.models.codec import encode_clips
from vidsim.worlds.base import from_spec

SIZES = "sizes=48x48,48x80,80x48&frames=1,5,9"
WORLD = f"shapes?split=heldout&seed=2&objects=1&{SIZES}"
LIMITS_FOR_WORLD = {"tokens": 1024, "text": 600}


@pytest.fixture(scope="module")
def model():
    made = make_model()
    limits = dataclasses.replace(made.limits, **LIMITS_FOR_WORLD)
    return dataclasses.replace(made, limits=limits)


def by_metric(result):
    return {score.metric: score for score in result.scores}


def run_prompts(model, monkeypatch, answer, count=27):
    """The suite with a generator that answers request i by the scene `answer(i, infos)`."""
    suite = prompts.PromptsSuite(prompts=count, world=WORLD)
    world = from_spec(WORLD)
    infos = prompts.draw_prompts(model, world, suite)

    def fake(_, requests, *rest):
        assert [r.prompt for r in requests] == [info.captions[0].text for info in infos]
        return [
            Video(world.render(answer(i, infos).truth), r.fps, r) for i, r in enumerate(requests)
        ]

    monkeypatch.setattr(prompts, "sample", fake)
    monkeypatch.setattr(prompts, "reconstruct", lambda m, videos, p: list(videos))
    return prompts.run(model, suite), infos


def test_perfect_clips_reach_the_floor_exactly(model, monkeypatch):
    result, _ = run_prompts(model, monkeypatch, lambda i, infos: infos[i])
    scores = by_metric(result)
    for name in ("colour", "background", "shape", "count", "motion"):
        row = scores[f"prompts/{name}"]
        assert row.value == row.floor == row.baselines["VAE"]
        assert row.low <= row.value <= row.high and row.value > row.baselines["chance"] - 1e-9
    assert scores["prompts/colour"].value > 0.9 and scores["prompts/background"].value > 0.9
    assert scores["prompts/colour"].n == 27
    assert all(sample.checks["colour"] for sample in result.samples)


def test_answers_to_other_prompts_fall_towards_chance(model, monkeypatch):
    # Sizes repeat every 3 prompts: the answer to another prompt of the same size and duration.
    result, _ = run_prompts(model, monkeypatch, lambda i, infos: infos[(i + 9) % 27])
    scores = by_metric(result)
    for name in ("colour", "background", "shape"):
        assert scores[f"prompts/{name}"].value < 0.5 < scores[f"prompts/{name}"].floor


def test_prompts_are_even_over_sizes_and_durations_and_held_out(model):
    world = from_spec(WORLD)
    suite = prompts.PromptsSuite(prompts=54, world=WORLD)
    infos = prompts.draw_prompts(model, world, suite)
    cells = [(info.height, info.width, info.num_frames) for info in infos]
    assert sorted(set(map(cells.count, cells))) == [6] and len(set(cells)) == 9
    assert all(len(info.truth["objects"]) == 1 for info in infos)
    assert len({info.captions[0].text for info in infos}) > 45  # looks differ from prompt to prompt


def test_rows_by_size_add_up_and_the_worst_is_the_worst(model, monkeypatch):
    wrong = {0, 3, 6, 1}  # three prompts of the first size, one of the second
    result, infos = run_prompts(
        model, monkeypatch, lambda i, infos: infos[(i + 9) % 27] if i in wrong else infos[i]
    )
    scores = by_metric(result)
    rows = [scores[f"prompts/shape/{size}"] for size in ("48x48", "80x48", "48x80")]
    total = scores["prompts/shape"]
    assert sum(row.n for row in rows) == total.n
    assert sum(clip["shape"] for clip in result.clips) == pytest.approx(total.n * total.value)
    assert sum(row.n * row.value for row in rows) == pytest.approx(total.n * total.value)
    (outcome,) = require(result.scores, "prompts/shape/*>=0.99")
    assert outcome.value == min(row.value for row in rows) and not outcome.passed


def test_prompts_that_the_model_cannot_make_are_refused(model):
    suite = prompts.PromptsSuite(prompts=4, world=WORLD, frames=(33,))
    small = dataclasses.replace(model, limits=dataclasses.replace(model.limits, tokens=100))
    with pytest.raises(BadInput, match="tokens"):
        prompts.run(small, suite)


def test_vae_scores_of_known_noise_are_closed_forms(model, monkeypatch):
    def noisy(_, videos, progress):
        return [np.where(v < 128, v + 4, v - 4).astype(np.uint8) for v in videos]

    monkeypatch.setattr(vae, "reconstruct", noisy)
    suite = vae.VaeSuite(clips=9, world=f"shapes?split=heldout&seed=1&{SIZES}")
    result = vae.run(model.vae, suite)
    scores = by_metric(result)
    # Every pixel is off by 4.
    for name in ("psnr", "psnr_boxes", "psnr_first_frames", "psnr_images", "psnr/80x48"):
        assert scores[f"vae/{name}"].value == pytest.approx(20 * math.log10(255 / 4))
    gain = scores["vae/gain_over_flat_colour"].value
    flat = scores["vae/psnr"].baselines["flat colour"]
    assert gain == pytest.approx(scores["vae/psnr"].value - flat)
    assert {"vae/psnr/48x48", "vae/psnr/80x48", "vae/psnr/48x80"} <= set(scores)
    assert scores["vae/parser_kept"].value > 0.9
    assert scores["vae/ssim"].value < 1 and scores["vae/psnr_boxes"].n == 9


def test_vae_suite_sees_a_codec_that_loses_the_object(model, monkeypatch):
    """Replacing each clip by its mean colour: no gain over that baseline, and nothing to read."""

    def flat(_, videos, progress):
        return [
            np.broadcast_to(v.mean((0, 1, 2)).round(), v.shape).astype(np.uint8) for v in videos
        ]

    monkeypatch.setattr(vae, "reconstruct", flat)
    suite = vae.VaeSuite(clips=9, world=f"shapes?split=heldout&seed=1&{SIZES}")
    scores = by_metric(vae.run(model.vae, suite))
    assert scores["vae/gain_over_flat_colour"].value == pytest.approx(0, abs=0.02)
    assert scores["vae/parser_kept"].value < 0.5
    assert scores["vae/parser/shape"].floor > 0.8 > scores["vae/parser/shape"].value


def test_world_clips_are_even_over_sizes():
    clips = world_clips(from_spec(f"shapes?split=heldout&{SIZES}"), 10, Alignment(8, 8))
    sizes = [clip.size for clip in clips]
    assert sorted(sizes.count(s) for s in set(sizes)) == [3, 3, 4]
    assert {len(clip.video_THWC) for clip in clips} <= {1, 9}  # 5 frames are cut to 1
    assert all(len(clip.boxes) == len(clip.video_THWC) for clip in clips)


@pytest.fixture(scope="module")
def user_index(tmp_path_factory):
    """Four videos of different looks, sizes and durations, as a user would have them."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(4)
    for i, (T, H, W) in enumerate([(9, 32, 48), (12, 40, 32), (5, 32, 32), (17, 24, 40)]):
        ramp = np.linspace(0, 200, W)[None, None, :, None] + 3 * np.arange(T)[:, None, None, None]
        video = np.clip(ramp * rng.uniform(0.2, 1, 3) + rng.uniform(0, 60, 3), 0, 255)
        video = np.broadcast_to(video, (T, H, W, 3)).astype(np.uint8)
        write_media(folder / f"clip{i}.mkv", video, 8)
        (folder / f"clip{i}.txt").write_text(f"ramp number {i}")
    path = folder / "index.parquet"
    build_index(str(folder), path)
    return path


def test_later_frames_are_later_frames(user_index):
    suite = vae.VaeSuite(index=str(user_index), skip_frames=8)
    cfg = make_model().vae.vae.cfg
    stride = (cfg.time_stride, cfg.space_stride, cfg.space_stride)
    geometry = vae.GeometryConfig(vae_stride=stride, patch=(1, 1, 1), max_frames=33)
    whole = index_clips(user_index, 8, geometry)
    later = {clip.name: clip for clip in index_clips(user_index, 8, geometry, suite.skip_frames)}
    assert len(whole) == 4 and len(later) == 3  # the clip of five frames has none left
    for clip in whole:
        if clip.name in later:
            tail = later[clip.name].video_THWC
            n = min(len(clip.video_THWC) - 8, len(tail))
            assert n > 0 and np.array_equal(clip.video_THWC[8 : 8 + n], tail[:n])


def test_clips_longer_than_a_row_are_cut_to_what_it_holds(model):
    world = "shapes?split=heldout&frames=129&sizes=48x48"
    limits = dataclasses.replace(model.limits, tokens=90)
    short = dataclasses.replace(model, limits=limits)
    cells = (48 // 8) ** 2  # tokens of a latent frame: patches of 2x2 latents of 4x4 pixels
    (clip,) = loss._clips(short, loss.LossSuite(clips=1, world=world))
    latents = 1 + (len(clip.video_THWC) - 1) // model.vae.vae.cfg.time_stride
    assert cells * latents <= 90 < cells * (latents + 1)


def test_loss_of_a_network_that_answers_zero_is_the_mean_latents_cost(model):
    """Predicting x = 0 errs by x: the suite must report exactly its baseline, clip by clip."""
    params = jax.tree.map(lambda x: x, model.params)
    params["dit"] = params["dit"] | {"head": jax.tree.map(jnp.zeros_like, params["dit"]["head"])}
    silent = dataclasses.replace(model, params=params)
    suite = loss.LossSuite(clips=7, world=f"shapes?split=heldout&{SIZES}", times=(0.04, 0.5, 0.9))
    result = loss.run(silent, suite)
    for score in result.scores:
        assert score.value == pytest.approx(score.baselines["mean latent"], rel=1e-5), score.metric
    names = set(by_metric(result))
    assert {"loss/velocity", "loss/time/0.5", "loss/size/48x48"} <= names
    # The floor of the weight, 1 / 0.05^2, holds below time 0.05.
    assert TASK.cfg.time_floor == 0.05
    low, half = (by_metric(result)[f"loss/time/{t}"].value for t in ("0.04", "0.5"))
    assert low / half == pytest.approx(0.5**2 / 0.05**2, rel=1e-5)


def test_a_wrong_word_adds_nothing_for_a_network_that_does_not_listen(model):
    params = jax.tree.map(lambda x: x, model.params)
    params["dit"] = params["dit"] | {"head": jax.tree.map(jnp.zeros_like, params["dit"]["head"])}
    silent = dataclasses.replace(model, params=params)
    world = f"shapes?split=heldout&{SIZES}"
    suite = loss.LossSuite(clips=5, world=world, times=(0.5,), wrong=("shape",))
    row = by_metric(loss.run(silent, suite))["loss/wrong_shape"]
    assert (row.value, row.low, row.high, row.n) == (0.0, 0.0, 0.0, 5)


def test_a_wrong_word_adds_what_the_right_one_was_worth(model, monkeypatch):
    """A model whose loss is 0.25 lower where the caption names the clip's own colour."""

    def listening(_, suite, clips, latents, progress=None):
        named = [clip.truth["objects"][0]["colour"] in clip.captions[0].split() for clip in clips]
        loss_N1 = 1.0 - 0.25 * np.array(named, float)[:, None]
        return np.repeat(loss_N1, len(suite.times), 1), np.ones(len(clips))

    monkeypatch.setattr(loss, "clip_losses", listening)
    world = f"shapes?split=heldout&objects=1&{SIZES}"
    suite = loss.LossSuite(clips=9, world=world, times=(0.3, 0.7), wrong=("colour", "direction"))
    rows = by_metric(loss.run(model, suite))
    assert rows["loss/wrong_colour"].value == rows["loss/wrong_colour/0.7"].value == 0.25
    assert rows["loss/wrong_direction"].value == 0.0
    assert rows["loss/wrong_direction"].n < 9, "images and still objects state no direction"


@pytest.mark.parametrize(("attribute", "said"), [("shap", "'shap'"), ("direction", "no caption")])
def test_a_word_that_no_caption_has_is_refused_before_anything_is_encoded(
    model, monkeypatch, attribute, said
):
    monkeypatch.setattr(loss, "encode_clips", lambda *_, **__: pytest.fail("encoded"))
    world = "shapes?split=heldout&sizes=48x48&frames=1"  # images state no direction
    with pytest.raises(BadInput, match=said):
        loss.run(model, loss.LossSuite(clips=3, world=world, wrong=(attribute,)))


def test_given_frames_lower_the_baselines_to_the_frames_that_are_left(model):
    world = "shapes?split=heldout&objects=1&sizes=48x48&frames=9"
    rows = {}
    for given in (0, 1):
        suite = loss.LossSuite(clips=4, world=world, times=(0.5,), given=given, channel_weight=1.0)
        rows[given] = by_metric(loss.run(model, suite))["loss/velocity"]
    latents = [encode_clips(model.vae.vae, model.vae.params, [clip.video_THWC])[0]
               for clip in loss._clips(model, suite)]  # fmt: skip
    cfg = model.task.cfg.latent
    weight = np.square(np.broadcast_to(np.asarray(cfg.gain), latents[0].shape[-1:]))
    for given, row in rows.items():
        x = [(z[given:] - np.asarray(cfg.mean)) / np.asarray(cfg.std) for z in latents]
        want = np.mean([np.mean(v**2 * weight / weight.mean()) for v in x]) / 0.5**2
        assert row.baselines["mean latent"] == pytest.approx(want, rel=1e-3)
    with pytest.raises(BadInput, match="given 9 of clip"):
        loss.run(model, loss.LossSuite(clips=2, world=world, given=9))


def test_wrong_words_of_files_are_refused(user_index):
    with pytest.raises(BadInput, match="attributes of a world"):
        loss.LossSuite(index=str(user_index), wrong=("shape",))


def run_retrieval(model, user_index, monkeypatch, answer):
    suite = retrieval.RetrievalSuite(index=str(user_index))
    clips = retrieval._clips(model, suite)

    def fake(_, requests, *rest):
        return [Video(answer(r, clips), r.fps, r) for r in requests]

    monkeypatch.setattr(retrieval, "sample", fake)
    return by_metric(retrieval.run(model, suite))


def resized(video, request):
    from PIL import Image

    chosen = np.linspace(0, len(video) - 1, request.num_frames).round().astype(int)
    size = (request.width, request.height)
    return np.stack([np.asarray(Image.fromarray(video[t]).resize(size)) for t in chosen])


def test_retrieval_of_a_model_that_follows_its_captions(model, user_index, monkeypatch):
    def obedient(request, clips):
        number = int(request.prompt.split()[-1]) if request.prompt else 2
        own = next(c for c in clips if c.captions[0].endswith(str(number)))
        return resized(own.video_THWC, request)

    scores = run_retrieval(model, user_index, monkeypatch, obedient)
    assert scores["retrieval/own_caption"].value == 1.0
    assert scores["retrieval/caption_at_another_size"].value == 1.0
    assert scores["retrieval/empty_prompt"].value == 0.25  # always clip 2, which is right once
    assert scores["retrieval/psnr"].value == math.inf


def test_retrieval_of_a_model_that_looks_at_sizes_only(model, user_index, monkeypatch):
    def by_size(request, clips):
        shape = (request.num_frames, request.height, request.width, 3)
        return next(c for c in clips if c.video_THWC.shape == shape).video_THWC

    scores = run_retrieval(model, user_index, monkeypatch, by_size)
    assert scores["retrieval/own_caption"].value == 1.0
    assert scores["retrieval/empty_prompt"].value == 1.0
    assert scores["retrieval/caption_at_another_size"].value == 0.0


@pytest.mark.slow
def test_whole_suites_run_on_a_random_model(model):
    sampler = SamplerConfig("euler", 2)
    suite = prompts.PromptsSuite(prompts=6, world=WORLD, sampler=sampler)
    events = []
    result = prompts.run(model, suite, lambda *event: events.append(event))
    assert by_metric(result)["prompts/colour"].n == 6
    assert {"denoise", "decode", "parse", "encode"} <= {e[0] for e in events}
    assert all(done <= of for _, done, of in events)
    scores = by_metric(vae.run(model.vae, vae.VaeSuite(clips=4, world=WORLD)))
    assert math.isfinite(scores["vae/psnr"].value)


@pytest.mark.parametrize(("shown", "kept"), [(0, 0), (1, 1), (9, 9), (500, 144)])
def test_clips_to_look_at_are_spread_over_all_that_were_made(shown, kept):
    """144 prompts, 12 sizes in turn, then the next duration: the first nine are all images."""
    info = [
        Request(f"prompt {i}", 48, 48 + 16 * (i % 12), (1, 5, 9)[i // 12 % 3], 8.0, i)
        for i in range(144)
    ]
    videos = [Video(np.zeros((r.num_frames, 2, 2, 3), np.uint8), 8.0, r) for r in info]
    found = prompts._samples(videos, [{}] * 144, (), shown)
    assert len(found) == kept == len({sample.name for sample in found})
    assert all(sample.prompt == sample.name for sample in found)
    if shown == 9:
        assert {len(sample.views[0].video_THWC) for sample in found} == {1, 5, 9}
