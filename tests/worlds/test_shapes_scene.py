"""What the shapes world draws: deterministic, split by combination, inside its stated bounds."""

import collections
import itertools
import json
import math

import numpy as np
import pytest

from tests.reference import shapes_supersampled as reference
from vidsim.core.errors import BadInput
from vidsim.worlds import base
from vidsim.worlds.shapes import motion
from vidsim.worlds.shapes import vocabulary as v

MANY = 1500


@pytest.fixture(scope="module")
def infos():
    world = base.make("shapes", split="all", seed=11, size=MANY)
    return [world.info(i) for i in range(MANY)]


def things(infos):
    return [(info, thing) for info in infos for thing in info.truth["objects"]]


def test_a_clip_depends_on_its_number_alone():
    world, again = (base.make("shapes", seed=5, size=40) for _ in range(2))
    forward = [world.info(i) for i in range(40)]
    backward = [again.info(i) for i in reversed(range(40))][::-1]
    assert forward == backward
    assert base.make("shapes", seed=5, size=400).info(17) == forward[17]


def test_seeds_and_splits_are_different_streams():
    truths = [
        json.dumps([base.make("shapes", seed=s, split=p).info(i).truth for i in range(5)])
        for s, p in itertools.product((0, 1), base.SPLITS)
    ]
    assert len(set(truths)) == len(truths)


def test_indices_outside_the_world_are_refused():
    world = base.make("shapes", size=3)
    for i in (-1, 3):
        with pytest.raises(IndexError):
            world.info(i)


@pytest.mark.parametrize("frames", [65, 129])
def test_objects_of_long_clips_keep_moving_inside_the_frame(frames):
    world = base.make("shapes", split="all", seed=4, size=60, frames=(frames,), objects=1)
    moving, walls = 0, 0
    for info in (world.info(i) for i in range(60)):
        (thing,) = info.truth["objects"]
        track = motion.positions(thing, frames)
        assert (track >= 0).all() and (track <= [info.height, info.width]).all()
        if thing["speed"]:
            moving += 1
            walls += thing["bounce"]
            steps = np.hypot(*thing["velocity"]) * info.fps / min(info.height, info.width)
            low, high = v.SPEEDS[thing["speed"]]
            assert low - 1e-9 <= steps <= high + 1e-9, "the speed that the caption says"
    assert moving >= 0.6 * 60 and walls >= 10


def test_truth_is_plain_json(infos):
    for info in infos[:50]:
        assert json.loads(json.dumps(info.truth)) == info.truth


def test_a_fifth_of_the_combinations_is_held_out():
    combinations = list(itertools.product(v.COLOURS, v.SHAPES, v.PATTERNS))
    held = sum(v.held_out(*combination) for combination in combinations)
    spread = math.sqrt(0.2 * 0.8 / len(combinations))
    assert abs(held / len(combinations) - 0.2) < 3 * spread
    for k in range(3):  # no colour, shape or pattern is wholly in or out
        for word in {c[k] for c in combinations}:
            assert 0 < sum(v.held_out(*c) for c in combinations if c[k] == word) < 63


@pytest.mark.parametrize("objects", [None, 1, 3])
def test_splits_share_no_combination(objects):
    seen = {}
    for split, seed in (("train", 0), ("heldout", 0), ("heldout", 9)):
        world = base.make("shapes", split=split, seed=seed, size=600, objects=objects)
        seen[split, seed] = {
            (thing["colour"], thing["shape"], world.info(i).truth["background"]["pattern"])
            for i in range(600)
            for thing in world.info(i).truth["objects"]
        }
    assert not seen["train", 0] & seen["heldout", 0]
    assert not seen["train", 0] & seen["heldout", 9]
    assert len(seen["heldout", 0]) > 90  # of about 126: the split is not a corner of the space


