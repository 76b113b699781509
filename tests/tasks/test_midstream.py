"""Training and sampling see one kind of mid-stream clip: the same latents, the same rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate.test_media import noise
from tests.generate.tiny_generator import TASK, make_model
from tests.tasks.packed_clips import pack_all, some_clips
from tests.tasks.tiny_models import P, make_task
from vidsim.core.batch import REFERENCE_TIME
from vidsim.core.patching import patchify
from vidsim.data.geometry import GeometryConfig
from vidsim.data.index import ClipIndex, build_index
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.diffusion.masks import KINDS, MaskConfig
from vidsim.generate.conditions import Condition, place
from vidsim.generate.extend import head_latents, tail_latents
from vidsim.generate.pack import Request, build_batch, row_spans
from vidsim.generate.write import write_media
from vidsim.store.shards import LatentCache
from vidsim.tasks.encoding import EncodeConfig, plan_cache, write_cache
from vidsim.tasks.midstream import drop_heads

ONLY = dict.fromkeys(KINDS, 0.0)
# Latents are stored as float32; the encoder's sums depend on the canvas by rounding alone.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Two clips in a cache with mid-stream latents, and the batch that holds both."""
    folder = tmp_path_factory.mktemp("road")
    videos = [noise(9, 16, 24, 1), noise(9, 24, 16, 2)]
    for i, video in enumerate(videos):
        write_media(folder / f"clip{i}.mkv", video, 8)
        (folder / f"clip{i}.txt").write_text(f"clip {i}")
    build_index(str(folder), folder / "index.parquet")
    index, model = ClipIndex.open(folder / "index.parquet"), make_model()
    config = EncodeConfig(
        geometry=GeometryConfig(max_area=0, max_frames=9, max_tokens=91),
        max_text=64,
        dtype="float32",
        midstream=True,
    )
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3}
    plan = plan_cache(index, model.vae.vae, "hash", facts, folder / "cache", config)
    write_cache(plan, index, model.vae.vae, model.vae.params, config)
    cache = LatentCache.open(folder / "cache")
    rows = PlanConfig(
        row_tokens=64, row_text=64, row_segments=2, rows_per_step=1, group_rows=1, pool_rows=1
    )
    made = make_plan(cache, rows, 0)
    batch = packed_batches(cache, made, 1)[0]
    by_height = {v.shape[1]: v for v in videos}
    owner = [by_height[int(h)] for h in batch["size"][0, :, 0]]
    return {k: jnp.asarray(v) for k, v in batch.items()}, owner


def task_of(**kinds):
    return dataclasses.replace(
        TASK, cfg=dataclasses.replace(TASK.cfg, masks=MaskConfig(**{**ONLY, **kinds}))
    )


@pytest.mark.parametrize("kind", ["suffix", "first_last", "join", "prefix"])
def test_masks_give_what_samplers_give(road, kind):
    """The tail given in training is `tail_latents` of its frames alone, the head `head_latents`."""
    batch, owner = road
    model = make_model()
    trained, condition_RN, _ = task_of(**{kind: 1.0})._draw_condition(batch, 0, 5)
    tails = 0
    for slot, video in enumerate(owner):
        mine = np.asarray(batch["patch_segment"][0]) == slot + 1
        t, h, w = np.asarray(batch["grid"][0, slot]).tolist()
        given = np.asarray(condition_RN)[0, mine].reshape(t, h * w)
        patches = np.asarray(trained["patches"])[0, mine].reshape(t, h * w, -1)
        assert given.any() and (given == given[:, :1]).all()
        k = int(np.argmax(~given[::-1, 0]))  # frames given at the end
        if k:
            sampled = tail_latents(model, video[-2 * k :], k)
            want = patchify(sampled, (1, 2, 2)).reshape(k, h * w, -1)
            np.testing.assert_allclose(patches[-k:], want, atol=ROUNDING)
            whole = np.asarray(batch["patches"])[0, mine].reshape(t, h * w, -1)
            assert np.abs(patches[-k:] - whole[-k:]).max() > 100 * ROUNDING, "not the same thing"
            tails += 1
        head = int(np.argmin(given[:, 0]))
        if head:
            sampled, _ = head_latents(model, video[: 1 + 2 * (head - 1)], head)
            want = patchify(sampled, (1, 2, 2)).reshape(head, h * w, -1)
            np.testing.assert_allclose(patches[:head], want, atol=ROUNDING)
    assert bool(tails) == (kind != "prefix")


