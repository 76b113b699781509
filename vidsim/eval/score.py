"""The one score row of every suite, its table, and requirements such as `vae/psnr>=30`."""

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.table import Table

from vidsim.core.errors import bad, nearest
from vidsim.eval.stats import Interval

Direction = Literal["higher", "lower", "info"]
_ARROW = {"higher": "↑", "lower": "↓", "info": "·"}
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_REQUIREMENT = re.compile(r"^\s*([^<>=\s]+)\s*(>=|<=|>|<)\s*(\S+)\s*$")


@dataclass(frozen=True)
class Score:
    """One measured number with all that is needed to judge it.

    metric      "suite/name" or "suite/name/detail", e.g. "prompts/colour/96x64"
    value       point estimate, in `unit`
    low, high   bounds of its 95% interval; NaN where there is none
    n           independent clips (or draws) behind it
    direction   whether higher or lower is better; "info" when neither
    floor       the best value that measuring itself allows (the parser on true renders), or None
    baselines   name -> value of what costs nothing: chance, a flat colour, copying a frame
    unit        "share", "dB", "nats", ... ; "" for none
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    direction: Direction
    floor: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        if self.direction not in _ARROW:
            raise bad("Score", f"direction {self.direction!r}", f"one of {', '.join(_ARROW)}")
        if re.search(r"[<>=\s]", self.metric) or not self.metric:
            raise bad("Score", f"metric {self.metric!r}", "a name without spaces or <>=")


def score_of(
    metric: str,
    interval: Interval,
    direction: Direction,
    *,
    floor: float | None = None,
    baselines: Mapping[str, float] | None = None,
    unit: str = "",
) -> Score:
    """A score row from a point and its interval."""
    return Score(
        metric, interval.value, interval.low, interval.high, interval.n, direction, floor,
        dict(baselines or {}), unit,
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A requirement, the number found and whether it holds. NaN never holds.

    metric  the row that decided; of several rows the one furthest from what is asked
    """

    text: str
    metric: str
    value: float
    passed: bool


def require(scores: Sequence[Score], requirements: str | Iterable[str]) -> list[Outcome]:
    """Checks requirements of the form `metric>=number` (also <=, >, <).

    scores        rows to look in
    requirements  each names a metric, or all rows below one by `metric/*`; with `.low` or `.high`
                  behind it, a bound of the interval is compared in place of the value
    Returns       one outcome a requirement; a command leaves with code 1 when any has not passed
    Raises        BadInput for a malformed requirement or an unknown metric (naming the nearest)
    """
    every = [requirements] if isinstance(requirements, str) else requirements
    return [_judge(scores, text) for text in every]


def _judge(scores: Sequence[Score], text: str) -> Outcome:
    name, sign, target = parse_requirement(text)
    metric, bound = re.match(r"^(.*?)(?:\.(low|high))?$", name).groups()  # type: ignore[union-attr]
    rows = [s for s in scores if s.metric == metric]
    if metric.endswith("/*"):
        rows = [s for s in scores if s.metric.startswith(metric[:-1])]
    if not rows:
        known = [score.metric for score in scores]
        raise bad("--require", f"no metric {metric!r} in this table", nearest(metric, known))
    found = [(getattr(row, bound or "value"), row.metric) for row in rows]
    passed = all(_OPERATORS[sign](value, target) for value, _ in found)
    worst = max if sign in ("<", "<=") else min
    missing = [pair for pair in found if math.isnan(pair[0])]
    value, decided = missing[0] if missing else worst(found)
    return Outcome(text.strip(), decided, value, passed)


def parse_requirement(text: str) -> tuple[str, str, float]:
    """Splits `metric>=number` into its three parts. Raises BadInput."""
    match = _REQUIREMENT.match(text)
    form = "metric, one of >= <= > <, a number; for example 'vae/psnr>=30'"
    if not match:
        raise bad("--require", f"{text!r}", form)
    metric, sign, number = match.groups()
    try:
        target = float(number)
    except ValueError:
        raise bad("--require", f"{number!r} in {text!r} is not a number", form) from None
    if math.isnan(target):
        raise bad("--require", f"{text!r} compares with NaN", form)
    return metric, sign, target


def format_value(value: float | None, unit: str = "") -> str:
    """A number for people: shares with three decimals, dB with two, others to four digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "share":
        return f"{value:.3f}"
    if unit == "dB":
        return f"{value:.2f}"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{int(value)}"
    return f"{value:.4g}"


def columns(score: Score) -> dict[str, str]:
    """The cells of one row, by heading; screen and page show the same ones."""
    unit = score.unit
    interval = "–"
    if not (math.isnan(score.low) or math.isnan(score.high)):
        interval = f"{format_value(score.low, unit)} … {format_value(score.high, unit)}"
    baselines = ", ".join(f"{k} {format_value(v, unit)}" for k, v in score.baselines.items())
    return {
        "metric": score.metric,
        "value": format_value(score.value, unit) + (" dB" if unit == "dB" else ""),
        "95% interval": interval,
        "n": str(score.n),
        "": _ARROW[score.direction],
        "floor": format_value(score.floor, unit),
        "baselines": baselines or "–",
    }


def verdicts(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by the metric of the row that decided."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.metric, []).append(outcome)
    return found


def table(scores: Sequence[Score], title: str = "") -> Table:
    """The score table for the screen; numbers stay whole down to 80 columns."""
    grid = Table(title=title or None, title_justify="left", box=box.SIMPLE, pad_edge=False,
                 title_style="bold", header_style="dim")  # fmt: skip
    for name in columns(scores[0]) if scores else ():
        right = name in ("value", "n", "floor")
        grid.add_column(name, justify="right" if right else "left", no_wrap=name != "baselines")
    for score in scores:
        grid.add_row(*columns(score).values())
    return grid


def verdict_line(outcome: Outcome, unit: str = "") -> str:
    """One outcome as a line of text."""
    word = "pass" if outcome.passed else "FAIL"
    return f"{word}  {outcome.text}: {outcome.metric} is {format_value(outcome.value, unit)}"


def to_json(score: Score) -> dict[str, Any]:
    """JSON-able form; numbers that JSON lacks become the strings "inf", "-inf" and "nan"."""
    return plain(asdict(score))


def from_json(row: Mapping[str, Any]) -> Score:
    """The inverse of `to_json`."""
    numbers = {k: float(row[k]) for k in ("value", "low", "high")}
    floor = None if row["floor"] is None else float(row["floor"])
    baselines = {k: float(v) for k, v in row["baselines"].items()}
    return Score(**{**row, **numbers, "floor": floor, "baselines": baselines})


def plain(value: Any) -> Any:
    """Replaces what JSON lacks: non-finite floats by strings, numpy values by plain ones."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
