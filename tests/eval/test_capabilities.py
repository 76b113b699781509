"""The joint score: the truth has it, what costs nothing does not."""

import dataclasses

import numpy as np
import pytest

from tests.generate.tiny_generator import make_model
from vidsim.core.errors import BadInput
from vidsim.eval.suites import capabilities
from vidsim.eval.suites.capabilities import CapabilitiesSuite, judge_all
from vidsim.eval.suites.capabilities_beginnings import (
    beginning_scores,
    compare,
    pairwise_distance,
)
from vidsim.eval.suites.capabilities_cases import TASKS, draw_cases, make_library, spans
from vidsim.eval.suites.capabilities_edit import (
    WORDINGS,
    best_of_others,
    change,
    edit_cases,
    judge_edit,
)
from vidsim.eval.suites.capabilities_long import (
    judge_window,
    long_scores,
    own_size,
    windows_of,
)
from vidsim.eval.suites.capabilities_loops import judge_loop, references, seam_score
from vidsim.eval.suites.capabilities_score import (
    Bars,
    cross_fade,
    longest_step,
    path,
    skill,
    task_scores,
)
from vidsim.eval.suites.capabilities_sizes import SIZES, new_aspects, share_right, size_scores
from vidsim.generate.loop import seam
from vidsim.worlds.base import from_spec
from vidsim.worlds.reader import read_clips
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.caption import CHANGES

WORLD = from_spec("shapes?split=heldout&seed=3&objects=1")
TRAINING = from_spec("shapes?split=train&seed=0&objects=1")
SIZE, FRAMES, STRIDE = (64, 64), 17, 4
TRIVIAL = ("frozen frame", "nearest training clip", "mean clip", "cross-fade")


@pytest.fixture(scope="module")
def library():
    return make_library(TRAINING, 24, SIZE, FRAMES)


@pytest.mark.parametrize(
    ("task", "clips"),
    [*((task, 3) for task in TASKS),
     *(pytest.param(task, 24, marks=pytest.mark.slow) for task in TASKS)],
)  # fmt: skip
def test_truth_has_skill_one_and_every_trivial_clip_none(task, clips, library):
    """Each trivial clip, judged in the model's place, at most 0.05; the truth at least 0.95."""
    cases = draw_cases(task, WORLD, clips, SIZE, FRAMES, STRIDE)
    marks, videos = judge_all(WORLD, cases, None, library)
    joint = {name: [row["joint"] for row in rows] for name, rows in marks.items()}
    truth = joint.pop("truth")
    assert set(joint) == set(TRIVIAL)
    assert np.mean(truth) >= 0.95, [row for row in marks["truth"] if not row["joint"]]
    for name, values in joint.items():
        assert np.mean(values) <= 0.05, name
        others = {k: v for k, v in joint.items() if k != name} or joint
        assert skill(values, others, truth)[0] <= 0.05, name
    assert skill(truth, joint, truth)[0] == 1.0
    for clips in videos.values():
        for case, clip in zip(cases, clips, strict=True):
            assert clip.shape == case.truth_THWC.shape
            for part in (slice(0, case.new[0]), slice(case.new[1], None)):
                assert np.array_equal(clip[part], case.truth_THWC[part]), "given frames stay"


def test_loops_return_to_their_start():
    for case in draw_cases("loop", WORLD, 4, SIZE, FRAMES, STRIDE):
        assert " and back" in case.prompt
        assert (case.new[1] - case.new[0]) % STRIDE == 0 and case.new[1] == len(case.truth_THWC)
        wrap = np.hypot(*(case.track_T2[0] - case.track_T2[-1]))
        assert wrap == pytest.approx(longest_step(case.track_T2), rel=0.01)


def test_clips_too_short_for_a_task_are_refused_before_any_is_made():
    """Nine frames of 48x48 leave no time to come back without overlap."""
    suite = CapabilitiesSuite(clips=1, library=1, size=(48, 48), frames=9)
    model = make_model()
    roomy = dataclasses.replace(model, limits=dataclasses.replace(model.limits, tokens=1216))
    events = []
    with pytest.raises(BadInput, match="loop: 0 clips in 50 scenes of 9 frames.*more frames"):
        capabilities.run(roomy, suite, lambda *event: events.append(event))
    assert not events