def test_what_is_not_given_stays_as_it_was(road):
    batch, _ = road
    trained, condition_RN, _ = task_of(join=1.0)._draw_condition(batch, 0, 5)
    free = ~np.asarray(condition_RN)
    np.testing.assert_array_equal(
        np.asarray(trained["patches"])[free], np.asarray(batch["patches"])[free]
    )


def test_rows_without_heads_equal_rows_packed_without_them():
    clips = some_clips()
    layout = [[0, 1, 3], [4, 5], [6, 2]]
    batch = pack_all(clips, layout, P, N=40)
    gone = {1: 1, 3: 2, 4: 3, 5: 1}
    count = np.zeros(batch["clip_key"].shape, np.int32)
    for r, row in enumerate(layout):
        for s, i in enumerate(row):
            count[r, s] = gone.get(i, 0)
    made = jax.device_get(jax.jit(drop_heads)(batch, jnp.asarray(count)))
    for r, row in enumerate(layout):
        at = 0
        for s, i in enumerate(row, 1):
            clip, head = clips[i], gone.get(i, 0)
            t, h, w = clip.grid
            n = (t - head) * h * w
            span = slice(at, at + n)
            np.testing.assert_allclose(
                made["patches"][r, span], clip.patches(P)[head * h * w :], rtol=1e-6
            )
            assert (made["patch_segment"][r, span] == s).all()
            assert made["patch_position"][r, at].tolist() == [min(head, 1), 0, 0]
            assert made["grid"][r, s - 1].tolist() == [t - head, h, w]
            at += n
        assert (made["patch_segment"][r, at:] == 0).all() and not made["patches"][r, at:].any()


def test_a_reference_stays_in_front_of_what_follows_the_frames_left_out():
    clips, layout = some_clips(), [[0, 1, 4], [3, 2]]
    batch = pack_all(clips, layout, P, N=40)
    gone, kept = {4: 2, 3: 1}, {4}
    shape = batch["clip_key"].shape
    count, reference = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for r, row in enumerate(layout):
        for s, i in enumerate(row):
            count[r, s], reference[r, s] = gone.get(i, 0), i in kept
    made = jax.device_get(jax.jit(drop_heads)(batch, jnp.asarray(count), jnp.asarray(reference)))
    for r, row in enumerate(layout):
        at = 0
        for s, i in enumerate(row, 1):
            clip, lost = clips[i], gone.get(i, 0)
            t, h, w = clip.grid
            frames = [f for f in range(t) if f >= lost + (i in kept) or (f == 0 and i in kept)]
            times = [t if not lost else k + (i not in kept) for k, t in enumerate(frames)]
            if i in kept:
                times[0] = REFERENCE_TIME
            whole = clip.patches(P).reshape(t, h * w, P)
            for frame, time in zip(frames, times, strict=True):
                span = slice(at, at + h * w)
                np.testing.assert_allclose(made["patches"][r, span], whole[frame], rtol=1e-6)
                assert (made["patch_position"][r, span, 0] == time).all(), (i, frame)
                assert (made["patch_segment"][r, span] == s).all()
                at += h * w
            assert made["grid"][r, s - 1].tolist() == [len(frames), h, w]
        assert (made["patch_segment"][r, at:] == 0).all() and not made["patches"][r, at:].any()