def test_prompts_stay_in_their_split_and_keep_their_looks_at_every_size():
    world = base.make("shapes", split="heldout", seed=2)
    for i in range(60):
        looks = set()
        for height, width in ((48, 48), (96, 144), (128, 128)):
            truth = world.scene_for(i, height=height, width=width, num_frames=9).truth
            (thing,) = truth["objects"]
            ground = truth["background"]
            assert v.held_out(thing["colour"], thing["shape"], ground["pattern"])
            look = (thing["colour"], thing["shape"], ground["pattern"], ground["tint"])
            looks.add((*look, truth["style"]))
        assert len(looks) == 1


def test_pins_are_kept():
    world = base.make("shapes", split="heldout")
    pins = {"colour": "red", "shape": "star", "pattern": "dots", "tint": "moss", "size": "large",
            "direction": "up-left", "speed": "fast", "style": "banded"}  # fmt: skip
    for i in range(20):
        truth = world.scene_for(i, height=64, width=96, num_frames=17, objects=2, **pins).truth
        first = truth["objects"][0]
        told = {**first, **truth["background"], "style": truth["style"]}
        assert {name: told[name] for name in pins} == pins


def test_sizes_and_durations_cover_the_promised_range(infos):
    sizes = {(info.height, info.width) for info in infos}
    assert len(sizes) >= 9
    assert all(h % 16 == 0 and w % 16 == 0 and min(h, w) >= 48 for h, w in sizes)
    assert max(min(size) for size in sizes) >= 128
    for test in (lambda h, w: h < w, lambda h, w: h == w, lambda h, w: h > w):
        assert any(test(h, w) for h, w in sizes)
    assert {info.num_frames for info in infos} == {1, 5, 9, 17, 33}
    assert len({info.fps for info in infos if info.num_frames > 1}) >= 3
    assert {len(info.truth["objects"]) for info in infos} == {1, 2, 3}


def test_weights_are_followed():
    options = {"frames": (1, 9), "frame_weights": (1.0, 3.0)}
    world = base.make("shapes", sizes=((48, 48), (64, 64)), **options)
    counts = collections.Counter(world.info(i).num_frames for i in range(1200))
    # 3 standard deviations of a binomial share of 3/4
    assert abs(counts[9] / 1200 - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 1200)
    assert set(counts) == {1, 9}


def test_every_word_of_the_vocabulary_is_drawn(infos):
    drawn = collections.defaultdict(set)
    for info, thing in things(infos):
        for name in ("shape", "colour", "size", "direction", "speed"):
            drawn[name].add(thing[name])
        drawn["pattern"].add(info.truth["background"]["pattern"])
        drawn["tint"].add(info.truth["background"]["tint"])
        drawn["style"].add(info.truth["style"])
        drawn["relation"].add(info.truth["relation"])
    assert drawn["shape"] == set(v.SHAPES) and len(v.SHAPES) >= 6
    assert drawn["colour"] == set(v.COLOURS) and len(v.COLOURS) >= 10
    assert drawn["pattern"] == set(v.PATTERNS) and len(v.PATTERNS) >= 8
    assert drawn["tint"] == set(v.TINTS) and drawn["style"] == set(v.STYLES)
    assert len(v.STYLES) == 4 and len(v.DIRECTIONS) == 8
    assert drawn["direction"] == {None, v.STILL, *v.DIRECTIONS}
    assert drawn["relation"] == {None, *v.RELATIONS} and drawn["size"] == set(v.SIZES)


def test_object_colours_are_far_from_each_other_and_from_every_background():
    colours = np.array(list(v.COLOURS.values()), float)
    grounds = np.array([
        np.array(tint) * (1 + v.CONTRAST * tone) for tint in v.TINTS.values() for tone in (-1, 0, 1)
    ])  # fmt: skip
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert apart[~np.eye(len(colours), dtype=bool)].min() > 90  # levels of 441 between the corners
    assert np.linalg.norm(colours[:, None] - grounds[None], axis=-1).min() > 80


def test_colours_in_a_scene_are_distinct(infos):
    for info in infos:
        colours = [thing["colour"] for thing in info.truth["objects"]]
        assert len(set(colours)) == len(colours)


