"""Winter: what it changes in a picture, in its words, for its reader; requests to change things."""

import re

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.worlds import base
from vidsim.worlds.shapes import floor
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.caption import CHANGES, request

OBJECTS = {name: level for name, level in v.COLOURS.items() if name not in v.LOST_IN_FROST}


def clips(count, **options):
    world = base.make("shapes", split="all", seed=11, size=count, objects=1, **options)
    return world, [world.clip(i) for i in range(count)]


def winter(truth):
    return {**truth, "background": {**truth["background"], "season": v.WINTER}}


def test_winter_is_frost_on_the_background_and_leaves_the_object_alone():
    world, drawn = clips(30, mix="small")
    for clip in drawn:
        thing = clip.truth["objects"][0]
        inside = np.abs(clip.video_THWC - np.array(v.COLOURS[thing["colour"]], float)).max(-1) == 0
        frozen = world.render(winter(clip.truth))
        np.testing.assert_array_equal(frozen[inside], clip.video_THWC[inside])
        tint = np.array(v.TINTS[clip.truth["background"]["tint"]], float)
        still = (1 - v.FROST_SHARE) * tint + v.FROST_SHARE * np.array(v.FROST, float)
        ground = frozen[0, [0, -1], :].reshape(-1, 3).astype(float)
        tones = ground @ still / (still @ still) - 1  # along the line of its tones
        off = np.linalg.norm(ground - (1 + tones[:, None]) * still, axis=-1)
        assert np.median(off) < 2 and abs(np.median(tones)) <= v.CONTRAST + 0.01


def test_everything_drawn_in_winter_is_far_from_its_background():
    grounds = np.array([
        np.array(v.ground_colour(tint, v.WINTER)) * (1 + v.CONTRAST * tone)
        for tint in v.TINTS for tone in (-1, 0, 1)
    ])  # fmt: skip
    assert grounds.max() <= 255
    colours = np.array(list(OBJECTS.values()), float)
    assert np.linalg.norm(colours[:, None] - grounds[None], axis=-1).min() > 80


@pytest.mark.parametrize(("degrade", "colour", "shape"), [
    (None, 0.98, 0.96), (floor.blur_and_noise, 0.97, 0.85),
])  # fmt: skip
def test_a_reader_tells_the_seasons_and_reads_the_rest_in_both(degrade, colour, shape):
    for share in (0.0, 1.0):
        world, drawn = clips(40, winter=share, mix="small")
        found = {"season": [], "background": [], "background_colour": [], "colour": [], "shape": []}
        for i, clip in enumerate(drawn):
            video = clip.video_THWC if degrade is None else degrade(clip.video_THWC, i)
            read = world.compare(world.parse(video), clip.truth)
            for name, values in found.items():
                values.append(read[name])
        means = {name: np.mean(values) for name, values in found.items()}
        assert min(means["season"], means["background"], means["background_colour"]) >= 0.97
        assert means["colour"] >= colour and means["shape"] >= shape, means


def test_seasons_are_drawn_as_often_as_asked_and_told_when_it_is_winter():
    world = base.make("shapes", seed=3, size=400, winter=0.25)
    seen = 0
    for i in range(400):
        info = world.info(i)
        cold = info.truth["background"].get("season") == v.WINTER
        seen += cold
        assert all(("in winter" in one.text) == cold for one in info.captions)
        colours = {thing["colour"] for thing in info.truth["objects"]}
        assert not (cold and colours & set(v.LOST_IN_FROST))
    assert abs(seen / 400 - 0.25) < 3 * (0.25 * 0.75 / 400) ** 0.5
    assert world.chance()["season"] >= 0.7
    assert "season" not in base.make("shapes", seed=3, size=40).chance()


def test_a_world_without_winter_is_the_one_it_was():
    # drawn by the version of the world that knew no seasons
    info = base.make("shapes", seed=5, size=3, objects=1).info(2)
    assert info.captions[0].text == "a green triangle in front of gray gradient"
    assert "season" not in info.truth["background"]


def test_white_in_winter_is_refused():
    world = base.make("shapes", size=4)
    with pytest.raises(BadInput, match="white in winter"):
        world.scene_for(0, height=64, width=64, num_frames=1, season="winter", colour="white")


def test_a_request_names_the_object_and_the_one_thing_to_be():
    world = base.make("shapes", seed=2, size=300, objects=1, winter=0.5, requests=CHANGES)
    kinds = set()
    for i in range(300):
        info = world.info(i)
        assert [one.kind for one in info.captions] == ["short", "descriptive", "request"]
        text, truth = info.captions[2].text, info.truth
        thing, ground = truth["objects"][0], truth["background"]
        kept, made = re.fullmatch(r"keep the (.*), make (.*)", text).groups()
        assert thing["colour"] in kept.split() and thing["shape"] in kept.split()
        said = {
            "season": f"it {ground.get('season', v.SUMMER)}", "style": f"it {truth['style']}",
        }  # fmt: skip
        kind = next((name for name, words in said.items() if made == words), "background")
        if kind == "background":
            assert {ground["tint"], ground["pattern"]} <= set(made.split())
        kinds.add(kind)
    assert kinds == set(CHANGES)


def test_requests_are_for_what_is_named_or_refused():
    world = base.from_spec("shapes?seed=2&size=30&objects=1&requests=style")
    for i in range(30):
        info = world.info(i)
        assert info.captions[2].text.endswith(f", make it {info.truth['style']}")
    with pytest.raises(BadInput, match="colour"):
        base.make("shapes", requests=("colour",))


def test_requests_need_nothing_of_the_world_but_a_truth():
    import random

    truth = base.make("shapes", seed=2, size=1, objects=1).info(0).truth
    caption = request(winter(truth), "season", random.Random(0))
    assert caption.text.startswith("keep the ") and caption.text.endswith(", make it winter")
