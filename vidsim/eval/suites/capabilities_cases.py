"""What a capability is asked to do, on clips of a world whose continuation is known."""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.eval.suites.capabilities_score import Span, cross_fade, path, true_track
from vidsim.worlds.base import Caption, ClipInfo, World
from vidsim.worlds.shapes.caption import captions

TASKS = ("animate", "forward", "backward", "join", "loop")
# Short sides that the object must travel over the new frames, and the speed of the scenes. Between
# two given ends it must leave its own place, or a cross-fade shows no ghost.
MOVES = {"animate": 0.15, "forward": 0.15, "backward": 0.15, "join": 0.3, "loop": 0.3}
SPEED = {"animate": "slow", "forward": "slow", "backward": "slow", "join": "fast", "loop": "fast"}
LASTING = 17  # frames of a clip in which slow objects travel far enough
LOOKED_AT = 50  # scenes drawn for each that is taken, before giving up


@dataclasses.dataclass(frozen=True)
class Case:
    """One clip of one task.

    truth_THWC  the whole clip as it should be: given frames in place, new ones as they really go on
    new         (first, end) of the frames to be made
    track_T2    true centre of the object in each frame, pixels
    info        the scene: prompt, size, rate, truth
    """

    task: str
    truth_THWC: np.ndarray
    new: Span
    track_T2: np.ndarray
    info: ClipInfo

    @property
    def prompt(self) -> str:
        """The short caption."""
        return self.info.captions[0].text

    @property
    def before(self) -> np.ndarray:
        """Given frames before the new ones."""
        return self.truth_THWC[: self.new[0]]

    @property
    def after(self) -> np.ndarray:
        """Given frames after the new ones."""
        return self.truth_THWC[self.new[1] :]

    def with_new(self, frames_THWC: np.ndarray) -> np.ndarray:
        """The clip with other new frames."""
        first, end = self.new
        if len(frames_THWC) != end - first:
            raise bad("case", f"{len(frames_THWC)} new frames", f"{end - first}")
        return np.concatenate([self.before, frames_THWC, self.after])


