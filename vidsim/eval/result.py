"""What a suite returns, and the same thing on disk: results.json beside samples/.

The page is built from the folder alone, so it can be built again without the model.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.score import Outcome, Score, from_json, plain, to_json
from vidsim.generate.contact import SheetConfig, contact_sheet
from vidsim.generate.write import write_media

SCHEMA = 1
RESULTS = "results.json"
_SHEET_VIDEOS = 48


@dataclass(frozen=True)
class View:
    """One video under a label, e.g. "original" or "" for a lone sample."""

    video_THWC: np.ndarray
    label: str = ""


@dataclass(frozen=True)
class Sample:
    """One thing to look at: the views stand side by side over the prompt.

    name    file stem, unique in its suite
    prompt  text below the views
    views   videos of equal rate
    fps     frames a second
    group   heading under which the page shows it
    facts   small print, name -> value (size, seed, PSNR)
    checks  attribute -> whether it was right
    """

    name: str
    prompt: str
    views: tuple[View, ...]
    fps: float
    group: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteResult:
    """Scores and samples of one suite.

    suite    its name on the command line
    title    heading on the page
    summary  one or two sentences: what was measured, on what, against what
    facts    settings that the numbers depend on (n, seed, solver, steps, guidance)
    clips    every clip's own numbers, JSON-able, in a fixed order: what a paired comparison needs
    """

    suite: str
    title: str
    summary: str
    scores: tuple[Score, ...]
    samples: tuple[Sample, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    clips: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class SavedSample:
    """A sample on disk: (label, file relative to the results folder) for each view."""

    name: str
    prompt: str
    views: tuple[tuple[str, str], ...]
    height: int
    width: int
    num_frames: int
    fps: float
    group: str
    facts: Mapping[str, Any]
    checks: Mapping[str, bool]


@dataclass(frozen=True)
class SavedResult:
    """A results folder read back."""

    folder: Path
    suite: str
    title: str
    summary: str
    scores: tuple[Score, ...]
    samples: tuple[SavedSample, ...]
    sheets: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any]
    run: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    clips: tuple[Mapping[str, Any], ...]


def save_result(
    folder: str | os.PathLike[str],
    result: SuiteResult,
    run: Mapping[str, Any],
    outcomes: Sequence[Outcome] = (),
) -> SavedResult:
    """Writes samples/, a contact sheet for each group, then results.json, which vouches for them.

    folder    created if absent; files of an earlier evaluation of the same suite are overwritten
    run       who and what: checkpoint, hashes, versions, hardware, wall time
    outcomes  requirements that were checked
    Returns   the result as `load_result` would read it
    """
    folder = Path(folder)
    names = [_slug(sample.name) for sample in result.samples]
    if len(set(names)) != len(names):
        raise bad("save_result", f"samples of {result.suite} share a name", "unique names")
    samples = [_save_sample(folder, sample) for sample in result.samples]
    sheets = {group: f"contact_{_slug(group)}.png" for group in _groups(result.samples)}
    for group, file in sheets.items():
        write_media(folder / file, _sheet(result.samples, group)[None], 1)
    record = {
        "schema": SCHEMA, "suite": result.suite, "title": result.title, "summary": result.summary,
        "run": run, "facts": result.facts, "scores": [to_json(score) for score in result.scores],
        "requirements": [vars(outcome) for outcome in outcomes],
        "sheets": [[group, file] for group, file in sheets.items()],
        "samples": [vars(sample) for sample in samples], "clips": list(result.clips),
    }  # fmt: skip
    text = json.dumps(plain(record), indent=1, allow_nan=False) + "\n"
    partial = folder / f".{RESULTS}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    partial.write_text(text)
    os.replace(partial, folder / RESULTS)
    return load_result(folder)


def load_result(folder: str | os.PathLike[str]) -> SavedResult:
    """Reads a results folder. Raises BadInput when there is none or it has another schema."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RESULTS).read_text())
    except FileNotFoundError:
        raise bad(str(folder), f"no {RESULTS}", "a folder written by `vidsim eval`") from None
    except json.JSONDecodeError as error:
        raise bad(str(folder / RESULTS), f"not JSON ({error})") from None
    if record.get("schema") != SCHEMA:
        raise bad(str(folder / RESULTS), f"schema {record.get('schema')}", f"schema {SCHEMA}",
                  "evaluate again with this version")  # fmt: skip
    samples = tuple(
        SavedSample(**{**row, "views": tuple((label, file) for label, file in row["views"])})
        for row in record["samples"]
    )
    outcomes = tuple(
        Outcome(**{**row, "value": float(row["value"])}) for row in record["requirements"]
    )
    return SavedResult(
        folder, record["suite"], record["title"], record["summary"],
        tuple(from_json(row) for row in record["scores"]), samples,
        tuple((group, file) for group, file in record["sheets"]), record["facts"], record["run"],
        outcomes, tuple(record["clips"]),
    )  # fmt: skip


def _save_sample(folder: Path, sample: Sample) -> SavedSample:
    T, H, W, _ = sample.views[0].video_THWC.shape
    files = []
    for number, view in enumerate(sample.views):
        ending = ".png" if len(view.video_THWC) == 1 else ".mp4"
        suffix = f"_{_slug(view.label) or number}" if len(sample.views) > 1 else ""
        file = f"samples/{_slug(sample.name)}{suffix}{ending}"
        write_media(folder / file, view.video_THWC, sample.fps, {"prompt": sample.prompt})
        files.append((view.label, file))
    return SavedSample(
        sample.name, sample.prompt, tuple(files), H, W, T, float(sample.fps), sample.group,
        dict(sample.facts), dict(sample.checks),
    )  # fmt: skip


def _groups(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.group for sample in samples))


def _sheet(samples: Sequence[Sample], group: str) -> np.ndarray:
    """The first samples of a group; views of one sample follow each other."""
    views = [
        (view.video_THWC, f"{view.label}: {sample.prompt}" if view.label else sample.prompt)
        for sample in samples
        if sample.group == group
        for view in sample.views
    ][:_SHEET_VIDEOS]
    videos, captions = zip(*views, strict=True)
    return contact_sheet(videos, captions, SheetConfig())


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
