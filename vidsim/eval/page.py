"""Builds one HTML page from results folders: no script, no request, every video and plot inside it.

Text from outside (prompts, captions, paths) is escaped wherever it enters.
"""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidsim.eval.page_style import CSS
from vidsim.eval.plots import intervals_svg
from vidsim.eval.result import RESULTS, SavedResult, SavedSample
from vidsim.eval.score import Outcome, Score, columns, format_value, verdicts

_MIME = {".mp4": "video/mp4", ".png": "image/png"}
MEDIA_BYTES = 10_500_000  # in base64 a third more: the page stays below 15 MB
_ROW_PX = 150
_CARD_PX = (150, 330)
_NUMERIC = ("value", "n", "floor")


@dataclass
class Budget:
    """Bytes of media a page may still take in, and what was left out."""

    left: int

    def take(self, size: int) -> bool:
        """True, and the bytes are gone, when they fit."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Curves:
    """Plots as <svg> elements under a heading: of one training run, or of many.

    intro   a sentence or two below the heading
    tables  from `plain_table`, below the plots
    """

    title: str
    plots: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    intro: str = ""
    tables: tuple[str, ...] = ()


def build_page(
    title: str,
    lead: str,
    facts: Mapping[str, Any],
    results: Sequence[SavedResult],
    curves: Sequence[Curves] = (),
    media_bytes: int = MEDIA_BYTES,
    record: str = RESULTS,
) -> str:
    """The whole page.

    title    heading and title of the document
    lead     a sentence below it
    facts    name -> value of the run: date, hardware, config hash, ...
    results  one section each, in order; their headline rows also open the page
    curves   one section of plots for each training run
    media_bytes  of videos and images at most; what does not fit is counted, not shown
    record       name of the file beside it that holds the numbers
    Returns  a complete HTML document
    """
    budget = Budget(media_bytes)
    outcomes = [outcome for result in results for outcome in result.outcomes]
    failed = sum(not outcome.passed for outcome in outcomes)
    verdict = ""
    if outcomes:
        word = f"{failed} of {len(outcomes)} requirements failed" if failed else (
            f"all {len(outcomes)} requirements met")  # fmt: skip
        verdict = f' <span class="pill {"fail" if failed else "pass"}">{word}</span>'
    parts = [
        f"<header><h1>{_text(title)}</h1><p class='lead'>{_text(lead)}{verdict}</p>",
        facts_block(facts), "</header>",
    ]  # fmt: skip
    if any(result.scores for result in results):
        parts.append(_section("Scores", _LEGEND, _headline_table(results)))
    parts += [_curves_section(run) for run in curves]
    parts += [_result_section(result, budget) for result in results]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n<footer>Written by vidsim. Every number above is in {record}.</footer>"
        + "\n</main>\n</body>\n</html>\n"
    )


def write_page(path: str | os.PathLike[str], page: str) -> Path:
    """Writes the document under its name once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


_LEGEND = (
    "Point estimates with 95% intervals over n independent clips. Floor: the best value that "
    "measuring itself allows. Baselines: what costs nothing. ↑ higher is better, ↓ lower."
)


