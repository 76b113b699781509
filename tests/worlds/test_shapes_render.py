"""Pixels of the shapes world against a slow supersampled drawing, and against each other."""

import numpy as np
import pytest

from tests.reference import shapes_supersampled as reference
from vidsim.worlds import base
from vidsim.worlds.shapes import motion, render
from vidsim.worlds.shapes import vocabulary as v

# Where an edge is curved or slanted, or two edges meet in a pixel, the renderer approximates: by up
# to 0.06 along a slanted edge, most where two slanted edges meet.
WORST_PIXEL, WORST_MEAN, WORST_AREA = 0.2, 0.04, 0.02


@pytest.mark.parametrize("shape", v.SHAPES)
@pytest.mark.parametrize("e", [5.3, 11.0, 23.7])
def test_coverage_is_the_share_of_points_inside(shape, e):
    rng = np.random.default_rng(int(e))
    side = int(3 * e) + 4
    for _ in range(3):
        centre = side / 2 + rng.uniform(-0.5, 0.5, 2)
        y = (np.arange(side) + 0.5 - centre[0])[:, None]
        x = (np.arange(side) + 0.5 - centre[1])[None]
        drawn = render.coverage(shape, y, x, e)
        expected = reference.coverage(shape, e, centre, side, side)
        rim = (expected > 0) & (expected < 1)
        assert np.abs(drawn - expected).max() < WORST_PIXEL
        assert np.abs(drawn - expected)[rim].mean() < WORST_MEAN
        assert abs(drawn.sum() / expected.sum() - 1) < WORST_AREA
        # the centre of mass is the centre that motion and tracks speak of
        assert abs((drawn * y).sum()) / drawn.sum() < 0.1
        assert abs((drawn * x).sum()) / drawn.sum() < 0.1


@pytest.mark.parametrize("ramp", [2.0, 4.0])
def test_a_wider_ramp_blurs_without_moving_the_edge(ramp):
    x = np.linspace(-20, 20, 401)
    sharp = render.coverage("square", np.zeros(1), x, 9.0)
    soft = render.coverage("square", np.zeros(1), x, 9.0, ramp=ramp)
    # both cross one half at +-9; the soft edge takes `ramp` pixels from 0 to 1
    np.testing.assert_allclose(np.interp(9.0, x, soft), 0.5, atol=1e-6)
    np.testing.assert_allclose(np.interp(9.0, x, sharp), 0.5, atol=1e-6)
    wide = np.ptp(x[(soft > 0) & (soft < 1) & (x > 0)])
    assert abs(wide - ramp) < 0.25


def test_a_frame_is_background_and_objects_by_their_coverage():
    world = base.make("shapes", split="all", size=200, sizes=((48, 64),), frames=(1, 5))
    pins = {"style": "flat", "pattern": "plain"}
    for i in range(12):
        truth = world.scene_for(i, height=48, width=80, num_frames=5, objects=2, **pins).truth
        video = world.render(truth)
        tint = np.rint(v.TINTS[truth["background"]["tint"]])
        for t in (0, 4):
            frame = np.broadcast_to(tint, (48, 80, 3)).astype(float)
            for thing in truth["objects"]:
                place = motion.positions(thing, 5)[t]
                share = reference.coverage(thing["shape"], thing["half_extent"], place, 48, 80)
                own = np.array(v.COLOURS[thing["colour"]], float)
                frame = frame + share[..., None] * (own - frame)
            error = np.abs(video[t] - frame)
            assert error.mean() < 0.5 and error.max() < WORST_PIXEL * 255


@pytest.mark.parametrize("pattern", v.PATTERNS)
def test_patterns_repeat_with_their_period_and_shift_with_their_phase(pattern):
    tone = render.pattern_tone(pattern, 64, 96, 16, (0, 0))
    assert tone.min() >= -1.001 and tone.max() <= 1.001
    if pattern not in v.PERIODIC:
        return
    assert np.ptp(tone) > 1.9
    np.testing.assert_array_equal(tone[16:, :], tone[:-16, :])
    np.testing.assert_array_equal(tone[:, 16:], tone[:, :-16])
    shifted = render.pattern_tone(pattern, 64, 96, 16, (5, 3))
    np.testing.assert_array_equal(shifted[:-5, :-3], tone[5:, 3:])


def test_every_background_has_its_tint_as_middle_tone():
    for pattern in v.PATTERNS:
        for tint, level in v.TINTS.items():
            ground = {"pattern": pattern, "tint": tint, "period": 16, "phase": [0, 0]}
            drawn = render.background(ground, 64, 96).reshape(-1, 3).astype(float)
            middle = (drawn.max(0) + drawn.min(0)) / 2
            np.testing.assert_allclose(middle, level, atol=0.03 * 255)


def test_drawing_does_not_depend_on_what_was_drawn_before():
    world = base.make("shapes", size=12, seed=4, mix="small")
    forward = [world.clip(i).video_THWC for i in range(12)]
    for i in (11, 3, 7, 3):
        np.testing.assert_array_equal(base.make("shapes", size=12, seed=4, mix="small").clip(i)
                                      .video_THWC, forward[i])  # fmt: skip


def test_a_clip_is_its_info_rendered():
    world = base.make("shapes", size=12, seed=4)
    for i in range(12):
        clip, info = world.clip(i), world.info(i)
        assert (clip.captions, clip.truth, clip.fps) == (info.captions, info.truth, info.fps)
        assert clip.video_THWC.shape == (info.num_frames, info.height, info.width, 3)
        assert clip.video_THWC.dtype == np.uint8


def test_a_frame_does_not_depend_on_the_other_frames():
    world = base.make("shapes", size=40, seed=4, mix="small", frames=(9,))
    for i in range(20):
        truth = world.info(i).truth
        short = {**truth, "num_frames": 5}
        np.testing.assert_array_equal(world.render(short), world.render(truth)[:5])


def test_boxes_hold_every_pixel_of_their_object_and_no_wide_margin():
    world = base.make("shapes", split="all", size=60, mix="small", objects=1)
    for i in range(60):
        truth = world.info(i).truth
        video = world.render(truth).astype(int)
        ground = render.background(truth["background"], truth["height"], truth["width"])
        changed = np.abs(video - ground).max(-1) > 40
        boxes = world.boxes(truth)
        assert boxes.shape == (truth["num_frames"], 1, 4)
        for mask, (y0, x0, y1, x1) in zip(changed, boxes[:, 0], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            # a changed pixel reaches at most one pixel over the box; the box is tight to 3 pixels
            assert y0 - 1 <= rows[0] <= y0 + 3 and y1 - 3 <= rows[-1] + 1 <= y1 + 1
            assert x0 - 1 <= columns[0] <= x0 + 3 and x1 - 3 <= columns[-1] + 1 <= x1 + 1
