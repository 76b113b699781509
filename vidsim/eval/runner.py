"""Runs suites on checkpoints: results.json, samples, contact sheets, report.html, and the screen.

A new suite is one entry of SUITES: a configuration and a function to a `SuiteResult`. Tables, files
and pages are the same for all.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from vidsim.config import from_dict
from vidsim.core.errors import BadInput, bad, nearest
from vidsim.eval.page import Curves, build_page, write_page
from vidsim.eval.plots import lines_svg
from vidsim.eval.result import RESULTS, SavedResult, SuiteResult, load_result, save_result
from vidsim.eval.score import (
    Outcome,
    parse_requirement,
    plain,
    require,
    table,
    verdict_line,
    verdicts,
)
from vidsim.eval.suites import capabilities, loss, prompts, retrieval, vae
from vidsim.generate.model import Model, load, load_vae
from vidsim.store.workdir import code_facts
from vidsim.train.events import read_metrics

Progress = Callable[[str, int, int], None]
REPORT = "report.html"


@dataclass(frozen=True)
class Suite:
    """How a suite is configured and run; `denoiser` says whether it needs more than a VAE."""

    config: type[Any]
    run: Callable[[Any, Any, Progress | None], SuiteResult]
    denoiser: bool
    about: str


SUITES = {
    "vae": Suite(vae.VaeSuite, vae.run, False, "reconstruction of held-out clips"),
    "loss": Suite(loss.LossSuite, loss.run, True, "fixed-noise loss by time and size"),
    "prompts": Suite(prompts.PromptsSuite, prompts.run, True, "prompts read back by a parser"),
    "capabilities": Suite(
        capabilities.CapabilitiesSuite,
        capabilities.run,
        True,
        "animate, extend, join, loop, edit, sizes beside what costs nothing",
    ),
    "retrieval": Suite(
        retrieval.RetrievalSuite, retrieval.run, True, "each caption brings back its own clip"
    ),
}


def evaluate(
    suite: str,
    ckpt: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    *,
    step: int | None = None,
    ema: bool = True,
    requirements: Sequence[str] = (),
    progress: Progress | None = None,
) -> SavedResult:
    """Runs one suite on a checkpoint and writes everything to `out`.

    suite         name in SUITES
    ckpt          work directory of a denoiser; for suite vae also of a VAE, or an exported VAE
    settings      of the suite's configuration
    requirements  e.g. "vae/psnr>=30"; the caller leaves with code 1 when one is not met
    progress      called as (stage, done, of)
    Returns       the results as they lie on disk
    Raises        BadInput before anything is compiled or written, where that can be known
    """
    if suite not in SUITES:
        raise bad("--suite", f"unknown suite {suite!r}", nearest(suite, SUITES))
    for text in requirements:
        parse_requirement(text)
    entry = SUITES[suite]
    config: Any = from_dict(entry.config, settings or {}, f"suite {suite}")
    folder = check_out(out, suite)
    model = load(ckpt, step, ema) if entry.denoiser else load_vae(ckpt, step, ema)
    start_s = time.perf_counter()
    result = entry.run(model, config, progress)
    run = run_facts(model, asdict(config)) | {"seconds": round(time.perf_counter() - start_s, 1)}
    outcomes: list[Outcome] = []
    complaint: BadInput | None = None
    try:
        outcomes = require(result.scores, requirements)
    except BadInput as error:  # an unknown metric must not cost the work that was done
        complaint = error
    saved = save_result(folder, result, run, outcomes)
    write_report(
        folder / REPORT, f"vidsim eval: {suite}", str(ckpt), [saved], facts=page_facts(run)
    )
    if complaint is not None:
        raise complaint
    return saved


def check_out(out: str | os.PathLike[str], suite: str) -> Path:
    """The results folder. Raises BadInput when it holds anything but results of this suite."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not folder.is_dir() or not (folder / RESULTS).exists():
            raise bad("--out", f"{folder} holds other files", "a new or empty folder")
        found = load_result(folder).suite
        if found != suite:
            raise bad("--out", f"{folder} holds results of suite {found}", "a new or empty folder")
    return folder


def run_facts(model: Model | vae.VaeModel, config: Mapping[str, Any]) -> dict[str, Any]:
    """Who was measured, how, where and with what."""
    vae_model = model.vae if isinstance(model, Model) else model
    facts = {**vae_model.facts, **model.facts, "vae_hash": vae_model.hash}
    digest = hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        **facts,
        "hardware": hardware(),
        "suite_config": plain(config),
        "suite_config_hash": digest[:16],
        "code": code_facts(),
    }