def spans(task: str, frames: int, stride: int) -> Span:
    """Which frames of a clip a task makes.

    animate: all but the first. forward: those after the first half. backward: those before the last
    half. join: those between a start and an end of the VAE's stride. loop: see `loop_case`.
    """
    latents = (frames - 1) // stride
    half = latents - latents // 2
    if task == "animate":
        return 1, frames
    if task == "forward":
        return 1 + half * stride, frames
    if task == "backward":
        return 0, frames - half * stride
    side = max(1, (latents - 1) // 3)
    return 1 + (side - 1) * stride + (stride if latents > 2 else 0), frames - side * stride


def make_case(task: str, world: World, info: ClipInfo, stride: int) -> Case | None:
    """The case of a scene, or None when its object does not do what the task is about.

    A loop's truth is its clip played there and back, which returns to its start and is captioned
    so. The object's places at the two ends of a join, or of a loop's way, must not overlap, or a
    cross-fade is as good as a way from one to the other.
    """
    truth = info.truth
    thing = truth["objects"][0]
    if thing["bounce"] or thing["crosses"] or len(truth["objects"]) != 1 or not thing["speed"]:
        return None
    video, track = world.render(truth), true_track(truth, info.num_frames)
    new = spans(task, info.num_frames, stride)
    if task == "loop":
        # There, and back over every frame between the last and the first: a multiple of the stride.
        back = max(1, info.num_frames // (2 * stride)) * stride
        if back + 2 > info.num_frames:
            return None
        order = [*range(back + 2), *range(back, 0, -1)]
        video, track, new = video[order], track[order], (back + 2, len(order))
        info = dataclasses.replace(info, captions=_there_and_back(truth))
    first, end = max(new[0] - 1, 0), min(new[1] + 1, len(video))
    if path(track[first:end]) < MOVES[task] * min(info.height, info.width):
        return None
    if task == "join" and np.hypot(*(track[end - 1] - track[first])) < 2 * thing["half_extent"]:
        return None
    if task == "loop" and not apart(*world.boxes(truth)[[0, first - 1], 0]):
        return None
    return Case(task, video, new, track, info)


def apart(one_4: np.ndarray, other_4: np.ndarray) -> bool:
    """Whether two boxes (y0, x0, y1, x1, pixels) have a pixel or more between them."""
    return bool(max(*(one_4[:2] - other_4[2:]), *(other_4[:2] - one_4[2:])) >= 1.0)


def _there_and_back(truth: Mapping[str, Any]) -> tuple[Caption, Caption]:
    """The captions of a scene whose object turns inside the frame, worded by the scene alone."""
    told = {**truth, "objects": [{**truth["objects"][0], "bounce": True, "returns": True}]}
    return captions(told, random.Random(stable_hash("loop words", json.dumps(truth))))


def draw_cases(
    task: str, world: World, count: int, size: tuple[int, int], frames: int, stride: int
) -> list[Case]:
    """The first `count` cases of a world. Raises BadInput when it does not have so many."""
    cases: list[Case] = []
    speed = SPEED[task] if frames >= LASTING else "fast"  # a short clip sees little of a slow way
    for i in range(count * LOOKED_AT):
        info = world.scene_for(i, height=size[0], width=size[1], num_frames=frames, speed=speed)
        case = make_case(task, world, info, stride)
        if case is not None:
            cases.append(case)
            if len(cases) == count:
                return cases
    seen = f"{len(cases)} clips in {count * LOOKED_AT} scenes of {frames} frames"
    raise bad(f"suite capabilities, {task}", seen, f"{count}", "more frames, or fewer clips")


@dataclasses.dataclass(frozen=True)
class Library:
    """Training clips of one size and duration, for what costs nothing to make."""

    videos: np.ndarray  # uint8 [n,T,H,W,3]

    def nearest(self, case: Case) -> np.ndarray:
        """The new frames of the clip whose other frames are nearest to the given ones."""
        length = min(self.videos.shape[1], len(case.truth_THWC))
        given = np.ones(len(case.truth_THWC), bool)
        given[case.new[0] : case.new[1]] = False
        given = given[:length]
        ours = case.truth_THWC[:length][given].astype(np.float32)
        theirs = self.videos[:, :length][:, given].astype(np.float32)
        errors = np.square(theirs - ours[None]).mean((1, 2, 3, 4))
        return _stretch(self.videos[int(errors.argmin())], case)

    def mean(self, case: Case) -> np.ndarray:
        """The new frames of the mean clip."""
        return _stretch(np.rint(self.videos.mean(0)).astype(np.uint8), case)


def make_library(world: World, count: int, size: tuple[int, int], frames: int) -> Library:
    """The first clips of a training world, all of one size and duration."""
    infos = [
        world.scene_for(i, height=size[0], width=size[1], num_frames=frames) for i in range(count)
    ]
    return Library(np.stack([world.render(info.truth) for info in infos]))


def trivial(case: Case, library: Library) -> dict[str, np.ndarray]:
    """Whole clips that cost nothing: frozen, nearest training clip, mean clip, cross-fade."""
    count = case.new[1] - case.new[0]
    ends = _ends(case, library)
    # Frozen at whichever given frame is nearer in time; a clip between two holds each for half.
    if len(case.before) and len(case.after):
        held = np.stack([ends[0] if t < count / 2 else ends[1] for t in range(count)])
    else:
        held = np.repeat((ends[0] if len(case.before) else ends[1])[None], count, 0)
    new = {
        "frozen frame": held,
        "nearest training clip": library.nearest(case),
        "mean clip": library.mean(case),
        "cross-fade": cross_fade(*ends, count),
    }
    return {name: case.with_new(frames) for name, frames in new.items()}


def _ends(case: Case, library: Library) -> tuple[np.ndarray, np.ndarray]:
    """The pictures between which a cross-fade leads; the nearest clip's where none is given."""
    near = library.nearest(case)
    start = case.before[-1] if len(case.before) else near[0]
    if case.task == "loop":
        return start, case.before[0]
    return start, case.after[0] if len(case.after) else near[-1]


def _stretch(video: np.ndarray, case: Case) -> np.ndarray:
    """The frames of a clip at the places of the new ones, its last frame where it is shorter."""
    at = np.minimum(np.arange(*case.new), len(video) - 1)
    return video[at]


def outcome_rows(
    marks: Mapping[str, Sequence[Mapping[str, float]]], cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Every case's own numbers, JSON-able."""
    return [
        {"task": case.task, "prompt": case.prompt, "size": f"{case.info.width}x{case.info.height}",
         **{name: rows[i]["joint"] for name, rows in marks.items()}}
        for i, case in enumerate(cases)
    ]  # fmt: skip
