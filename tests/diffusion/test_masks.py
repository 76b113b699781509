"""Condition masks: the named kinds, their weights, and independence from packing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import diffusion_numpy as ref
from vidsim.core.errors import BadInput
from vidsim.core.keys import per_clip
from vidsim.diffusion.masks import (
    KINDS,
    FrameMask,
    MaskConfig,
    condition_tokens,
    draw_heads,
    draw_kinds,
    draw_masks,
    draw_references,
    ends,
)

KEY = jax.random.key(0)
CLIPS, MOST = 3000, 9
NOTHING = dict.fromkeys(KINDS, 0.0)


def _only(kind, **more):
    return MaskConfig(**{**NOTHING, kind: 1.0}, **more)


@functools.partial(jax.jit, static_argnums=0)
def _given(cfg, clip_key, count):
    """One-segment rows of one token a frame, MOST frames and padding behind the clip's end."""
    frame = jnp.broadcast_to(jnp.arange(MOST)[None], (CLIPS, MOST))
    segment = (frame < count).astype(jnp.int32)
    mask = draw_masks(cfg, KEY, clip_key, count)
    return condition_tokens(mask, KEY, clip_key, segment, frame, count)


def _frames_given(cfg, frames):
    """bool[CLIPS, frames]: what is given in each of many clips."""
    clip_key = jnp.arange(1, CLIPS + 1, dtype=jnp.uint32)[:, None]
    given = np.asarray(_given(cfg, clip_key, jnp.full((CLIPS, 1), frames, jnp.int32)))
    assert not given[:, frames:].any(), "padding is never given"
    return given[:, :frames]


@functools.partial(jax.jit, static_argnums=0)
def _kinds(cfg, frames):
    return draw_kinds(cfg, per_clip(KEY, jnp.arange(CLIPS, dtype=jnp.uint32)),
                      jnp.full((CLIPS,), frames))  # fmt: skip