@pytest.mark.parametrize("frames", [9, 17, 33])
def test_new_frames_are_what_a_model_can_make(frames):
    for task in ("animate", "forward", "backward", "join"):
        first, end = spans(task, frames, 4)
        assert 0 <= first < end <= frames
        if task in ("animate", "forward", "join"):
            assert (first - 1) % 4 == 0, "the frames before fill whole latents"
        if task in ("backward", "join"):
            assert (frames - end) % 4 == 0 and frames > end


def test_scores_of_a_model_that_answers_the_truth_and_of_one_that_freezes(library):
    cases = draw_cases("forward", WORLD, 2, SIZE, FRAMES, STRIDE)
    marks, _ = judge_all(WORLD, cases, [c.truth_THWC for c in cases], library)
    rows = {row.metric: row for row in task_scores("forward", marks)}
    assert rows["capabilities/forward"].value == rows["capabilities/forward"].floor
    assert rows["capabilities/forward_skill"].value == 1.0
    assert set(rows["capabilities/forward"].baselines) == set(TRIVIAL)
    frozen = dict(marks, model=marks["frozen frame"])
    rows = {row.metric: row for row in task_scores("forward", frozen)}
    assert rows["capabilities/forward_skill"].value <= 0.0
    assert rows["capabilities/forward/background"].value > 0.8, "it is right in what is easy"


def test_what_the_autoencoder_makes_of_the_truth_stands_beside_the_scores(library, monkeypatch):
    """An autoencoder that lets things stand still in a block of frames cannot be carried on from
    without a leap, however good its denoiser: the row says so, the skill does not use it."""
    cases = draw_cases("forward", WORLD, 2, SIZE, FRAMES, STRIDE)

    def held(_, videos):  # the frame of each block's middle, all through the block
        return [np.concatenate([v[:1], v[3::STRIDE].repeat(STRIDE, 0)]) for v in videos]

    monkeypatch.setattr(capabilities, "reconstruct", held)
    through = capabilities.round_trip(make_model(), cases)
    for case, clip in zip(cases, through, strict=True):
        first, end = case.new
        assert np.array_equal(clip[:first], case.truth_THWC[:first])
        assert np.array_equal(clip[first], clip[first + STRIDE - 1]) and end == len(clip)
    marks, _ = judge_all(WORLD, cases, [c.truth_THWC for c in cases], library, None, through)
    rows = {row.metric: row for row in task_scores("forward", marks)}
    assert rows["capabilities/forward"].baselines["VAE"] == 0.0
    assert rows["capabilities/forward/continuity"].baselines["VAE"] == 0.0
    assert rows["capabilities/forward/direction"].baselines["VAE"] == 1.0
    assert rows["capabilities/forward_skill"].value == 1.0
    assert "VAE" not in rows["capabilities/forward_skill"].baselines


def test_clips_off_the_autoencoders_grid_make_the_round_trip(monkeypatch):
    cases = draw_cases("loop", WORLD, 1, SIZE, FRAMES, STRIDE)
    lengths = []

    def same(_, videos):
        lengths.extend(len(video) for video in videos)
        return list(videos)

    monkeypatch.setattr(capabilities, "reconstruct", same)
    model = make_model()
    (clip,) = capabilities.round_trip(model, cases)
    assert np.array_equal(clip, cases[0].truth_THWC)
    assert lengths[0] >= len(clip) and (lengths[0] - 1) % model.grid.time_stride == 0


def test_skill_is_a_line_through_the_best_trivial_and_the_truth():
    trivial = {"a": [0.0, 0.2], "b": [0.3, 0.1]}
    value, best = skill([0.6, 0.6], trivial, [1.0, 1.0])
    assert best == "b" and value == pytest.approx((0.6 - 0.2) / (1.0 - 0.2))
    assert np.isnan(skill([0.5], {"a": [1.0]}, [1.0])[0])


