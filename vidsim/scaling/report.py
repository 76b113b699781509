"""scaling.json and the page of a comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.eval.page import Curves, build_page, plain_table, write_page
from vidsim.eval.plots import points_svg
from vidsim.eval.result import SavedResult, SavedSample
from vidsim.scaling.compare import AT_CHANCE, Reading, Verdict, emergence, skill_share
from vidsim.scaling.fit import MIN_POINTS, Fit
from vidsim.scaling.summary import WORLD_NOTE, Findings, losses_SN, right_SN, summarise
from vidsim.store.manifest import write_atomic

SUMMARY, PAGE = "scaling.json", "report.html"
FLOPS = "training FLOPs"


def write_comparison(folder: Path, found: Findings, facts: Mapping[str, Any]) -> Path:
    """Writes scaling.json, then the page; returns the page's path.

    facts  of the comparison: family, reading, base FLOPs, date, hardware
    """
    text = json.dumps(summarise(found, facts), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / SUMMARY, text.encode())
    return write_page(folder / PAGE, page(folder, found, facts))


def page(folder: Path, found: Findings, facts: Mapping[str, Any]) -> str:
    """The page as one document."""
    sections = [
        _loss_section(found), _band_section(found), _verdict_section(found),
        _skill_section(found), _emergence_section(found),
    ]  # fmt: skip
    lead = (
        f"{', '.join(found.presets)}: the same autoencoder, data order, held-out clips, prompts, "
        "noise, sampler and guidance; training FLOPs differ."
    )
    sides = [_side_by_side(folder, found)]
    return build_page("vidsim scaling", lead, facts, sides, sections, record=SUMMARY)


def lines(found: Findings) -> list[str]:
    """What the screen shows: losses, laws, verdicts, emergence."""
    shown = [f"{name}: loss {losses_SN(g).mean():.4f}, {g[0].flops:.3g} FLOPs, {len(g)} seeds"
             for name, g in found.groups.items()]  # fmt: skip
    shown += [fit_text(name, fit) for name, fit in found.fits.items()]
    shown += [verdict_text(*row) for row in found.comparisons]
    for name, rows in found.readings.items():
        shown.append(f"{name}: first above chance: {reached_text(rows)}")
    return shown


def fit_text(name: str, fit: Fit) -> str:
    """One line about a law."""
    low, high = fit.exponent.low, fit.exponent.high
    interval = (
        f"95% interval {low:.4f} to {high:.4f}" if fit.points >= MIN_POINTS
        else f"no interval below {MIN_POINTS} points"
    )  # fmt: skip
    return (f"{name}: loss = {fit.law.factor:.4g} * FLOPs^{fit.law.exponent:.4f} over {fit.points} "
            f"points; {interval}; rms log residual {fit.residual:.4f}")  # fmt: skip


def verdict_text(metric: str, ours: str, theirs: str, verdict: Verdict) -> str:
    """One line about a comparison; the word is the verdict's own."""
    d = verdict.difference
    seeds = "unknown" if np.isnan(verdict.spread) else f"{verdict.spread:.4f}"
    return (f"{metric}, {ours} against {theirs}: {verdict.word}; difference {d.value:+.4f} "
            f"[{d.low:+.4f}, {d.high:+.4f}], seeds alone up to {seeds}")  # fmt: skip


def reached_text(rows: Sequence[Reading]) -> str:
    """The compute at which a skill first excludes chance, or "not reached"."""
    found = emergence(rows)
    if found.compute is None:
        return "not reached"
    return f"{found.compute:.3g} FLOPs" + ("" if found.holds else ", lost again beyond it")


def _loss_section(found: Findings) -> Curves:
    groups, laws, measured = found.groups, found.fits, found.measured
    series = {
        "members": [_point(np.mean([m.flops for m in g]), losses_SN(g)) for g in groups.values()],
        "on the way": [_point(m.flops, losses_SN([m])) for m in measured if m.member is None],
    }
    compute = [m.flops for m in measured]
    x = np.geomspace(min(compute), max(compute), 32).tolist()
    curves = {f"law, {name}": (x, [fit.law(c) for c in x]) for name, fit in laws.items()}
    svg = points_svg(
        {k: v for k, v in series.items() if v}, title="Held-out loss against compute",
        x_label=FLOPS, y_label="velocity error", laws=curves, log_y=True,
    )  # fmt: skip
    rows = [
        [name, f"{f.law.factor:.4g}", f"{f.law.exponent:.4f}", _bounds(f.exponent.low,
         f.exponent.high), str(f.points), f"{f.residual:.4f}"] for name, f in laws.items()
    ]  # fmt: skip
    heads = ["law", "factor", "exponent", "95% interval", "points", "rms log residual"]
    intro = (
        "loss = factor × FLOPs^exponent, by least squares in logarithms. Intervals by bootstrap "
        f"over clips and seeds, none below {MIN_POINTS} points. Compute is the denoiser's own: "
        "clip tokens with the sum of squared lengths, no padding."
    )
    return Curves("Loss against compute", (svg,), {}, intro, (plain_table(heads, rows),))


