"""The joint score of a made clip: 1 when the event happened and nothing is missing, else 0.

A frozen clip has perfect seams and perfect colours, a cross-fade has both ends right: so every
condition below has to hold at once, on the frames that were made.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vidsim.eval.result import Sample
from vidsim.eval.score import Score, score_of
from vidsim.eval.stats import clip_bootstrap, paired_bootstrap, wilson
from vidsim.generate.sample import SamplerConfig
from vidsim.worlds.base import World
from vidsim.worlds.shapes.motion import positions
from vidsim.worlds.shapes.vocabulary import AREA

Span = tuple[int, int]
CHECKS = ("object", "background", "motion", "direction", "continuity")


@dataclasses.dataclass(frozen=True)
class Bars:
    """When a condition holds.

    object      share of the looked-at new frames that show one object of the true colour and size
    area        its area over the true one, from and to: two ghosts that touch are larger than one
    looked      new frames looked at one by one, evenly spread
    motion      path of the object over the true path
    angle_deg   between the object's way and the true one
    step        longest step between neighbouring frames, over the longest true step ...
    slack       ... or in short sides of the frame, whichever is more
    jump        longest way between two looked-at frames, over the way through all of them: an
                object that fades out here and in there goes all of it at once
    """

    object: float = 0.85
    area: tuple[float, float] = (0.6, 1.35)
    looked: int = 5
    motion: float = 0.5
    angle_deg: float = 45.0
    step: float = 3.0
    slack: float = 0.12
    jump: float = 0.45


@dataclasses.dataclass
class Rows:
    """What a task that judges itself brings: rows, clips to look at, every clip's own numbers."""

    scores: list[Score]
    samples: list[Sample]
    clips: list[dict[str, Any]]


class ClipsSuite(Protocol):
    """What of the suite's configuration most tasks read."""

    clips: int
    size: tuple[int, int]
    frames: int
    seed: int
    shown: int
    sampler: SamplerConfig


def judge(
    world: World,
    video_THWC: np.ndarray,
    truth: Mapping[str, Any],
    track_T2: np.ndarray,
    new: Span,
    bars: Bars = Bars(),  # noqa: B008 (frozen)
) -> dict[str, float]:
    """Each condition (1.0 or 0.0) and "joint", their product.

    video_THWC  the whole clip, given frames included
    truth       of a scene with one object
    track_T2    true centre (y, x) of the object in each frame of the whole clip, pixels
    new         (first, end) of the frames that were made; neighbours count for the seams
    """
    first, end = max(new[0] - 1, 0), min(new[1] + 1, len(video_THWC))
    seen = video_THWC[first:end]
    thing = truth["objects"][0]
    reading = world.parse(seen)
    true = track_T2[first:end]
    short = min(video_THWC.shape[1:3])
    mine = [one for one in reading.objects if one.colour == thing["colour"]]
    share, places = presence(world, video_THWC, thing, new, bars)
    track = mine[0].track_T2 if mine else np.full((len(seen), 2), np.nan)
    marks = {
        "object": float(share >= bars.object),
        "background": float(reading.tint == truth["background"]["tint"]),
        "motion": float(path(track) >= bars.motion * path(true)),
        "direction": float(_angle_deg(track, true) <= bars.angle_deg),
        "continuity": float(
            longest_step(track) <= max(bars.step * longest_step(true), bars.slack * short)
            and jump(places) <= bars.jump
        ),
    }
    return marks | {"joint": float(all(marks.values()))}


def true_track(truth: Mapping[str, Any], num_frames: int) -> np.ndarray:
    """float64 [T,2]: centre of the first object in each frame, pixels."""
    return positions(truth["objects"][0], num_frames)


def path(track_T2: np.ndarray) -> float:
    """Pixels travelled over the frames in which the object is seen."""
    seen = track_T2[np.isfinite(track_T2[:, 0])]
    return float(np.hypot(*np.diff(seen, axis=0).T).sum()) if len(seen) > 1 else 0.0


def longest_step(track_T2: np.ndarray) -> float:
    """Longest way between two neighbouring frames, pixels; infinite unless half of all are seen."""
    seen = np.isfinite(track_T2[:, 0])
    if seen.sum() < max(2, len(track_T2) / 2):
        return math.inf
    steps = np.hypot(*np.diff(track_T2, axis=0).T)
    found = steps[np.isfinite(steps)]
    return float(found.max()) if len(found) else math.inf