def test_paths_and_steps_skip_frames_without_the_object():
    track = np.array([[0, 0], [0, 3], [np.nan, np.nan], [4, 3], [4, 5]], float)
    assert path(track) == pytest.approx(3 + 4 + 2) and longest_step(track) == 3.0
    assert longest_step(np.full((4, 2), np.nan)) == np.inf


def test_cross_fade_is_between_its_ends():
    made = cross_fade(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8), 3)
    assert made[:, 0, 0, 0].tolist() == [50, 100, 150]


@pytest.mark.parametrize("kind", CHANGES)
def test_edits_count_only_when_the_target_is_there_and_the_rest_stays(kind):
    suite = CapabilitiesSuite(clips=4, size=SIZE, frames=FRAMES)
    cases = edit_cases(WORLD, suite, STRIDE)
    assert len(cases) == 4
    for number, case in enumerate(cases):
        asked = change(case, kind, number)
        assert asked == change(case, kind, number) and asked.wording == WORDINGS[number % 2]
        assert asked.prompt.startswith("keep the ") == (asked.wording == "requested")
        new = WORLD.render(asked.truth)
        assert judge_edit(WORLD, case.truth_THWC, case, asked)["joint"] == 0.0
        assert judge_edit(WORLD, new, case, asked)["joint"] == 1.0
        other = asked.truth | {"objects": [asked.truth["objects"][0] | {"colour": "black"}]}
        if case.info.truth["objects"][0]["colour"] != "black":
            painted = judge_edit(WORLD, WORLD.render(other), case, asked)
            assert painted["target"] == 1.0 and painted["kept"] == 0.0
        still = judge_edit(WORLD, np.repeat(new[:1], FRAMES, 0), case, asked)
        assert still["kept"] == 0.0 or path(case.track_T2) < 20


def test_too_few_clips_that_show_in_winter_are_refused(monkeypatch):
    monkeypatch.setattr(v, "LOST_IN_FROST", tuple(v.COLOURS))
    with pytest.raises(BadInput, match="0 clips of 9 show in winter"):
        edit_cases(WORLD, CapabilitiesSuite(clips=1, size=SIZE, frames=FRAMES), STRIDE)


def test_the_words_of_an_edit_name_what_is_new_and_not_what_was():
    suite = CapabilitiesSuite(clips=8, size=SIZE, frames=FRAMES)
    for number, case in enumerate(edit_cases(WORLD, suite, STRIDE)):
        truth = case.info.truth
        old = {
            "background": truth["background"]["tint"],
            "style": truth["style"],
            "season": "summer",
        }
        for kind in CHANGES:
            asked = change(case, kind, number)
            new = {"background": asked.truth["background"]["tint"], "style": asked.truth["style"],
                   "season": v.WINTER}  # fmt: skip
            assert new[kind] in asked.prompt and old[kind] not in asked.prompt


def test_no_edit_is_scored_at_a_strength_chosen_on_it():
    def marks(*values):
        return [{"joint": float(value)} for value in values]

    # pairs 0, 2 are one half, pairs 1, 3 the other
    curve = {0.3: marks(1, 1, 0, 0, 1, 1, 0, 0), 0.7: marks(0, 0, 1, 1, 0, 0, 1, 1)}
    assert best_of_others(curve) == [0.7, 0.7, 0.3, 0.3] * 2
    even = {0.7: marks(1, 0, 1, 0), 0.3: marks(0, 1, 0, 1)}
    assert best_of_others(even) == [0.3] * 4  # as good: the lower
    assert best_of_others({0.3: marks(0), 0.7: marks(1)}) == [0.7]


def test_a_long_window_counts_only_with_its_object_alive_and_moving():
    case = next(c for c in draw_cases("animate", WORLD, 8, SIZE, 33, STRIDE) if c.info.fps >= 12)
    there = case.truth_THWC
    video = np.concatenate([there, there[-2:0:-1], there[:24]])  # to and fro
    fps = case.info.fps
    marks = judge_window(WORLD, video[:40], case.info, fps, Bars())
    assert marks == {"object": 1.0, "background": 1.0, "motion": 1.0, "joint": 1.0}
    frozen = judge_window(WORLD, np.repeat(there[:1], 40, 0), case.info, fps, Bars())
    assert frozen["object"] == 1.0 and frozen["motion"] == 0.0 and frozen["joint"] == 0.0
    empty = np.broadcast_to(there.mean((0, 1, 2)).astype(np.uint8), (40, *SIZE, 3))
    assert judge_window(WORLD, empty, case.info, fps, Bars())["joint"] == 0.0