def test_objects_cover_at_least_four_percent(infos):
    for info, thing in things(infos)[:300]:
        e, shape = thing["half_extent"], thing["shape"]
        side = math.ceil(3 * e)
        area = reference.coverage(shape, e, (side / 2, side / 2), side, side).sum()
        share = area / (info.height * info.width)
        low, high = v.SIZES[thing["size"]]
        assert low * 0.98 < share < high * 1.02  # sampling error of the reference
    assert min(low for low, _ in v.SIZES.values()) == 0.04


def test_motion_equals_a_simulation_with_elastic_walls(infos):
    checked = 0
    for info, thing in things(infos):
        if not thing["bounce"] or checked == 25:
            continue
        path = reference.simulate(thing["start"], thing["velocity"], thing["wall"], info.num_frames)
        np.testing.assert_allclose(motion.positions(thing, info.num_frames), path, atol=1e-6)
        checked += 1
    assert checked == 25


def test_motion_words_agree_with_the_path(infos):
    for info, thing in things(infos):
        path = motion.positions(thing, info.num_frames)
        steps = np.diff(path, axis=0)
        if thing["speed"] is None:
            assert thing["direction"] == (v.STILL if info.num_frames > 1 else None)
            assert not np.any(steps)
            continue
        unit = np.array(v.DIRECTIONS[thing["direction"]])
        pace = np.hypot(*steps[0])
        np.testing.assert_allclose(steps[0], pace * unit, atol=1e-9)
        low, high = v.SPEEDS[thing["speed"]]
        assert low <= pace * info.fps / min(info.height, info.width) <= high
        turned = np.any(steps @ unit < pace * (1 - 1e-9))
        assert turned == thing["bounce"]


def test_centres_stay_in_the_frame_and_some_objects_cross_its_border(infos):
    crossing = 0
    for info, thing in things(infos):
        y, x = motion.positions(thing, info.num_frames).T
        assert y.min() >= 0 and x.min() >= 0 and y.max() <= info.height and x.max() <= info.width
        e, shape = thing["half_extent"], thing["shape"]
        outside = (
            (y - v.UP[shape] * e).min() < -1e-6 or (x - e).min() < -1e-6
            or (y + v.DOWN[shape] * e).max() > info.height + 1e-6
            or (x + e).max() > info.width + 1e-6
        )  # fmt: skip
        assert outside == thing["crosses"]
        crossing += outside
    assert 0.05 < crossing / len(things(infos)) < 0.3


def test_objects_hide_little_of_each_other_and_relations_are_true(infos):
    for info in infos:
        truth = info.truth
        if len(truth["objects"]) == 1:
            assert truth["relation"] is None
            continue
        (y0, x0), (y1, x1) = (thing["start"] for thing in truth["objects"][:2])
        told = {"left of": x0 - x1, "right of": x1 - x0, "above": y0 - y1, "below": y1 - y0}
        assert min(told, key=told.get) == truth["relation"]
        for a, b in itertools.combinations(truth["objects"], 2):
            for t in (0, info.num_frames - 1):
                away = np.hypot(*(motion.positions(a, t + 1)[t] - motion.positions(b, t + 1)[t]))
                assert away > 0.79 * (a["half_extent"] + b["half_extent"])


def test_close_ups_fill_an_image_and_their_shape_is_read():
    world = base.make("shapes", split="train", seed=3, size=84, objects=1, close=1.0)
    images = [world.clip(i) for i in range(84) if world.info(i).num_frames == 1]
    assert len(images) > 15
    found = [world.compare(world.parse(clip.video_THWC), clip.truth) for clip in images]
    for name in ("shape", "colour", "style"):
        assert np.mean([one[name] for one in found]) >= 0.9
    for clip in images:
        (thing,) = clip.truth["objects"]
        e, short = thing["half_extent"], min(clip.video_THWC.shape[1:3])
        assert v.CLOSE_EXTENT[0] <= e / short <= v.CLOSE_EXTENT[1] and not thing["crosses"]
        y, x = thing["start"]
        up, down = v.UP[thing["shape"]] * e, v.DOWN[thing["shape"]] * e
        height, width = clip.video_THWC.shape[1:3]
        assert up <= y <= height - down and e <= x <= width - e, "whole in view"
        assert "huge" in clip.captions[1].text


