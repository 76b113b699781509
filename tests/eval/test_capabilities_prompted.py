"""Pictures, variations and meetings of two scenes: drawn ones are right, what costs nothing not."""

import dataclasses

import numpy as np
import pytest

from vidsim.eval.suites import capabilities, capabilities_prompted
from vidsim.eval.suites.capabilities import CapabilitiesSuite
from vidsim.eval.suites.capabilities_meetings import (
    MEETING_CHECKS,
    draw_pairs,
    judge_meeting,
    references,
)
from vidsim.eval.suites.capabilities_prompted import judge_image, pairs_right
from vidsim.worlds.base import from_spec

WORLD = from_spec("shapes?split=heldout&seed=3&objects=1&anchored=true")
TRAINING = from_spec("shapes?split=train&seed=0&objects=1&anchored=true")


@pytest.mark.parametrize(
    ("inside", "span", "count", "clips"),
    [(True, (8, 9), 24, 3), (False, (0, 16), 17, 3),
     pytest.param(True, (8, 9), 24, 24, marks=pytest.mark.slow),
     pytest.param(False, (0, 16), 17, 24, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_drawn_meeting_is_right_and_cuts_and_fades_are_not(inside, span, count, clips):
    suite = CapabilitiesSuite(clips=clips)
    marks: dict[str, list[dict[str, float]]] = {}
    for pair in draw_pairs(WORLD, suite, span):
        first, second = (WORLD.render(info.truth) for info in pair)
        given = (first[span[0]], second[span[1]]) if inside else (None, None)
        for name, video in references(WORLD, pair, span, count, inside).items():
            assert video.shape == (count, *suite.size, 3) and video.dtype == np.uint8
            if not inside:  # both ends are the scenes' own
                assert np.array_equal(video[0], first[0])
                assert np.array_equal(video[-1], second[-1]) == (name != "first scene")
            marks.setdefault(name, []).append(judge_meeting(WORLD, video, pair, *given))
    assert np.mean([row["joint"] for row in marks.pop("truth")]) >= 0.95
    for name, rows in marks.items():
        assert np.mean([row["joint"] for row in rows]) <= 0.05, name
    held, cut = marks["first scene"][0], marks["cut"][0]
    assert [name for name in MEETING_CHECKS if not held[name]][:2] == ["end", "middle"]
    assert [name for name in MEETING_CHECKS if not cut[name]] == ["middle", "gradual", "own"]
    assert all(row["own"] == 0.0 and row["gradual"] == 1.0 for row in marks["cross-fade"])


def test_pairs_of_scenes_share_neither_colour_nor_tint():
    for one, other in draw_pairs(WORLD, CapabilitiesSuite(clips=8), (0, 16)):
        a, b = one.truth, other.truth
        assert a["objects"][0]["colour"] != b["objects"][0]["colour"]
        assert a["background"]["tint"] != b["background"]["tint"]


def test_a_picture_counts_only_when_all_that_its_prompt_says_is_right():
    infos = [WORLD.scene_for(i, height=64, width=64, num_frames=1) for i in range(12)]
    known = [TRAINING.scene_for(i, height=64, width=64, num_frames=1) for i in range(128)]
    right = [judge_image(WORLD, WORLD.render(info.truth), info) for info in infos]
    assert np.mean([row["joint"] for row in right]) == 1.0
    nearest = [known[capabilities_prompted._nearest(info, known)] for info in infos]
    for info, other in zip(infos, nearest, strict=True):
        asked, theirs = (capabilities_prompted._words(one) for one in (info, other))
        assert sum(asked[k] == theirs[k] for k in asked) >= 2, "near, and never all of it"
        row = judge_image(WORLD, WORLD.render(other.truth), info)
        assert row["joint"] == 0.0, "no training clip has the held-out combination"


def test_variations_must_obey_and_differ():
    info = WORLD.scene_for(1, height=64, width=64, num_frames=9)
    drawn = capabilities_prompted._same_words(WORLD, info, 0, 4)
    for one in drawn:
        assert capabilities_prompted._words(one) == capabilities_prompted._words(info)
    videos = [WORLD.render(one.truth) for one in drawn]
    assert pairs_right(WORLD, videos, info) >= 0.5
    assert pairs_right(WORLD, [videos[0]] * 4, info) == 0.0
    other = WORLD.scene_for(2, height=64, width=64, num_frames=9)
    assert pairs_right(WORLD, videos, other) == 0.0


def test_tasks_from_prompts_alone_have_a_guidance_and_costly_ones_fewer_clips(monkeypatch):
    seen = {}

    def spy(model, world, suite, progress):
        seen["scale"], seen["clips"] = suite.sampler.guidance.scale, suite.clips

    suite = CapabilitiesSuite(clips=48, few=16, prompted=2.5)
    given = suite.sampler.guidance.scale
    for task, group, expected in [
        ("image", capabilities.PROMPTED, (2.5, 48)),
        ("variations", capabilities.PROMPTED, (2.5, 16)),
        ("edit", capabilities.PROMPTED, (2.5, 16)),
        ("beginnings", capabilities.GIVEN, (given, 16)),
        ("strangers", capabilities.GIVEN, (given, 48)),
    ]:
        monkeypatch.setitem(group, task, spy)
        capabilities.more_rows(task, None, WORLD, suite, None)
        assert (seen["scale"], seen["clips"]) == expected
    fewer = dataclasses.replace(suite, clips=4)
    capabilities.more_rows("edit", None, WORLD, fewer, None)
    assert seen["clips"] == 4