def test_kinds_are_drawn_by_their_weights():
    cfg = MaskConfig(none=4, first=1, prefix=2, suffix=1, first_last=1, random=1)
    kinds = np.asarray(_kinds(cfg, 9))
    share = np.bincount(kinds, minlength=7) / CLIPS
    # five standard deviations of a share of n draws
    np.testing.assert_allclose(
        share, np.array([4, 1, 2, 1, 1, 1, 0]) / 10, atol=5 * 0.5 / CLIPS**0.5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_zero_is_never_drawn(kind):
    cfg = MaskConfig(**{**dict.fromkeys(KINDS, 0.3), kind: 0.0})
    assert KINDS.index(kind) not in np.asarray(_kinds(cfg, 9))
    assert set(np.asarray(_kinds(_only(kind), 9)).tolist()) == {KINDS.index(kind)}


def test_kinds_give_the_frames_they_name():
    first = _frames_given(_only("first"), 5)
    assert (first == np.array([True, False, False, False, False])).all()
    both = _frames_given(_only("first_last"), 5)
    assert (both == np.array([True, False, False, False, True])).all()
    assert not _frames_given(_only("none"), 5).any()


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_prefix_and_suffix_lengths_are_uniform(kind):
    given = _frames_given(_only(kind), 5)
    given = given if kind == "prefix" else given[:, ::-1]
    length = given.sum(1)
    assert (given == (np.arange(5)[None] < length[:, None])).all()
    share = np.bincount(length, minlength=6)[1:5] / CLIPS
    assert length.min() == 1 and length.max() == 4
    np.testing.assert_allclose(share, 0.25, atol=5 * 0.5 / CLIPS**0.5)


def test_join_gives_both_ends_of_every_length_and_leaves_a_gap():
    given = _frames_given(_only("join"), 5)
    head = np.argmin(given, 1)
    tail = np.argmin(given[:, ::-1], 1)
    assert head.min() == 1 and tail.min() == 1
    assert (given.sum(1) == head + tail).all(), "two runs, at the ends"
    pairs = {(int(h), int(t)) for h, t in zip(head, tail, strict=True)}
    assert pairs == {(h, t) for h in (1, 2, 3) for t in range(1, 5 - h)}


@pytest.mark.parametrize(
    ("frames", "fewest"), [(3, 1), (5, 1), (6, 1), (7, 2), (9, 2)], ids=lambda n: str(n)
)
def test_join_gives_as_many_as_asked_on_each_side_where_the_clip_is_long_enough(frames, fewest):
    cfg = dataclasses.replace(_only("join"), join_given=2)
    given = _frames_given(cfg, frames)
    head, tail = np.argmin(given, 1), np.argmin(given[:, ::-1], 1)
    assert (given.sum(1) == head + tail).all(), "two runs, at the ends"
    pairs = {(int(h), int(t)) for h, t in zip(head, tail, strict=True)}
    most = frames - 1 - fewest
    assert pairs == {(h, t) for h in range(fewest, most + 1) for t in range(fewest, frames - h)}


def test_heads_are_left_out_at_the_configured_share_and_two_frames_remain():
    clip_key = jnp.arange(1, CLIPS + 1, dtype=jnp.uint32)[:, None]
    cfg = MaskConfig(headless=0.4)
    for frames in (1, 2, 3, 6):
        count = np.asarray(draw_heads(cfg, KEY, clip_key, jnp.full((CLIPS, 1), frames)))
        assert count.min() == 0 and count.max() == max(frames - 2, 0)
        if frames > 2:
            # five standard deviations of a share of n draws
            assert abs((count > 0).mean() - 0.4) < 5 * 0.5 / CLIPS**0.5
            seen = np.bincount(count[count > 0], minlength=frames - 1)[1:] / (count > 0).sum()
            np.testing.assert_allclose(seen, 1 / (frames - 2), atol=5 * 0.8 / CLIPS**0.5)
    nobody = draw_heads(MaskConfig(), KEY, clip_key, jnp.full((CLIPS, 1), 6))
    assert not np.asarray(nobody).any()


def test_references_are_kept_at_the_configured_share_where_two_frames_follow_what_is_left_out():
    clip_key = jnp.arange(1, CLIPS + 1, dtype=jnp.uint32)[:, None]
    cfg = MaskConfig(headless=0.8, reference=0.5)
    frames = jnp.full((CLIPS, 1), 6)
    gone = draw_heads(cfg, jax.random.fold_in(KEY, 1), clip_key, frames)
    kept = np.asarray(draw_references(cfg, KEY, clip_key, frames, gone))[:, 0]
    left_out = np.asarray(gone)[:, 0]
    assert not kept[left_out == 0].any() and not kept[left_out == 4].any()
    assert (6 - 1 - left_out[kept] >= 2).all()
    some = (left_out > 0) & (left_out < 4)
    # five standard deviations of a share of n draws
    assert abs(kept[some].mean() - 0.5) < 5 * 0.5 / some.sum() ** 0.5
    assert not np.asarray(
        draw_references(MaskConfig(headless=0.8), KEY, clip_key, frames, gone)
    ).any()


def test_random_gives_any_subset_but_never_all_or_nothing():
    given = _frames_given(_only("random"), 3)
    subsets = {tuple(row) for row in given}
    assert len(subsets) == 2**3 - 2, "every subset except none and all"
    rate = given.mean(0)
    np.testing.assert_allclose(rate, rate.mean(), atol=5 * 0.5 / CLIPS**0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_some_frame_always_stays_noisy(kind, frames):
    given = _frames_given(_only(kind), frames)
    assert not given.all(1).any()
    if frames == 1:
        assert not given.any(), "an image is never a condition"
    if kind not in ("none",) and frames >= 3:
        assert given.any(1).all()


@pytest.mark.parametrize("head,tail,given", [(0, 0, -1), (2, 0, -1), (0, 3, -1), (1, 1, 3)])
def test_fixed_masks_equal_the_slow_sets(head, tail, given):
    frames, tokens_a_frame = 6, 4
    frame = jnp.repeat(jnp.arange(frames), tokens_a_frame)[None]
    one = jnp.ones((1, 1), jnp.int32)
    mask = ends(one * head, one * tail)._replace(given=one * given)
    made = condition_tokens(
        mask, KEY, one.astype(jnp.uint32), jnp.ones_like(frame), frame, one * frames
    )
    chosen = ref.given_frames(head, tail, given, frames)
    want = [f in chosen for f in range(frames) for _ in range(tokens_a_frame)]
    np.testing.assert_array_equal(np.asarray(made)[0], want)


@functools.partial(jax.jit, static_argnums=0)
def _packed(cfg, clip_key, segment, frame, count):
    mask = draw_masks(cfg, KEY, clip_key, count)
    return condition_tokens(mask, KEY, clip_key, segment, frame, count)


def test_all_tokens_of_a_frame_go_together_and_packing_changes_nothing():
    cfg = MaskConfig()
    rng = np.random.default_rng(0)
    frames = rng.integers(1, 7, 12)
    keys = np.arange(100, 112, dtype=np.uint32)

    def draw(clips, slots, length):
        segment, frame = np.zeros((1, length), np.int32), np.zeros((1, length), np.int32)
        clip_key, count = np.zeros((1, slots), np.uint32), np.zeros((1, slots), np.int32)
        at = 0
        for slot, clip in enumerate(clips):
            n = frames[clip] * 3
            segment[0, at : at + n] = slot + 1
            frame[0, at : at + n] = np.repeat(np.arange(frames[clip]), 3)
            clip_key[0, slot], count[0, slot] = keys[clip], frames[clip]
            at += n
        return np.asarray(_packed(cfg, clip_key, segment, frame, count)), segment

    together, segment = draw(list(range(12))[::-1], 14, 12 * 18 + 5)
    for slot, clip in enumerate(list(range(12))[::-1]):
        alone, _ = draw([clip], 1, 18)
        mine = together[segment == slot + 1]
        np.testing.assert_array_equal(mine, alone[0, : frames[clip] * 3])
        by_frame = mine.reshape(-1, 3)
        assert (by_frame == by_frame[:, :1]).all()
    assert not together[segment == 0].any(), "padding is never given"


def test_kinds_too_long_for_a_clip_become_none():
    assert (np.asarray(_kinds(_only("first_last"), 2)) == 0).all()
    assert (np.asarray(_kinds(_only("join"), 2)) == 0).all()
    assert (np.asarray(_kinds(_only("first_last"), 3)) > 0).all()


def test_mask_is_a_plain_tree_of_arrays():
    mask = ends(jnp.ones((2, 3), jnp.int32), jnp.zeros((2, 3), jnp.int32))
    assert isinstance(jax.tree.map(lambda a: a, mask), FrameMask)


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="MaskConfig.prefix: -1"):
        MaskConfig(prefix=-1)
    with pytest.raises(BadInput, match="MaskConfig: all weights are 0"):
        MaskConfig(**NOTHING)
    with pytest.raises(BadInput, match="MaskConfig.headless: 1.5"):
        MaskConfig(headless=1.5)
    with pytest.raises(BadInput, match="MaskConfig.reference: -0.1"):
        MaskConfig(reference=-0.1)
    with pytest.raises(BadInput, match="MaskConfig.noise: 1.0"):
        MaskConfig(noise=1.0)
    with pytest.raises(BadInput, match="1 frame or more"):
        MaskConfig(join_given=0)