def test_a_reference_is_given_whatever_else_is():
    clips = [dataclasses.replace(clip, grid=(7, 2, 1)) for clip in some_clips(count=4)]
    batch = pack_all(clips, [[0, 1], [2, 3]], P, N=32)
    for kinds in ({"none": 1.0}, {"prefix": 1.0}):
        task = task_of(**kinds, headless=1.0, reference=1.0)
        trained, condition_RN, _ = task._draw_condition(batch, 0, 5)
        time_RN = np.asarray(trained["patch_position"])[..., 0]
        shown = (time_RN == REFERENCE_TIME) & (np.asarray(trained["patch_segment"]) > 0)
        assert shown.sum() >= 2 and np.asarray(condition_RN)[shown].all()
        following = np.asarray(condition_RN) & ~shown
        assert following.any() == ("prefix" in kinds)
        assert (time_RN[following] >= 1).all(), "known frames stand right behind the reference"


def test_a_trained_window_with_a_reference_is_a_sampled_one():
    clips = [dataclasses.replace(some_clips()[1], grid=(6, 2, 3))]
    batch = pack_all(clips, [[0]], P, N=40)
    count, kept = jnp.asarray([[2, 0, 0, 0]]), jnp.asarray([[True, False, False, False]])
    trained = jax.device_get(drop_heads(batch, count, kept))
    grids, rows = [(4, 2, 3)], [[0]]
    limits = dataclasses.replace(make_model().limits, tokens=40)
    sampled = build_batch(
        [Request("x", 16, 24, 7)], grids, [np.array([1])], rows, limits, 1, 12
    )  # fmt: skip
    window = Condition(
        np.zeros((4, 4, 6, 3), np.float32), np.zeros((4, 2, 3), bool), reference=True
    )  # fmt: skip
    place([window], row_spans(rows, grids), grids, rows, sampled, (1, 2, 2))
    for name in ("patch_segment", "patch_position"):
        np.testing.assert_array_equal(trained[name][0], sampled[name][0])
    assert trained["grid"][0, 0].tolist() == sampled["grid"][0, 0].tolist()


@pytest.mark.parametrize("lost", [1, 2])
def test_a_trained_window_is_a_sampled_window(lost):
    """A clip that lost its first latents lies in its row as a sampler's mid-stream window does."""
    clips = [dataclasses.replace(some_clips()[1], grid=(3 + lost, 2, 3))]
    batch = pack_all(clips, [[0]], P, N=32)
    trained = jax.device_get(drop_heads(batch, jnp.asarray([[lost, 0, 0, 0]])))
    request = Request("x", 16, 24, 5)
    grids, rows = [(3, 2, 3)], [[0]]
    limits = dataclasses.replace(make_model().limits, tokens=32)
    sampled = build_batch([request], grids, [np.array([1])], rows, limits, 1, 12)
    window = Condition(np.zeros((3, 4, 6, 3), np.float32), np.zeros((3, 2, 3), bool), first=1)
    place([window], row_spans(rows, grids), grids, rows, sampled, (1, 2, 2))
    for name in ("patch_segment", "patch_position"):
        np.testing.assert_array_equal(trained[name][0], sampled[name][0])
    assert trained["grid"][0, 0].tolist() == sampled["grid"][0, 0].tolist()


@pytest.mark.slow
def test_training_on_windows_counts_every_clip_and_is_finite():
    clips = some_clips()
    batch = pack_all(clips, [[0, 1, 3], [4, 5], [6, 2]], P, N=40)
    task = make_task(masks=MaskConfig(headless=1.0))
    params = task.init(jax.random.key(0))
    step = jax.jit(lambda n: task.loss(params, batch, seed=0, step=n))
    whole = make_task(masks=MaskConfig())
    other = jax.jit(lambda n: whole.loss(params, batch, seed=0, step=n))
    losses = [float(step(n)[0]) for n in range(3)]
    assert np.isfinite(losses).all()
    assert all(abs(a - float(other(n)[0])) > 1e-6 for n, a in enumerate(losses))