def _angle_deg(track: np.ndarray, true: np.ndarray) -> float:
    """Between the two ways over the frames in which both are seen; 180 for a way of nothing."""
    seen = np.flatnonzero(np.isfinite(track[:, 0]))
    if len(seen) < 2:
        return 180.0
    ours, theirs = track[seen[-1]] - track[seen[0]], true[seen[-1]] - true[seen[0]]
    norm = np.hypot(*ours) * np.hypot(*theirs)
    if norm < 1e-9:
        return 180.0
    return math.degrees(math.acos(float(np.clip(ours @ theirs / norm, -1, 1))))


def presence(
    world: World, video: np.ndarray, thing: Mapping[str, Any], new: Span, bars: Bars
) -> tuple[float, np.ndarray]:
    """Looks at some new frames one by one, each as a picture of its own.

    thing    the true object
    Returns  the share with one object, of the true colour and size; its centres float64 [looked,2]
             in pixels, NaN where there is none of its colour
    """
    chosen = np.unique(np.linspace(new[0], new[1] - 1, bars.looked).round().astype(int))
    true = AREA[thing["shape"]] * thing["half_extent"] ** 2 / (video.shape[1] * video.shape[2])
    right, places = 0, np.full((len(chosen), 2), np.nan)
    for k, t in enumerate(chosen):
        reading = world.parse(video[t : t + 1])
        mine = [one for one in reading.objects if one.colour == thing["colour"]]
        places[k] = mine[0].track_T2[0] if mine else np.nan
        if reading.count == 1 and mine:
            right += bars.area[0] <= mine[0].area / true <= bars.area[1]
    return right / len(chosen), places


def jump(places_K2: np.ndarray) -> float:
    """The longest way between two neighbouring places over the way through all of them, 0..1."""
    seen = places_K2[np.isfinite(places_K2[:, 0])]
    if len(seen) < 2:
        return 1.0
    ways = np.hypot(*np.diff(seen, axis=0).T)
    return float(ways.max() / ways.sum()) if ways.sum() > 0 else 1.0


def cross_fade(start_HWC: np.ndarray, end_HWC: np.ndarray, count: int) -> np.ndarray:
    """`count` frames between two pictures, uint8, neither picture itself among them."""
    share = (np.arange(1, count + 1) / (count + 1))[:, None, None, None]
    mixed = (1 - share) * start_HWC[None].astype(np.float64) + share * end_HWC[None]
    return np.rint(mixed).astype(np.uint8)


def skill(
    model: Sequence[float], trivial: Mapping[str, Sequence[float]], truth: Sequence[float]
) -> tuple[float, str]:
    """(skill, name of the best trivial one): (model - best trivial) / (truth - best trivial).

    NaN where the truth is not above the best trivial one: such a score measures nothing.
    """
    best = max(trivial, key=lambda name: float(np.mean(trivial[name])))
    base = float(np.mean(trivial[best]))
    room = float(np.mean(truth)) - base
    return ((float(np.mean(model)) - base) / room if room > 0 else math.nan), best


def task_scores(
    task: str,
    marks: Mapping[str, Sequence[Mapping[str, float]]],
    beside: Sequence[str] = ("VAE",),
    checks: Sequence[str] = CHECKS,
) -> list[Score]:
    """Rows of one task: joint score, skill, what is gained over the best trivial clip, checks.

    marks   of "model", "truth" and the trivial ones, and of what is shown `beside` them but is none
    checks  names of the conditions of each mark
    """
    joint = {name: [row["joint"] for row in rows] for name, rows in marks.items()}
    ours, truth = joint.pop("model"), joint.pop("truth")
    through = {name: float(np.mean(joint.pop(name))) for name in beside if name in joint}
    value, best = skill(ours, joint, truth)
    room = float(np.mean(truth)) - float(np.mean(joint[best]))
    gain = paired_bootstrap(np.asarray(ours), np.asarray(joint[best]))
    baselines = {name: float(np.mean(rows)) for name, rows in joint.items()}
    floor = float(np.mean(truth))
    scaled = dataclasses.replace(
        gain, value=value, low=gain.low / room if room > 0 else np.nan,
        high=gain.high / room if room > 0 else np.nan,
    )  # fmt: skip
    rows = [
        score_of(f"capabilities/{task}", wilson(sum(ours), len(ours)), "higher", floor=floor,
                 baselines=baselines | through, unit="share"),
        score_of(f"capabilities/{task}_skill", scaled, "higher", floor=1.0, baselines={best: 0.0}),
    ]  # fmt: skip
    for check in checks:
        mine = clip_bootstrap(np.asarray([row[check] for row in marks["model"]]))
        true = float(np.mean([row[check] for row in marks["truth"]]))
        others = {name: float(np.mean([row[check] for row in marks[name]]))
                  for name in (*joint, *through)}  # fmt: skip
        rows.append(score_of(f"capabilities/{task}/{check}", mine, "higher", floor=true,
                             baselines=others, unit="share"))  # fmt: skip
    return rows