def test_close_ups_are_a_share_of_the_short_clips_of_one_object_alone():
    def sizes(**options):
        world = base.make("shapes", seed=4, size=600, **options)
        infos = [world.info(i) for i in range(600)]
        return collections.Counter(
            (i.num_frames <= v.CLOSE_FRAMES, len(i.truth["objects"]) == 1, thing["size"] == v.CLOSE)
            for i in infos
            for thing in i.truth["objects"][:1]
        )

    some = sizes(close=0.5)
    near, far = some[True, True, True], some[True, True, False]
    assert 0.4 < near / (near + far) < 0.6
    assert not any(some[key] for key in some if key[2] and not (key[0] and key[1]))
    assert not any(key[2] for key in sizes())
    with pytest.raises(BadInput, match="close 1.5; a share from 0 to 1"):
        base.make("shapes", close=1.5)


def test_a_moving_close_up_stays_whole_in_view_and_goes_where_its_caption_says():
    world = base.make("shapes", seed=6, size=300, objects=1, close=1.0, frames=(5, 9),
                      sizes=((32, 32), (48, 48)))  # fmt: skip
    directions = collections.Counter()
    for i in range(300):
        info = world.info(i)
        (thing,) = info.truth["objects"]
        directions[thing["direction"]] += 1
        path_T2 = motion.positions(thing, info.num_frames)
        e = thing["half_extent"]
        low = np.array([v.UP[thing["shape"]] * e, e])
        high = np.array([info.height - v.DOWN[thing["shape"]] * e, info.width - e])
        assert (path_T2 >= low - 1e-6).all() and (path_T2 <= high + 1e-6).all()
        assert e >= v.CLOSE_EXTENT[0] * min(info.height, info.width) - 1e-6
        way = path_T2[-1] - path_T2[0]
        step = np.array(v.DIRECTIONS.get(thing["direction"], (0.0, 0.0)))
        np.testing.assert_allclose(way, np.hypot(*way) * step, atol=1e-6)
        assert (thing["direction"] == v.STILL) == (np.hypot(*way) == 0.0)
        if thing["direction"] != v.STILL:
            sides = np.hypot(*thing["velocity"]) * info.fps / min(info.height, info.width)
            low, high = v.SPEEDS[thing["speed"]]
            assert low - 1e-6 <= sides <= high + 1e-6
    assert set(directions) == {*v.DIRECTIONS, v.STILL}
    moving = [directions[name] for name in v.DIRECTIONS]
    assert min(moving) > 0.4 * max(moving)


def test_frames_under_48_pixels_are_close_ups_or_refused():
    small = ((32, 32), (64, 64))
    world = base.make("shapes", seed=7, size=200, objects=1, close=0.2, frames=(1, 9), sizes=small)
    infos = [world.info(i) for i in range(200)]
    near = {side: [i.truth["objects"][0]["size"] == v.CLOSE for i in infos if i.height == side]
            for side in (32, 64)}  # fmt: skip
    assert all(near[32]) and 0.0 < np.mean(near[64]) < 0.5
    for options in ({}, {"objects": 2}, {"close": 0.0}, {"frames": (1, 17)}):
        given = {"objects": 1, "close": 0.2, "frames": (1,)} | options if options else {}
        with pytest.raises(BadInput, match="frame size 32x32; multiples of 16, at least 48"):
            base.make("shapes", sizes=small, **given)