def page_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run that head its page."""
    code = run["code"]
    shown = {
        "date": run["date"], "hardware": run["hardware"], "checkpoint": run.get("checkpoint"),
        "step": run.get("step"), "weights": run.get("weights"),
        "parameters": f"{run['parameters']:,}" if "parameters" in run else None,
        "VAE": run["vae_hash"][:12], "settings": run["suite_config_hash"],
        "seconds": run.get("seconds"), "vidsim": code["vidsim"], "git": (code["git"] or "")[:12],
    }  # fmt: skip
    return {name: value for name, value in shown.items() if value not in (None, "")}


def hardware() -> str:
    """Cores, memory and accelerators of this process, for people."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{cores} CPU core{'s' if cores != 1 else ''}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        text += f", {memory / 2**30:.0f} GiB"
    device = jax.devices()[0]
    if device.platform != "cpu":
        text += f", {jax.device_count()} × {device.device_kind}"
    return text


def write_report(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    results: Sequence[SavedResult],
    *,
    runs: Mapping[str, str | os.PathLike[str]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """One page over any number of results folders and training runs.

    results  from `save_result` or `load_result`
    runs     heading -> work directory whose curves are shown
    facts    head of the page
    """
    curves = [training_curves(name, workdir) for name, workdir in (runs or {}).items()]
    return write_page(path, build_page(title, lead, facts or {}, results, curves))


def training_curves(title: str, workdir: str | os.PathLike[str]) -> Curves:
    """Plots of a run's metrics.jsonl: losses, quality, validation by time. Raises BadInput."""
    path = Path(workdir) / "metrics.jsonl"
    if not path.is_file():
        raise bad(f"{workdir}", "no metrics.jsonl", "a work directory of vidsim train")
    records = read_metrics(path)
    train = [record for record in records if record["kind"] == "train"]
    plots = []
    if any("loss" in record for record in train):
        plots.append(
            lines_svg({"loss": _series(train, "loss")}, title="Training loss", smooth=True)
        )
    if any("psnr" in record for record in train):
        plots.append(lines_svg({"PSNR": _series(train, "psnr")}, title="Training PSNR",
                               y_label="dB", smooth=True))  # fmt: skip
    held_out = [record for record in records if record["kind"] == "validation"]
    if held_out:
        times = sorted(key for key in held_out[-1] if key.startswith("t="))
        series = {"all": _series(held_out, "loss")}
        series |= {name.replace("=", " "): _series(held_out, name) for name in times}
        plots.append(lines_svg(series, title="Validation loss by noise time", log_y=True))
    last = train[-1] if train else {}
    steps_s = [record["step_s"] for record in train if "step_s" in record]
    facts = {
        "steps": last.get("step"),
        "last loss": f"{last['loss']:.4g}" if "loss" in last else None,
        "seconds a step": f"{sorted(steps_s)[len(steps_s) // 2]:.3g}" if steps_s else None,
    }
    shown = {name: value for name, value in facts.items() if value is not None}
    return Curves(title, tuple(plots), shown)


def show(results: Sequence[SavedResult], console: Console | None = None) -> bool:
    """Prints the table of each suite (headline rows and required ones) and a last line.

    Returns  whether every requirement is met
    """
    console = console or Console()
    outcomes = [outcome for saved in results for outcome in saved.outcomes]
    for saved in results:
        required = set(verdicts(saved.outcomes))
        rows = [s for s in saved.scores if s.metric.count("/") < 2 or s.metric in required]
        console.print(table(rows, saved.title))
        unit = {score.metric: score.unit for score in saved.scores}
        for outcome in saved.outcomes:
            colour = "green" if outcome.passed else "bold red"
            line = verdict_line(outcome, unit[outcome.metric])
            console.print(line, style=colour, highlight=False, markup=False)
    met = sum(outcome.passed for outcome in outcomes)
    if outcomes:
        word = "PASS" if met == len(outcomes) else "FAIL"
        console.print(f"{word}: {met} of {len(outcomes)} requirements met", highlight=False)
    return met == len(outcomes)


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    have = [record for record in records if key in record]
    return [record["step"] for record in have], [float(record[key]) for record in have]