def _band_section(found: Findings) -> Curves:
    groups, times = found.groups, found.measured[0].times
    series = {
        f"t = {t:g}": [
            _point(np.mean([m.flops for m in g]), losses_SN(g, k)) for g in groups.values()
        ]
        for k, t in enumerate(times)
    }
    svg = points_svg(series, title="Held-out loss by noise time", x_label=FLOPS,
                     y_label="velocity error", log_y=True, join=True)  # fmt: skip
    rows = [
        [name, *(f"{losses_SN(g, k).mean():.4f}" for k in range(len(times)))]
        for name, g in groups.items()
    ]
    intro = "The same clips and the same noise for every member. Time runs from 0 = data."
    table = plain_table(["member", *(f"t = {t:g}" for t in times)], rows)
    return Curves("Loss by time band", (svg,), {}, intro, (table,))


def _verdict_section(found: Findings) -> Curves:
    rows = []
    for metric, ours, theirs, v in found.comparisons:
        seeds = "–" if np.isnan(v.spread) else f"{v.spread:.4f}"
        d = v.difference
        rows.append([metric, f"{ours} − {theirs}", f"{d.value:+.4f}", _bounds(d.low, d.high),
                     seeds, v.word])  # fmt: skip
    heads = ["metric", "members", "difference", "95% interval, paired", "seeds alone", "verdict"]
    intro = (
        "A verdict needs the paired interval to exclude zero and the difference to exceed what "
        "other seeds alone would change."
    )
    return Curves("Members against each other", (), {}, intro, (plain_table(heads, rows),))


def _skill_section(found: Findings) -> Curves:
    groups = {name: found.groups[name] for name in found.presets}
    skills = next(iter(groups.values()))[0].skills
    rows = []
    for skill, row in skills.items():
        cells = []
        for group in groups.values():
            share = skill_share(right_SN(group, skill))
            text = f"{share.value:.3f} ({share.low:.3f}–{share.high:.3f})"
            cells.append(text if share.low > row.chance else f"{AT_CHANCE}: {text}")
        rows.append([skill, *cells, f"{row.chance:.3f}", str(len(row.right_N))])
    table = plain_table(["skill", *groups, "chance", "prompts"], rows)
    intro = "Share of held-out prompts that the world's parser reads back right. " + WORLD_NOTE
    return Curves("World scores", (), {}, intro, (table,))


def _emergence_section(found: Findings) -> Curves:
    plots, rows = [], []
    for name, points in found.readings.items():
        dots = [(r.compute, r.share.value, r.share.low, r.share.high) for r in points]
        plots.append(points_svg({name: dots}, title=name, x_label=FLOPS, y_label="share right",
                                marks={"chance": points[0].chance}, join=True))  # fmt: skip
        rows.append([name, f"{points[0].chance:.3f}", reached_text(points)])
    intro = (
        "Every world skill of every member and of checkpoints on the way, with its 95% interval, "
        "and the compute at which the interval first lies above chance. " + WORLD_NOTE
    )
    table = plain_table(["skill", "chance", "first above chance"], rows)
    return Curves("Emergence", tuple(plots), {}, intro, (table,))


def _side_by_side(folder: Path, found: Findings) -> SavedResult:
    """The same prompts and seeds, a column for each preset (seed 0)."""
    columns = {name: found.groups[name][0].prompts for name in found.presets}
    by_name = [{s.name: s for s in result.samples} for result in columns.values()]
    samples = []
    for name, first in by_name[0].items():
        if all(name in one for one in by_name):
            views = tuple(
                (preset, str((result.folder / one[name].views[0][1]).relative_to(folder)))
                for (preset, result), one in zip(columns.items(), by_name, strict=True)
            )
            samples.append(_sample(first, views))
    return SavedResult(
        folder, "scaling", "The same prompts and seeds",
        f"{', '.join(columns)} side by side, none picked. {WORLD_NOTE}", (), tuple(samples), (),
        {}, {}, (), (),
    )  # fmt: skip


def _sample(first: SavedSample, views: tuple[tuple[str, str], ...]) -> SavedSample:
    return SavedSample(
        first.name, first.prompt, views, first.height, first.width, first.num_frames, first.fps,
        "Columns: presets", {k: v for k, v in first.facts.items() if k == "seed"}, {},
    )  # fmt: skip


def _point(compute: Any, losses: np.ndarray) -> tuple[float, float, float, float]:
    """A dot with the range of its seeds as whisker, none for one seed."""
    means = losses.mean(1)
    bounds = (float(means.min()), float(means.max())) if len(means) > 1 else (np.nan, np.nan)
    return float(compute), float(means.mean()), *bounds


def _bounds(low: float, high: float) -> str:
    return "–" if np.isnan(low) or np.isnan(high) else f"{low:+.4f} … {high:+.4f}"