def facts_block(facts: Mapping[str, Any]) -> str:
    """Names and values in a grid."""
    rows = (f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
    return f"<dl class='facts'>{''.join(rows)}</dl>" if facts else ""


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text; every cell is escaped."""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='wide'><table>{inner}</table></div>"


def score_table(scores: Sequence[Score], outcomes: Sequence[Outcome] = ()) -> str:
    """The same cells as the table on the screen, with a bar for shares."""
    if not scores:
        return ""
    return _table(scores, _rows(scores, outcomes), bool(outcomes))


def _headline_table(results: Sequence[SavedResult]) -> str:
    every = [result for result in results if result.scores]
    judged = any(result.outcomes for result in every)
    width = len(columns(every[0].scores[0])) + 1 + judged
    rows = []
    for result in every:
        rows.append(f"<tr class='suite'><td colspan='{width}'>{_text(result.title)}</td></tr>")
        required = set(verdicts(result.outcomes))
        rows += _rows(
            [s for s in result.scores if not _detail(s) or s.metric in required],
            result.outcomes, judged,
        )  # fmt: skip
    return _table(every[0].scores, rows, judged)


def _table(scores: Sequence[Score], rows: Sequence[str], judged: bool) -> str:
    heads = []
    for name in columns(scores[0]):
        numeric = " class='num'" if name in _NUMERIC else ""
        heads.append(f"<th{numeric}>{_text(name)}</th>")
        if name == "value":
            heads.append("<th></th>")
    if judged:
        heads.append("<th>required</th>")
    return (
        f"<div class='wide'><table><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _rows(
    scores: Sequence[Score], outcomes: Sequence[Outcome], judged: bool | None = None
) -> list[str]:
    by_metric = verdicts(outcomes)
    rows = []
    for score in scores:
        cells = []
        for name, cell in columns(score).items():
            kind = " ".join(filter(None, [
                "num" if name in _NUMERIC else "", "value" if name == "value" else "",
                "long" if name == "baselines" else ""]))  # fmt: skip
            cells.append(
                f"<td class='{kind}'>{_text(cell)}</td>" if kind else f"<td>{_text(cell)}</td>"
            )
            if name == "value":
                cells.append(f"<td>{_bar(score)}</td>")
        if bool(outcomes) if judged is None else judged:
            pills = " ".join(
                _pill(o.passed, _asked(o, score)) for o in by_metric.get(score.metric, [])
            )
            cells.append(f"<td>{pills}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return rows


def _bar(score: Score) -> str:
    """A share from 0 to 1 drawn: interval, point, and a tick at chance."""
    if score.unit != "share" or not math.isfinite(score.value):
        return ""
    parts = ["<rect class='track' x='0' y='6' width='110' height='2' rx='1'/>"]
    if math.isfinite(score.low) and math.isfinite(score.high):
        width = max(1.0, 110 * (score.high - score.low))
        parts.append(
            f"<rect class='range' x='{110 * score.low:.1f}' y='4' height='6' rx='2'"
            f" width='{width:.1f}'/>"
        )
    if "chance" in score.baselines:
        x = 110 * score.baselines["chance"]
        parts.append(f"<line class='base' x1='{x:.1f}' x2='{x:.1f}' y1='2' y2='12'/>")
    centre = 3 + 104 * min(1.0, max(0.0, score.value))
    parts.append(f"<circle class='point' cx='{centre:.1f}' cy='7' r='3'/>")
    return f"<svg class='bar' viewBox='0 0 110 14' aria-hidden='true'>{''.join(parts)}</svg>"


def _detail(score: Score) -> bool:
    return score.metric.count("/") > 1


def _section(title: str, intro: str, *blocks: str) -> str:
    lead = f"<p class='small'>{_text(intro)}</p>" if intro else ""
    return f"<section><h2>{_text(title)}</h2>{lead}{''.join(blocks)}</section>"


def _curves_section(run: Curves) -> str:
    plots = "".join(f"<div>{svg}</div>" for svg in run.plots)
    shown = f"<div class='plots'>{plots}</div>" if plots else ""
    return _section(run.title, run.intro, facts_block(run.facts), shown, *run.tables)


def _result_section(result: SavedResult, budget: Budget) -> str:
    details = [score for score in result.scores if _detail(score)]
    plots = "".join(f"<div>{svg}</div>" for svg in _detail_plots(details))
    blocks = [facts_block(result.facts), f"<div class='plots'>{plots}</div>" if plots else ""]
    if details:
        blocks.append(
            f"<details><summary>{len(details)} detailed rows</summary>"
            f"{score_table(details)}</details>"
        )
    groups: dict[str, list[SavedSample]] = {}
    for sample in result.samples:
        groups.setdefault(sample.group, []).append(sample)
    sheets = dict(result.sheets)
    for group, samples in groups.items():
        blocks.append(f"<h3>{_text(group)}</h3>{_gallery(result.folder, samples, budget)}")
        if group in sheets:
            blocks.append(_sheet(result.folder / sheets[group], budget))
    return _section(result.title, result.summary, *blocks)


def _detail_plots(details: Sequence[Score]) -> list[str]:
    """One plot of intervals for each "suite/name" that has several details."""
    families: dict[str, list[Score]] = {}
    for score in details:
        families.setdefault("/".join(score.metric.split("/")[:2]), []).append(score)
    plots = []
    for name, scores in families.items():
        shown = [s for s in scores if math.isfinite(s.value)]
        if len(shown) < 2:
            continue
        rows = [(f"{s.metric.split('/', 2)[2]}  (n {s.n})", s.value, s.low, s.high) for s in shown]
        common = {
            k: v for k, v in shown[0].baselines.items()
            if all(math.isclose(s.baselines.get(k, math.inf), v) for s in shown)
        }  # fmt: skip
        unit = shown[0].unit
        x_range = (-0.02, 1.02) if unit == "share" else None
        plots.append(intervals_svg(rows, title=name, x_label=unit, marks=common, x_range=x_range))
    return plots


def _gallery(folder: Path, samples: Sequence[SavedSample], budget: Budget) -> str:
    cards = []
    for sample in samples:
        files = [folder / file for _, file in sample.views]
        if not budget.take(sum(file.stat().st_size for file in files)):
            break
        cards.append(_card(folder, sample))
    rest = len(samples) - len(cards)
    note = f"<p class='small'>{rest} more in the samples folder.</p>" if rest else ""
    return f"<div class='gallery'>{''.join(cards)}</div>{note}"


def _card(folder: Path, sample: SavedSample) -> str:
    width = _ROW_PX * sample.width / sample.height
    low, high = _CARD_PX
    view_px = min(max(width, 60), high)
    views = []
    for label, file in sample.views:
        caption = f"<small>{_text(label)}</small>" if label else ""
        views.append(
            f"<div class='view' style='width:{view_px:.0f}px'>"
            f"{_media(folder / file, sample)}{caption}</div>"
        )
    card_px = max(low, view_px * len(views) + 6 * (len(views) - 1))
    frames = f"{sample.num_frames} frames at {sample.fps:g}/s" if sample.num_frames > 1 else "image"
    facts = [f"{sample.width}×{sample.height}", frames]
    facts += [f"{name} {_number(value)}" for name, value in sample.facts.items()]
    checks = "".join(_pill(right, name) for name, right in sample.checks.items())
    return (
        f"<figure class='card' style='width:{card_px + 18:.0f}px'>"
        f"<div class='views'>{''.join(views)}</div>"
        f"<figcaption>{_text(sample.prompt) or '<i>(empty prompt)</i>'}"
        f"<span class='meta'>{_text(' · '.join(facts))}</span>"
        + (f"<div class='checks'>{checks}</div>" if checks else "")
        + "</figcaption></figure>"
    )


def _media(path: Path, sample: SavedSample) -> str:
    source = _data_uri(path)
    shape = f"style='aspect-ratio:{sample.width}/{sample.height}'"
    if path.suffix == ".mp4":
        return f"<video autoplay loop muted playsinline {shape} src='{source}'></video>"
    return f"<img alt='{_text(sample.prompt)}' {shape} src='{source}'>"


def _sheet(path: Path, budget: Budget) -> str:
    if not budget.take(path.stat().st_size):
        return f"<p class='small'>Contact sheet: {_text(path.name)}</p>"
    image = f"<img class='sheet' alt='contact sheet' src='{_data_uri(path)}'>"
    return f"<details><summary>Contact sheet</summary>{image}</details>"


def _data_uri(path: Path) -> str:
    return f"data:{_MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _asked(outcome: Outcome, score: Score) -> str:
    """A requirement without the name of the row it stands in."""
    return outcome.text.removeprefix(score.metric)


def _pill(right: bool, text: str) -> str:
    kind, mark = ("pass", "✓") if right else ("fail", "✗")
    return f"<span class='pill {kind}'>{mark} {_text(text)}</span>"


def _number(value: Any) -> str:
    return format_value(value) if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