@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_a_world_of_one_speed_moves_in_every_video_and_only_there(speed):
    options = {"seed": 6, "size": 300, "objects": 1, "frames": (1, 9), "speed": speed}
    world = base.make("shapes", sizes=((32, 32), (64, 64)), close=0.5, **options)
    found = collections.Counter()
    for i in range(300):
        info = world.info(i)
        (thing,) = info.truth["objects"]
        found[info.num_frames, thing["size"] == v.CLOSE, thing["speed"]] += 1
        if info.num_frames > 1 and not thing["bounce"]:
            path_T2 = motion.positions(thing, info.num_frames)
            sides = np.hypot(*(path_T2[-1] - path_T2[0])) / 8 * info.fps
            low, high = v.SPEEDS[speed]
            assert low - 1e-6 <= sides / min(info.height, info.width) <= high + 1e-6
            if thing["size"] == v.CLOSE:
                assert thing["half_extent"] >= v.CLOSE_EXTENT[0] * min(info.height, info.width)
    assert {(n, s) for n, _, s in found} == {(1, None), (9, speed)}
    assert all(found[9, close, speed] > 20 for close in (True, False))
    assert f"speed={speed}" in world.spec and base.from_spec(world.spec) == world
    with pytest.raises(BadInput, match="speed 'quick'"):
        base.make("shapes", speed="quick")


def test_a_world_of_some_words_alone_draws_and_tells_these():
    diagonal, hollow = ("up-left", "down-right"), ("ring", "star")
    options = {"seed": 6, "size": 200, "objects": 1, "frames": (1, 9), "sizes": ((64, 64),)}
    world = base.make("shapes", close=0.5, shapes=hollow, directions=diagonal, **options)
    found = collections.Counter()
    for i in range(200):
        info = world.info(i)
        (thing,) = info.truth["objects"]
        found[thing["size"] == v.CLOSE, thing["direction"], thing["shape"]] += 1
        colour, pattern = thing["colour"], info.truth["background"]["pattern"]
        assert not v.held_out(colour, thing["shape"], pattern), "the split holds all the same"
        told = " ".join(caption.text for caption in info.captions)
        assert thing["shape"] in told and (thing["direction"] or thing["shape"]) in told
        if info.num_frames > 1 and not thing["bounce"]:
            path_T2 = motion.positions(thing, 9)
            away = (path_T2[-1] - path_T2[0]) / np.linalg.norm(path_T2[-1] - path_T2[0])
            np.testing.assert_allclose(away, v.DIRECTIONS[thing["direction"]], atol=1e-6)
    assert len(found) == 2 * 3 * 2 and min(found.values()) >= 5, "each, close up or not"
    assert {direction for _, direction, _ in found} == {None, *diagonal}
    assert base.from_spec(world.spec) == world
    assert "shapes=ring,star&directions=up-left,down-right" in world.spec
    for wrong in ({"shapes": ("rign",)}, {"directions": ("upleft",)}):
        with pytest.raises(BadInput, match="rign|upleft"):
            base.make("shapes", **wrong)
    for moving in ({"returns": 0.5}, {"speed": "slow"}):
        with pytest.raises(BadInput, match="none that is still"):
            base.make("shapes", directions=("still",), **moving)


def test_what_returns_turns_inside_the_frame_and_is_told_so():
    world = base.make("shapes", seed=8, size=300, objects=1, frames=(5, 17), returns=0.5)
    found = collections.Counter()
    for i in range(300):
        info = world.info(i)
        (thing,) = info.truth["objects"]
        returns = "returns" in thing
        found[info.num_frames, returns] += 1
        assert all((" and back" in c.text) == returns for c in info.captions)
        if not returns:
            continue
        path_T2 = motion.positions(thing, info.num_frames)
        walled = reference.simulate(thing["start"], thing["velocity"], thing["wall"], 17)
        np.testing.assert_allclose(path_T2, walled, atol=1e-6)
        e = thing["half_extent"]
        reach = np.array([v.UP[thing["shape"]] * e, e]), np.array([v.DOWN[thing["shape"]] * e, e])
        assert (path_T2 >= reach[0] - 1e-6).all(), "it never meets the frame's border"
        assert (path_T2 <= np.array([info.height, info.width]) - reach[1] + 1e-6).all()
        along = (path_T2 - path_T2[0]) @ np.array(v.DIRECTIONS[thing["direction"]])
        assert along.min() >= -1e-6 and along.argmax() < 16, "its start is an end of its way"
        assert along[1] > 0 and along[-1] < along.max()
    assert set(found) == {(5, False), (17, False), (17, True)}
    assert 0.4 < found[17, True] / (found[17, True] + found[17, False]) < 0.6
    assert base.from_spec(world.spec) == world and "returns=0.5" in world.spec


