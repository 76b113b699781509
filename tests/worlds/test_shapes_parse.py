"""The reader of shapes clips: its error floor, and laws that hold whatever it is shown."""

import dataclasses

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.worlds import base
from vidsim.worlds.shapes import floor, motion, parse, read_background, read_motion, render, score
from vidsim.worlds.shapes import vocabulary as v

SQUARE, TALL = (64, 64), (80, 48)
MIRROR = {"left": "right", "right": "left", "up-left": "up-right", "up-right": "up-left",
          "down-left": "down-right", "down-right": "down-left"}  # fmt: skip


@pytest.fixture(scope="module")
def clips():
    world = base.make("shapes", split="all", seed=21, size=30, mix="small", objects=1, frames=(9,))
    return [world.clip(i) for i in range(30)]


def check(found, wanted):
    for name, least in wanted.items():
        value, n = found[name]
        assert value >= least, f"{name} {value:.3f} < {least} (n={n})"


@pytest.mark.parametrize("size", [(48, 48), TALL, (96, 96)])
def test_floor_on_single_objects(size):
    found = floor.measure_floor(40, seed=1, objects=1, size=size, frames=(1, 5, 9))
    # n = 40: one clip is 0.025
    check(found, {"background": 0.99, "background_colour": 0.99, "colour": 0.99, "count": 0.97,
                  "shape": 0.95, "direction": 0.95, "size": 0.92, "style": 0.9})  # fmt: skip


def test_floor_on_three_objects():
    found = floor.measure_floor(30, seed=2, objects=3, size=SQUARE, frames=(1, 5))
    check(found, {"background": 0.97, "background_colour": 0.97, "colour": 0.97, "count": 0.93,
                  "shape": 0.9, "direction": 0.9, "relation": 0.93})  # fmt: skip


def test_floor_under_blur_and_noise():
    found = floor.measure_floor(
        30, seed=3, objects=1, size=SQUARE, frames=(1, 5), degrade=floor.blur_and_noise
    )
    check(found, {"background": 0.97, "background_colour": 0.97, "colour": 0.97, "count": 0.93})


@pytest.mark.slow
@pytest.mark.parametrize("size", v.FRAME_SIZES)
def test_floor_on_single_objects_at_every_size(size):
    found = floor.measure_floor(150, seed=4, objects=1, size=size, frames=(1, 5, 9))
    check(found, {"background": 0.99, "background_colour": 0.99, "colour": 0.99, "count": 0.98,
                  "shape": 0.95, "direction": 0.95, "size": 0.95, "style": 0.9})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [(48, 48), (64, 112), (128, 128)])
def test_floor_on_three_objects_at_more_sizes(size):
    found = floor.measure_floor(100, seed=5, objects=3, size=size, frames=(1, 5, 17))
    check(found, {"background": 0.97, "background_colour": 0.97, "colour": 0.97, "count": 0.95,
                  "shape": 0.93, "direction": 0.93, "relation": 0.95})  # fmt: skip


def test_a_frozen_clip_is_still(clips):
    for clip in clips:
        frozen = np.repeat(clip.video_THWC[:1], 9, axis=0)
        assert [thing.direction for thing in parse.parse(frozen).objects] == [v.STILL]


def test_one_frame_has_no_motion(clips):
    reading = parse.parse(clips[0].video_THWC[:1])
    assert reading.num_frames == 1 and reading.objects[0].direction is None


def test_a_mirrored_clip_moves_the_other_way(clips):
    for clip in clips:
        plain, mirrored = (
            parse.parse(np.ascontiguousarray(video))
            for video in (clip.video_THWC, clip.video_THWC[:, :, ::-1])
        )
        for a, b in zip(plain.objects, mirrored.objects, strict=True):
            assert (a.colour, a.shape) == (b.colour, b.shape)
            assert MIRROR.get(a.direction, a.direction) == b.direction
            np.testing.assert_allclose(
                a.track_T2[:, 1], plain.width - b.track_T2[:, 1], atol=0.5
            )  # pixels; shape fits on either side differ by less


