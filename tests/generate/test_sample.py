"""A clip is a function of its request: neighbours, order, batch size change it by rounding."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.generate.tiny_generator import TASK, make_model, self_conditioned_model
from vidsim.core.errors import BadInput
from vidsim.data.packing import RowLimits
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.solvers import NAMES, STOCHASTIC
from vidsim.generate import sample as sampling
from vidsim.generate.conditions import Condition
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out, sample, sample_latents

CONFIG = SamplerConfig("heun", 3, GuidanceConfig(2.0), max_rows=2)
# Packing changes the order of float32 sums in attention and products; five network calls with
# random weights grow a relative rounding of 1e-7 to about 1e-5 of latents of size 1.
ROUNDING = 2e-4

REQUESTS = [
    Request("a red circle", 16, 24, 5, 8.0, 1),
    Request("a blue square moving left", 24, 16, 9, 12.0, 2),
    Request("", 32, 32, 1, seed=3),
    Request("three words here", 16, 16, 3, 8.0, 4, negative="blurry"),
    Request("a red circle", 16, 24, 5, 8.0, 5),
    Request("wide", 8, 64, 5, 24.0, 6),
]


@pytest.fixture(scope="module")
def together():
    return sample_latents(make_model(), REQUESTS, CONFIG)


def test_shapes_are_those_asked_for(together):
    for latent, request in zip(together, REQUESTS, strict=True):
        frames = 1 + (request.num_frames - 1) // 2
        assert latent.shape == (frames, request.height // 4, request.width // 4, 3)
        assert np.isfinite(latent).all() and latent.std() > 0.1


@pytest.mark.parametrize("i", range(len(REQUESTS)))
def test_a_clip_alone_equals_the_clip_among_others(together, i):
    (alone,) = sample_latents(make_model(), [REQUESTS[i]], CONFIG)
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(alone, together[i], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    "solver,noise", [(s, "shared") for s in NAMES] + [(s, "token") for s in STOCHASTIC]
)
def test_neighbours_change_nothing_for_any_solver(solver, noise):
    """Another row, another place in it, other neighbours: SDE solvers draw by request and step."""
    config = dataclasses.replace(CONFIG, solver=solver, noise=noise)
    packed = sample_latents(make_model(), REQUESTS, config)
    alone = sample_latents(make_model(), REQUESTS[4:3:-1] + REQUESTS[1:0:-1], config)
    for i, latent in zip((4, 1), alone, strict=True):
        np.testing.assert_allclose(latent, packed[i], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_network_reads_the_guided_prediction_of_the_call_before(monkeypatch, scale):
    run, calls = sampling._denoise, []

    def watched(*asked):
        made = run(*asked)
        calls.append((asked[-1], made))
        return made

    monkeypatch.setattr(sampling, "_denoise", watched)
    config = SamplerConfig("heun", 3, GuidanceConfig(scale))
    model = self_conditioned_model()
    packed = sample_latents(model, REQUESTS[:2], config)
    assert not np.any(calls[0][0]) and len(calls) == 5
    for before, after in itertools.pairwise(calls):
        np.testing.assert_array_equal(after[0], before[1])
        assert np.asarray(after[0]).std() > 0.1
    (alone,) = sample_latents(model, REQUESTS[1:2], config)
    np.testing.assert_allclose(alone, packed[1], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_sde_solvers_draw_by_seed(solver):
    config = dataclasses.replace(CONFIG, solver=solver)
    same = dataclasses.replace(REQUESTS[0], seed=99)
    made, other, plain = (
        sample_latents(make_model(), [r], c)[0]
        for r, c in ((REQUESTS[0], config), (same, config),
                     (REQUESTS[0], dataclasses.replace(config, sde=0.0)))
    )  # fmt: skip
    assert np.abs(made - other).max() > 100 * ROUNDING
    assert np.abs(made - plain).max() > 100 * ROUNDING


def test_a_shorter_row_gives_the_same_clip(together):
    even = dataclasses.replace(make_model(), limits=RowLimits(128, 64, 6))
    assert lay_out(even, REQUESTS[:1]).limits.tokens == 20
    (alone,) = sample_latents(even, REQUESTS[:1], CONFIG)
    np.testing.assert_allclose(alone, together[0], atol=ROUNDING, rtol=0)


def test_order_and_number_of_batches_do_not_matter(together):
    order = [4, 2, 0, 5, 3, 1]
    shuffled = sample_latents(
        make_model(), [REQUESTS[i] for i in order], dataclasses.replace(CONFIG, max_rows=1)
    )
    for i, latent in zip(order, shuffled, strict=True):
        np.testing.assert_allclose(latent, together[i], atol=ROUNDING, rtol=0)


def test_rows_are_computed_one_at_a_time_on_a_cpu_unless_asked(together, monkeypatch):
    batches: list[int] = []
    real = sampling._denoise
    monkeypatch.setattr(
        sampling, "_denoise", lambda *a: (batches.append(a[5].shape[0]), real(*a))[1]
    )
    usual = dataclasses.replace(CONFIG, max_rows=None)
    for made, first in zip(sample_latents(make_model(), REQUESTS, usual), together, strict=True):
        np.testing.assert_allclose(made, first, atol=ROUNDING, rtol=0)
    assert len(batches) > 5 and set(batches) == {1}
    monkeypatch.setattr(sampling, "current_platform", lambda: "tpu")
    assert usual.rows_at_once == sampling.MAX_ROWS and CONFIG.rows_at_once == 2


def test_seed_and_prompt_each_matter(together):
    def gap(a, b):
        return np.abs(a - b).max()

    assert gap(together[0], together[4]) > 100 * ROUNDING  # same prompt, another seed
    same = dataclasses.replace(REQUESTS[0], prompt="a green star")
    (other,) = sample_latents(make_model(), [same], CONFIG)
    assert gap(together[0], other) > 5 * ROUNDING


def test_a_negative_prompt_matters_when_guided_and_is_refused_otherwise():
    plain = dataclasses.replace(REQUESTS[3], negative="")
    pair = sample_latents(make_model(), [REQUESTS[3], plain], CONFIG)
    assert np.abs(pair[0] - pair[1]).max() > 5 * ROUNDING
    unguided = dataclasses.replace(CONFIG, guidance=GuidanceConfig(1.0))
    with pytest.raises(BadInput, match="--negative: 'blurry' with guidance 1; a guidance above 1"):
        sample_latents(make_model(), [REQUESTS[3], plain], unguided)


def test_guidance_equals_the_mix_of_two_unguided_predictions():
    """One Euler step from noise: x_guided = x_null + s (x_prompt - x_null)."""
    request = REQUESTS[0]
    empty = dataclasses.replace(request, prompt="")

    def once(r: Request, scale: float) -> np.ndarray:
        config = SamplerConfig("euler", 1, GuidanceConfig(scale))
        return sample_latents(make_model(), [r], config)[0]

    with_text, without = once(request, 1.0), once(empty, 1.0)
    np.testing.assert_allclose(
        once(request, 3.5), without + 3.5 * (with_text - without), atol=ROUNDING, rtol=0
    )


def test_network_compiles_once_whatever_the_sizes():
    model = make_model()
    config = SamplerConfig("euler", 2, GuidanceConfig(2.0, high=0.9), max_rows=2)
    before = sampling._denoise._cache_size()
    sample_latents(model, REQUESTS, config)
    sample_latents(model, REQUESTS[::-1] + REQUESTS[:3], config)
    assert sampling._denoise._cache_size() - before == 1


def test_progress_counts_every_step_and_clip():
    seen: list[tuple[str, int, int]] = []
    config = SamplerConfig("euler", 4, GuidanceConfig(2.0), max_rows=1)
    videos = sample(make_model(), REQUESTS, config, lambda *event: seen.append(event))
    rows = len(lay_out(make_model(), REQUESTS).rows)
    steps = [done for stage, done, of in seen if stage == "denoise" and of == 4 * rows]
    assert rows > 1 and steps == list(range(4 * rows + 1))
    assert [e for e in seen if e[0] == "decode"][-1] == ("decode", 6, 6)
    for video, request in zip(videos, REQUESTS, strict=True):
        assert video.video_THWC.dtype == np.uint8 and video.request == request
        assert video.video_THWC.shape == (request.num_frames, request.height, request.width, 3)


def test_bad_requests_are_refused_before_anything_is_compiled():
    model = make_model()
    small = dataclasses.replace(model, limits=RowLimits(16, 10, 2))
    before = sampling._denoise._cache_size()
    for bad_model, requests, says in [
        (model, [], "no prompts"),
        (model, [Request("x", 20, 16)], "nearest 16x16"),
        (model, [Request("x", 16, 16, 4)], "nearest"),
        (small, [Request("x", 64, 64)], "64 tokens"),
        (small, [Request("0123456789", 16, 16)], "10 tokens"),
    ]:
        with pytest.raises(BadInput, match=says):
            sample(bad_model, requests, CONFIG)
    assert sampling._denoise._cache_size() == before


def test_unknown_solver_is_refused():
    with pytest.raises(BadInput, match="did you mean 'heun'"):
        SamplerConfig("heum")


def test_task_is_a_static_argument():
    """Equal configurations share compiled programs: a model loaded twice compiles once."""
    assert hash(TASK) == hash(dataclasses.replace(TASK)) and TASK == dataclasses.replace(TASK)


def test_blended_frames_are_told_what_they_were_made(monkeypatch):
    """With a share of 1 a clip is what its partner is, and so is what its network reads of it."""
    run, told = sampling._denoise, []

    def watched(*asked):
        told.append(np.asarray(asked[-1]))
        return run(*asked)

    monkeypatch.setattr(sampling, "_denoise", watched)
    request = REQUESTS[0]  # three latent frames of 2x3 tokens
    other = dataclasses.replace(request, prompt="a green star")
    nothing = np.zeros((3, 2, 3), bool)
    blend = Condition(
        np.zeros((3, 4, 6, 3), np.float32), nothing, partner=1, share_t=np.ones(3, np.float32)
    )
    config = SamplerConfig("euler", 3, GuidanceConfig(2.0))
    sample_latents(self_conditioned_model(), [request, other], config, None, [blend, None])
    assert len(told) == 3 and not told[0].any() and told[-1][0, :18].std() > 0.1
    for said in told:
        np.testing.assert_allclose(said[0, :18], said[0, 18:36], atol=1e-5)