def test_what_turns_at_a_third_comes_back_in_the_middle_third():
    world = base.make("shapes", seed=8, size=200, objects=1, frames=(25,), speed="fast",
                      returns=1.0, turn="third", sizes=((64, 64),))  # fmt: skip
    ends = []  # frames at which the way turns
    for i in range(200):
        (thing,) = world.info(i).truth["objects"]
        path_T2 = motion.positions(thing, 25)
        along = (path_T2 - path_T2[0]) @ np.array(v.DIRECTIONS[thing["direction"]])
        ends.append((1 + np.flatnonzero(np.diff(np.sign(np.diff(along)))))[:2])
    first, second = np.median(ends, axis=0)
    assert np.max(ends, axis=0)[0] <= 9, "sooner where the frame has no room, never later"
    assert 8 <= first <= 9 and 16 <= second <= 18
    assert base.from_spec(world.spec) == world and "turn=third" in world.spec
    with pytest.raises(BadInput, match="turn 'thrid'.*third"):
        base.make("shapes", turn="thrid")


def test_what_is_closed_ends_where_it_began_and_begins_anywhere_on_its_way():
    world = base.make("shapes", seed=8, size=300, objects=1, frames=(17, 33), speed="fast",
                      returns=1.0, turn="closed", sizes=((64, 64), (48, 48)))  # fmt: skip
    turns, first_ways, begun = collections.Counter(), [], []
    for i in range(300):
        info = world.info(i)
        (thing,) = info.truth["objects"]
        assert all(" and back" in c.text for c in info.captions)
        path_T2 = motion.positions(thing, info.num_frames)
        walled = reference.simulate(
            thing["start"], thing["velocity"], thing["wall"], info.num_frames
        )
        np.testing.assert_allclose(path_T2, walled, atol=1e-6)
        np.testing.assert_allclose(path_T2[-1], path_T2[0], atol=1e-6)
        unit = np.array(v.DIRECTIONS[thing["direction"]])
        along = path_T2 @ unit
        np.testing.assert_allclose(
            path_T2 - path_T2[0], np.outer(along - along[0], unit), atol=1e-6
        )
        pace = np.hypot(*thing["velocity"]) * info.fps / min(info.height, info.width)
        assert v.SPEEDS["fast"][0] <= pace <= v.SPEEDS["fast"][1]
        way = np.ptp(along)
        ways = pace * min(info.height, info.width) / info.fps * (info.num_frames - 1) / way
        turns[round(ways / 2)] += 1  # frames see a little less than the whole way
        first_ways.append(along[1] > along[0])
        begun.append((along[0] - along.min()) / way)
    assert min(turns) == 1 and turns[1] > 30 and turns[2] > 30
    assert 0.4 < np.mean(first_ways) < 0.6, "either way first"
    assert 0.15 < np.std(begun) < 0.35 and 0.4 < np.mean(begun) < 0.6
    assert base.from_spec(world.spec) == world and "turn=closed" in world.spec


def test_a_turn_needs_time_and_motion():
    world = base.make("shapes", seed=8)
    size = {"height": 64, "width": 64}
    thing = world.scene_for(0, **size, num_frames=9, turn=v.BACK).truth["objects"][0]
    assert thing["returns"] and thing["speed"]
    with pytest.raises(BadInput, match="a turn, 5 frames"):
        world.scene_for(0, **size, num_frames=5, turn=v.BACK)
    with pytest.raises(BadInput, match="direction still"):
        world.scene_for(0, **size, num_frames=9, turn=v.BACK, direction=v.STILL)
    with pytest.raises(BadInput, match="a share from 0 to 1"):
        base.make("shapes", returns=1.5)