def test_a_reversed_clip_moves_back(clips):
    for clip in clips:
        (truth,) = clip.truth["objects"]
        if truth["bounce"] or not truth["speed"]:
            continue
        forward = parse.parse(clip.video_THWC).objects[0].direction
        back = parse.parse(clip.video_THWC[::-1]).objects[0].direction
        np.testing.assert_allclose(v.DIRECTIONS[forward], -np.array(v.DIRECTIONS[back]), atol=1e-9)


def test_tracks_follow_the_true_centres(clips):
    for clip in clips:
        if clip.truth["objects"][0]["crosses"]:
            continue
        found = score.compare(parse.parse(clip.video_THWC), clip.truth)
        assert found["position_error"] < 0.02  # short sides: a pixel at 48


def test_colours_survive_a_change_of_light(clips):
    rng = np.random.default_rng(0)
    right = 0
    for clip in clips:
        gain, shift = rng.uniform(0.92, 1.08, 3), rng.uniform(-10, 10, 3)
        video = np.clip(np.rint(clip.video_THWC * gain + shift), 0, 255).astype(np.uint8)
        found = score.compare(parse.parse(video), clip.truth)
        right += found["colour"] == 1 and found["background"] == 1
    assert right >= 29


def test_pictures_of_nothing_known_are_read_without_failing():
    rng = np.random.default_rng(0)
    strange = [
        np.zeros((3, 48, 48, 3), np.uint8),
        np.full((1, 64, 48, 3), 255, np.uint8),
        rng.integers(0, 256, (5, 48, 64, 3)).astype(np.uint8),
        np.broadcast_to(rng.integers(0, 256, (9, 1, 1, 3)), (9, 48, 48, 3)).astype(np.uint8),
        rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8),
    ]
    truth = base.make("shapes").info(0).truth
    for video in strange:
        reading = parse.parse(video)
        assert reading.pattern in v.PATTERNS and reading.tint in v.TINTS
        assert all(0 <= value <= 1 for name, value in score.compare(reading, truth).items()
                   if name != "position_error")  # fmt: skip


def test_an_empty_frame_has_no_objects():
    world = base.make("shapes", split="all", size=40)
    for i in range(40):
        truth = world.info(i).truth
        empty = world.render({**truth, "objects": []})
        reading = parse.parse(empty)
        assert reading.count == 0 and reading.objects == ()
        assert reading.pattern == truth["background"]["pattern"]


def test_two_pieces_of_one_colour_count_as_two():
    world = base.make("shapes", split="all")
    pins = {"colour": "red", "shape": "circle", "size": "small", "pattern": "plain"}
    truth = world.scene_for(0, height=64, width=64, num_frames=1, **pins).truth
    (thing,) = truth["objects"]
    pair = [{**thing, "start": [20.0, 20.0]}, {**thing, "start": [44.0, 44.0]}]
    reading = parse.parse(world.render({**truth, "objects": pair}))
    assert reading.count == 2 and [one.colour for one in reading.objects] == ["red"]


def test_other_arrays_are_refused():
    for array in (np.zeros((48, 48, 3), np.uint8), np.zeros((1, 48, 48, 3), np.float32)):
        with pytest.raises(BadInput, match="uint8"):
            parse.parse(array)


def perfect(truth):
    """The reading that a faultless reader would give."""
    objects = tuple(
        parse.ObjectReading(
            thing["colour"], thing["shape"], thing["size"], 0.05,
            motion.positions(thing, truth["num_frames"]), thing["direction"],
            float(np.hypot(*thing["velocity"])), thing["bounce"],
        )
        for thing in truth["objects"]
    )  # fmt: skip
    return parse.Reading(
        truth["num_frames"], truth["height"], truth["width"], truth["background"]["pattern"],
        truth["background"]["tint"], v.SUMMER, truth["style"], len(objects), objects,
    )  # fmt: skip