def test_a_long_video_has_a_size_of_its_own_and_must_keep_it():
    case = next(c for c in draw_cases("animate", WORLD, 8, SIZE, 33, STRIDE) if c.info.fps >= 12)
    there, fps, thing = case.truth_THWC, case.info.fps, case.info.truth["objects"][0]
    video = np.concatenate([there, there[-2:0:-1], there[:24]])
    other = {**thing, "half_extent": 2 * thing["half_extent"]}  # what a short prompt did not say
    info = dataclasses.replace(case.info, truth={**case.info.truth, "objects": [other]})
    assert judge_window(WORLD, video[:40], info, fps, Bars())["object"] == 0.0
    own = own_size(WORLD, video, info)
    assert own.truth["objects"][0]["half_extent"] == pytest.approx(thing["half_extent"], rel=0.1)
    assert judge_window(WORLD, video[:40], own, fps, Bars())["joint"] == 1.0
    grown = WORLD.render({**case.info.truth, "objects": [{**other, "velocity": [0.0, 0.0]}]})
    grows = np.concatenate([video, grown[:20]])
    assert (
        judge_window(WORLD, grows[-20:], own_size(WORLD, grows, info), fps, Bars())["object"] == 0
    )
    empty = np.broadcast_to(there.mean((0, 1, 2)).astype(np.uint8), (40, *SIZE, 3))
    assert own_size(WORLD, empty, info) is info


