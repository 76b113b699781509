"""The model card of an exported model, from what its runs recorded; nothing in it is typed by hand.

Every number comes from config.json, provenance.json and metrics.jsonl of the runs, from the index
and the latent cache that they name, and from results.json of the scores.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.index import ClipIndex
from vidsim.eval.markdown import markdown_table
from vidsim.eval.result import SavedResult
from vidsim.eval.score import to_json
from vidsim.generate.assets import find
from vidsim.generate.export import Rounded, num_bytes
from vidsim.store.joined import open_caches
from vidsim.store.weights import WEIGHTS, load_model
from vidsim.store.workdir import read_config, read_provenance
from vidsim.train.events import read_metrics

Facts = dict[str, Any]


def training_facts(workdir: str | os.PathLike[str]) -> Facts:
    """How one run was trained.

    Returns  task, steps, seed; minutes and flops (mean over the logged steps times all steps; flops
             None where the run does not count them), hardware, data (see `data_facts`), code
    Raises   BadInput for a folder without records
    """
    folder = Path(workdir)
    config, provenance = read_config(folder), read_provenance(folder)
    logged = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    if not logged or not provenance["starts"]:
        raise bad(f"{workdir}", "no training steps in metrics.jsonl", "a finished run")
    steps = int(logged[-1]["step"])

    def total(name: str) -> float | None:
        values = [row[name] for row in logged if name in row]
        return float(np.mean(values)) * steps if values else None

    starts = provenance["starts"]
    seconds = total("step_s")
    return {
        "task": config["task"], "steps": steps, "seed": config["run"]["seed"],
        "minutes": round(seconds / 60, 1) if seconds is not None else None,
        "flops": total("flops"),
        "hardware": sorted({f"{start['devices']}, {start['machine']}" for start in starts}),
        "starts": len(starts), "first start": starts[0]["time"],
        "code": {key: starts[-1][key] for key in ("vidsim", "git")},
        "libraries": starts[-1]["libraries"], "data": data_facts(config, provenance["data"]),
    }  # fmt: skip


def training_history(ckpt: str | os.PathLike[str], name: str = "denoiser") -> dict[str, Facts]:
    """How a model was trained, and before it those it started from.

    ckpt     a work directory, or an exported model, whose own card tells
    name     of the facts: "denoiser" or "autoencoder"
    Returns  {name: facts} for a run from random weights; before it, oldest first, the runs whose
             weights came to it as "denoiser, stage 1", ...
    Raises   BadInput when one of them keeps no records of its training
    """
    folder = find(ckpt)
    if (folder / WEIGHTS).is_file():
        told = load_model(folder).extra.get("training", {})
        if name not in told:
            raise bad(f"{ckpt}", "has no records of its training", "a model with a card")
        return {key: facts for key, facts in told.items() if key.startswith(name)}
    start = read_config(folder).get("start", "")
    before: list[Facts] = []
    for part in start.split(",") if start else ():
        told = list(training_history(part, name).values())
        before += [facts for facts in told if facts not in before]  # what both came from, once
    earlier = {f"{name}, stage {k}": facts for k, facts in enumerate(before, 1)}
    return earlier | {name: training_facts(folder)}


def data_facts(config: Mapping[str, Any], hashes: Mapping[str, str]) -> Facts:
    """What a run read: its index or latent cache, by hash; its contents where it is still there."""
    facts: Facts = {"hash": dict(hashes)}
    data = config["data"]
    if "index" in data and Path(data["index"]).is_file():
        index = ClipIndex.open(data["index"])
        if index.hash == hashes.get("index"):
            facts |= {"source": index.spec.get("spec", index.spec), "clips": len(index),
                      "frames": _counts(index.num_frames)}  # fmt: skip
    folders = [data[key] for key in ("cache",) if key in data] + list(data.get("more", ()))
    if folders and all(Path(folder).is_dir() for folder in folders):
        cache = open_caches(folders[0], folders[1:])
        if cache.hash == hashes.get("cache"):
            frames, sizes = cache.pieces["num_frames"], cache.size_HW
            facts |= {"pieces": len(frames), "frames": _counts(frames),
                      "sizes": sorted({f"{w}x{h}" for h, w in sizes.tolist()}),
                      "words": len(cache.meta.words)}  # fmt: skip
    return facts


def _shortened(name: str) -> str:
    """The first digits of a hash, of each where caches were joined."""
    return " + ".join(part[:16] for part in name.split("+"))


def check_scores(model: Rounded, results: Sequence[SavedResult]) -> None:
    """Raises BadInput for scores of other weights than those that are exported."""
    ours = {model.model.facts["weights_id"], model.weights_id}
    vaes = {model.model.vae.hash, model.config["vae_hash"]}
    for saved in results:
        theirs = saved.run.get("weights_id")
        if theirs not in ours and (theirs is not None or saved.run["vae_hash"] not in vaes):
            raise bad("--scores", f"{saved.folder} is of weights {theirs}",
                      " or ".join(sorted(ours)), "score the model that is exported")  # fmt: skip


def card_facts(
    name: str,
    licence: str,
    model: Rounded,
    training: Mapping[str, Facts],
    results: Sequence[SavedResult],
) -> Facts:
    """Everything that the card says, JSON-able.

    training  part ("autoencoder", "denoiser", ...) -> its `training_facts`
    results   of suites run on these weights, or on these weights in bfloat16
    """
    check_scores(model, results)
    return {
        "name": name, "licence": licence, "parameters": model.model.facts["parameters"],
        "weight_bytes": num_bytes(model),
        "training": dict(training),
        "scores": [
            {"suite": saved.suite, "facts": dict(saved.facts), "date": saved.run["date"],
             "hardware": saved.run["hardware"], "rounded": _rounded(model, saved),
             "rows": [to_json(s) for s in saved.scores if s.metric.count("/") < 2]}
            for saved in results
        ],
    }  # fmt: skip


def card_text(facts: Facts, results: Sequence[SavedResult]) -> str:
    """README.md of an exported model, Markdown. `results` in the order of facts["scores"]."""
    size = facts["weight_bytes"] / 1e6
    lines = [
        "---", f"license: {facts['licence'].lower()}", "library_name: vidsim", "---", "",
        f"# {facts['name']}", "",
        f"A text-to-video model made with vidsim: {facts['parameters']:,} parameters of the "
        f"denoiser and its text encoder; all weights {size:.1f} MB in bfloat16. Licence: "
        f"{facts['licence']}.",
        "", "## Training", "",
    ]  # fmt: skip
    lines += training_lines(facts["training"])
    for saved, entry in zip(results, facts["scores"], strict=True):
        what = "of these weights" if entry["rounded"] else "of the weights before rounding"
        about = ", ".join(f"{key} {value}" for key, value in entry["facts"].items())
        lines += ["", f"## Scores: {saved.suite}", "",
                  f"{saved.summary} {entry['date']}, {entry['hardware']}, {what}. {about}", "",
                  *markdown_table(saved)]  # fmt: skip
    return "\n".join(lines) + "\n"


def training_lines(training: Mapping[str, Facts]) -> list[str]:
    """A row for each stage, what they took together, and what each of them read."""
    runs = list(training.values())
    names = ("steps", "seed", "minutes", "FLOPs", "clips", "vidsim")
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for part, run in training.items():
        lines.append(f"| {part} | {' | '.join(_stage_cells(run))} |")
    minutes = _total([run["minutes"] for run in runs], ",.0f")
    flops = _total([run["flops"] for run in runs], ".3g")
    lines += [
        f"| together | {sum(run['steps'] for run in runs):,} | | {minutes} | {flops} | | |", "",
        "Minutes and FLOPs: the mean of the logged steps times all steps; compiling, reading and "
        "evaluating are not counted.", "",
        *_told_once("Hardware", {
            part: "; ".join(run["hardware"]) for part, run in training.items()
        }),
        *_told_once("Libraries", {
            part: ", ".join(f"{k} {v}" for k, v in run["libraries"].items() if v)
            for part, run in training.items()
        }),
        *_told_once("Data", {part: _data_text(run["data"]) for part, run in training.items()}),
    ]  # fmt: skip
    return lines


def _stage_cells(run: Facts) -> list[str]:
    data, code = run["data"], run["code"]
    clips = data.get("clips", data.get("pieces"))
    return [
        f"{run['steps']:,}", f"{run['seed']}", _total([run["minutes"]], "g"),
        _total([run["flops"]], ".3g"), "–" if clips is None else f"{clips:,}",
        f"{code['vidsim']}, git {(code['git'] or 'none')[:12]}",
    ]  # fmt: skip


def _total(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(sum(known), form) if len(known) == len(values) else "not counted"


def _told_once(title: str, texts: Mapping[str, str]) -> list[str]:
    """One line for what all stages have, else one for each text with the stages that have it."""
    stages: dict[str, list[str]] = {}
    for part, text in texts.items():
        stages.setdefault(text, []).append(part)
    if len(stages) == 1:
        return [f"{title}: {next(iter(stages))}.", ""]
    return [f"{title}:", "", *(f"- {'; '.join(of)}: {text}" for text, of in stages.items()), ""]


def _data_text(data: Facts) -> str:
    """Source, frames, sizes and hash of what a stage read."""
    source = data.get("source", "latents" if "pieces" in data else "no longer at hand")
    frames = ", ".join(f"{k} ({n:,})" for k, n in data.get("frames", {}).items())
    hashes = ", ".join(f"{k} {_shortened(v)}" for k, v in data["hash"].items())
    parts = [f"{source}", f"frames (clips) {frames}" if frames else "",
             f"sizes {', '.join(data['sizes'])}" if "sizes" in data else "", hashes]  # fmt: skip
    return "; ".join(part for part in parts if part)


def _rounded(model: Rounded, saved: SavedResult) -> bool:
    """Whether a result is of the bfloat16 weights themselves."""
    name = saved.run.get("weights_id")
    return name == model.weights_id if name else saved.run["vae_hash"] == model.config["vae_hash"]


def _counts(values: np.ndarray) -> dict[str, int]:
    found, count = np.unique(values, return_counts=True)
    return {str(int(k)): int(n) for k, n in zip(found, count, strict=True)}