def test_a_perfect_reading_is_right_in_everything_in_any_order():
    world = base.make("shapes", split="all", size=60, objects=3)
    for i in range(60):
        truth = world.info(i).truth
        reading = perfect(truth)
        for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2)):
            shuffled = dataclasses.replace(
                reading, objects=tuple(reading.objects[k] for k in order)
            )
            found = score.compare(shuffled, truth)
            assert found.pop("position_error") < 1e-9
            assert set(found.values()) == {1.0}
            assert ("direction" in found) == (truth["num_frames"] > 1)
            assert "relation" in found


def test_a_missing_object_is_wrong_and_a_further_small_one_changes_the_count_only():
    truth = base.make("shapes", split="all", objects=3, frames=(9,)).info(1).truth
    reading = perfect(truth)
    fewer = score.compare(dataclasses.replace(reading, objects=reading.objects[:2]), truth)
    assert fewer["colour"] == pytest.approx(2 / 3) and fewer["shape"] == pytest.approx(2 / 3)
    other = dataclasses.replace(reading.objects[0], colour="none", shape="none")
    more = dataclasses.replace(reading, objects=(*reading.objects, other), count=4)
    found = score.compare(more, truth)
    assert found["count"] == 0 and found["colour"] == 1 and found["shape"] == 1


def test_chance_is_the_share_of_the_commonest_answer():
    world = base.make("shapes", split="all", size=4000)
    chance = world.chance()
    spread = 0.05  # shares of 1000 clips
    assert abs(chance["colour"] - 0.1) < spread and abs(chance["background"] - 1 / 9) < spread
    assert abs(chance["shape"] - 1 / 7) < spread and abs(chance["style"] - 1 / 4) < spread
    one = base.make("shapes", objects=1, size=50).info(0).truth
    assert set(score.chance([one]).values()) == {1.0}


@pytest.mark.parametrize("pattern", v.PERIODIC)
def test_folding_gains_equal_the_direct_sum(pattern):
    rng = np.random.default_rng(1)
    tone, weight = rng.normal(0, 1, (40, 56)), rng.integers(0, 2, (40, 56)).astype(float)
    centred = tone - (weight * tone).sum() / weight.sum()
    gains = read_background._folded_gains(centred, weight, 16)
    ((gain, (dy, dx)),) = [(g, s) for p, g, s in gains if p == pattern]
    direct = {
        (y, x): read_background._gain(
            centred, weight, render.pattern_tone(pattern, 40, 56, 16, (y, x))
        )
        for y in range(16)
        for x in range(16)
    }
    assert gain == pytest.approx(max(direct.values()), rel=1e-4)
    assert direct[dy, dx] == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize("direction", list(v.DIRECTIONS))
@pytest.mark.parametrize("turn", [None, 6])
def test_motion_of_a_made_up_track(direction, turn):
    rng = np.random.default_rng(3)
    steps = np.arange(17.0)
    path = steps if turn is None else turn - np.abs(steps - turn)
    track = 30 + 1.5 * path[:, None] * np.array(v.DIRECTIONS[direction])
    track += rng.normal(0, 0.1, track.shape)
    track[3] = np.nan
    found = read_motion.read_motion(track, 64)
    assert found.direction == direction and found.bounce == (turn is not None)
    assert found.speed == pytest.approx(1.5, rel=0.05)


def test_an_object_beside_a_larger_one_that_nobody_asked_for_is_not_credited():
    """Else a picture with something of everything would have every attribute right."""
    pairs = base.from_spec("shapes?split=train&seed=4&objects=2&sizes=96x96&frames=1")
    seen = 0
    for i in range(24):
        truth = pairs.info(i).truth
        large, small = sorted(truth["objects"], key=lambda o: -o["half_extent"])
        reading = parse.parse(pairs.render(truth))
        if len(reading.objects) < 2 or large["half_extent"] < 1.6 * small["half_extent"]:
            continue
        seen += 1
        asked = {name: score.compare(reading, {**truth, "objects": [one], "relation": None})
                 for name, one in (("large", large), ("small", small))}  # fmt: skip
        assert asked["large"]["colour"] == 1 and asked["large"]["count"] == 0
        assert asked["small"]["colour"] == 0
    assert seen >= 3
