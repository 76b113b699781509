"""Measures every checkpoint of a comparison on the same clips, prompts, noise and sampler.

Each checkpoint goes through the suites `loss` (fixed noise at fixed times on held-out clips) and
`prompts` (clips made from held-out prompts, read back by the world's parser) with one setting for
all, so results pair clip by clip and prompt by prompt.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.result import RESULTS, SavedResult, load_result
from vidsim.eval.runner import evaluate
from vidsim.eval.suites.prompts import ROW_NAMES
from vidsim.quickstart import SAMPLER, WORLD
from vidsim.scaling.jobs import Job


@dataclass(frozen=True)
class Protocol:
    """How much is measured; the same for every checkpoint.

    clips    held-out clips of the loss
    prompts  held-out prompts of the world scores
    steps    of the sampler
    shown    prompts kept to look at
    """

    clips: int = 144
    prompts: int = 144
    steps: int = 16
    shown: int = 9

    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of each suite."""
        anchored = "&anchored=true" if "anchored=true" in WORLD else ""
        sampler = SAMPLER | {"steps": self.steps}
        return {
            "loss": {"clips": self.clips, "world": f"shapes?split=heldout&seed=3{anchored}"},
            "prompts": {
                "prompts": self.prompts, "frames": [1, 5, 9], "vae_prompts": 0,
                "shown": self.shown, "sampler": sampler,
                "world": f"shapes?split=heldout&seed=2&objects=1{anchored}",
            },
        }  # fmt: skip


@dataclass(frozen=True)
class Skill:
    """One attribute: which of the prompts that state it were done right, and chance."""

    right_N: np.ndarray
    chance: float


@dataclass(frozen=True)
class Measured:
    """One checkpoint, measured.

    job        of which it is; `member` is its name when it is the cooled-down end, else None
    step, flops
    losses_NK  float64[clips, times] velocity error of each clip at each time
    times      noise times
    skills     attribute -> Skill
    prompts    the results folder with samples
    """

    job: str
    seed: int
    member: str | None
    step: int
    flops: float
    losses_NK: np.ndarray
    times: tuple[float, ...]
    skills: Mapping[str, Skill]
    prompts: SavedResult


def measure(
    job: Job,
    step: int,
    flops: float,
    workdir: Path,
    out: Path,
    protocol: Protocol,
    progress: Any = None,
) -> Measured:
    """Runs both suites on a checkpoint, or reads the results that are there.

    workdir  of the job
    out      folder of results; one folder a suite is made in it
    Raises   BadInput when results of another protocol are there
    """
    found = {
        suite: _result(suite, workdir, step, out / suite, protocol, progress)
        for suite in protocol.settings()
    }
    end = job.member if step == job.steps else None
    return collect(job.name, job.seed, end, step, flops, found["loss"], found["prompts"])


def held_out_loss(
    workdir: Path, step: int, out: Path, protocol: Protocol, progress: Any = None
) -> float:
    """The loss of a checkpoint over the clips and times of the protocol, without its prompts."""
    saved = _result("loss", workdir, step, out / "loss", protocol, progress)
    return float(np.mean([row["losses"] for row in saved.clips]))


def _result(
    suite: str, workdir: Path, step: int, folder: Path, protocol: Protocol, progress: Any
) -> SavedResult:
    settings = protocol.settings()[suite]
    if (folder / RESULTS).exists():
        saved = load_result(folder)
        _check_same(saved, settings)
        return saved
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    return evaluate(suite, workdir, folder, settings, step=step, progress=progress)


def collect(
    job: str, seed: int, member: str | None, step: int, flops: float, loss: SavedResult,
    prompts: SavedResult,
) -> Measured:  # fmt: skip
    """The numbers that are compared, from two results."""
    losses_NK = np.array([row["losses"] for row in loss.clips], np.float64)
    skills = {}
    for score in prompts.scores:
        name = score.metric.removeprefix("prompts/")
        key = next((k for k, shown in ROW_NAMES.items() if shown == name), name)
        if "/" in name or score.baselines["chance"] >= 1:
            continue  # by size; or the same for every prompt
        right = [float(row[key]) for row in prompts.clips if key in row]
        skills[name] = Skill(np.asarray(right), score.baselines["chance"])
    times = tuple(float(t) for t in str(loss.facts["times"]).split(", "))
    return Measured(job, seed, member, step, flops, losses_NK, times, skills, prompts)


def _check_same(saved: SavedResult, settings: Mapping[str, Any]) -> None:
    """Raises BadInput when a setting of the saved run is another."""
    for key, then, now in _differing(saved.run["suite_config"], settings):
        raise bad(f"{saved.folder}", f"measured with {key} {then!r}", f"now {now!r}",
                  "another --workdir")  # fmt: skip


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings asked for now that were others then, groups of settings entry by entry."""
    for key, value in now.items():
        if isinstance(value, Mapping):
            yield from _differing(then[key], value)
        elif then[key] != value:
            yield key, then[key], value