def test_windows_of_five_seconds_cover_the_video_once():
    video = np.arange(481, dtype=np.int64)[:, None, None, None]
    parts = windows_of(video, 8.0)
    assert [len(p) for p in parts] == [40] * 11 + [41]
    assert np.array_equal(np.concatenate(parts), video)
    rows = [[{"joint": j, "object": 1.0, "background": 1.0, "motion": j} for j in joint]
            for joint in ([1, 1, 1, 0, 0.5], [1, 0, 1, 1, 0])]  # fmt: skip
    found = {row.metric: row.value for row in long_scores("long", rows, 0.0)}
    assert found["capabilities/long/first_10s"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["capabilities/long/last_10s"] == pytest.approx((0.25 + 0.5) / 2)
    assert found["capabilities/long/last_over_first"] == pytest.approx(0.375 / 0.75)


def test_beginnings_count_by_how_far_apart_they_are():
    case = draw_cases("backward", WORLD, 1, SIZE, FRAMES, STRIDE)[0]
    truth, shade = case.truth_THWC, np.uint8([0, 10, 20, 40])
    free = [np.full_like(truth, s) for s in shade]
    pairs = [10, 20, 40, 10, 30, 20]
    assert pairwise_distance(free) == pytest.approx(np.mean(pairs))
    one = compare(WORLD, case, [truth] * 4, free)
    assert one == {"distance": 0.0, "independent": np.mean(pairs), "same_end": 1.0, "joint": 1.0}
    halves = [case.with_new(np.full_like(truth[slice(*case.new)], s // 2)) for s in shade]
    two = compare(WORLD, case, halves, free)
    assert two["distance"] == pytest.approx(two["independent"] / 2) and two["joint"] == 0.0
    moved = truth.copy()
    moved[-1, 0, 0] ^= 1
    assert compare(WORLD, case, [truth, moved], free)["same_end"] == 0.0
    rows = {row.metric: row for row in beginning_scores([one, two], 4)}
    assert rows["capabilities/beginnings"].value == pytest.approx(0.25)
    assert 0.0 <= rows["capabilities/beginnings"].low <= rows["capabilities/beginnings"].high <= 0.5
    assert rows["capabilities/beginnings/same_end"].value == 1.0


def test_every_size_has_a_row_and_new_aspect_ratios_are_told_apart():
    assert len(SIZES) >= 12
    new = new_aspects(make_model(), TRAINING, SIZES)
    ratios = {height / width for height, width in new}
    assert len(ratios) >= 4 and len(new) <= len(SIZES) - 4
    assert new_aspects(make_model(), TRAINING, [(48, 80), (96, 160)]) == set(), "one ratio, trained"
    infos = [WORLD.scene_for(i, height=h, width=w, num_frames=9) for h, w in SIZES for i in (0, 1)]
    made = [float((info.height, info.width) not in new) for info in infos]
    chance = {"colour": 0.1, "shape": 0.3, "speed": 1.0}
    rows = {r.metric: r for r in size_scores(infos, made, [1.0] * len(infos), new, chance)}
    assert rows["capabilities/sizes"].value == pytest.approx(1 - len(new) / len(SIZES))
    assert rows["capabilities/sizes_new_aspects"].value == 0.0
    assert rows["capabilities/sizes"].baselines == {"chance": pytest.approx(0.2)}
    assert sum(name.startswith("capabilities/sizes/") for name in rows) == len(SIZES)
    assert rows["capabilities/sizes/trained_aspect/96x48"].value == 1.0
    assert rows["capabilities/sizes/new_aspect/48x96"].value == 0.0


def test_renders_of_every_size_are_read_right_and_an_empty_frame_is_not():
    infos = [WORLD.scene_for(1, height=h, width=w, num_frames=9) for h, w in SIZES[-4:]]
    renders = [WORLD.render(info.truth) for info in infos]
    empty = [np.zeros_like(video) for video in renders]
    rows = read_clips(WORLD, [*renders, *empty], [info.truth for info in infos] * 2)
    right = [share_right(row) for row in rows]
    assert min(right[:4]) >= 0.8 and max(right[4:]) <= 0.4


def test_bad_settings_are_refused():
    with pytest.raises(BadInput, match="task 'animat'; did you mean 'animate'"):
        CapabilitiesSuite(tasks=("animat",))
    with pytest.raises(BadInput, match="at least 1"):
        CapabilitiesSuite(clips=0)
    with pytest.raises(BadInput, match="no strengths for task 'edit'"):
        CapabilitiesSuite(strengths=())
    with pytest.raises(BadInput, match="tokens"):
        capabilities.run(make_model(), CapabilitiesSuite(clips=1, library=1, size=(128, 128)))


@pytest.mark.parametrize("clips", [3, pytest.param(24, marks=pytest.mark.slow)])
def test_only_what_goes_there_and_back_is_a_loop_of_a_prompt(clips):
    cases = draw_cases("loop", WORLD, clips, SIZE, FRAMES, STRIDE)
    videos = references(WORLD, cases, 16)
    marks = {
        name: [judge_loop(WORLD, video, case) for video, case in zip(made, cases, strict=True)]
        for name, made in videos.items()
    }
    joint = {name: np.mean([row["joint"] for row in rows]) for name, rows in marks.items()}
    assert joint.pop("truth") >= 0.95, marks["truth"]
    assert max(joint.values()) <= 0.05, joint
    assert all(row["continuity"] == 0.0 for row in marks["one way"]), "it leaps back to its start"
    assert all(row["motion"] == 0.0 for row in marks["frozen frame"])
    for case, video in zip(cases, videos["truth"], strict=True):
        turned = np.roll(video, 5, 0)
        assert judge_loop(WORLD, turned, case)["joint"] == 1.0, "a circle begins anywhere"


def test_the_seam_of_loops_is_told_beside_their_motion():
    def steps(*jumps):  # flat frames whose brightness changes by these steps
        return np.cumsum([0, *jumps]).astype(np.uint8)[:, None, None, None].repeat(3, 3)

    smooth, leaping = seam(steps(2, 2, -2)), seam(steps(2, 2, 2))
    score = seam_score({"model": [smooth] * 3, "merely repeated": [leaping] * 3,
                        "truth": [smooth] * 3})  # fmt: skip
    assert score.value == score.floor == 1.0 and score.direction == "lower"
    assert score.baselines["merely repeated"] == 3.0 and score.baselines["motion, model"] == 2.0
