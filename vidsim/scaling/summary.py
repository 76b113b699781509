"""From measured checkpoints to what may be said of them: scaling.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidsim.eval.stats import Interval, clip_bootstrap
from vidsim.scaling.compare import AT_CHANCE, Reading, Verdict, compare, emergence, skill_share
from vidsim.scaling.families import FAMILIES, MULTIPLES
from vidsim.scaling.fit import Fit, Point, fit_points
from vidsim.scaling.jobs import TRUNK
from vidsim.scaling.measure import Measured

WORLD_NOTE = "It shows the shapes world alone."
MEMBERS, CONSTANT = "members", "constant rate"
RESAMPLES = 2000

Groups = dict[str, list[Measured]]


@dataclass(frozen=True)
class Findings:
    """What the measurements say, worked out once.

    presets      members that are compared, in rising compute
    measured     every checkpoint
    groups       cooled-down members
    fits         see `fits`;  comparisons, readings  see `comparisons`, `skill_readings`
    """

    presets: tuple[str, ...]
    measured: tuple[Measured, ...]
    groups: Groups
    fits: dict[str, Fit]
    comparisons: list[tuple[str, str, str, Verdict]]
    readings: dict[str, list[Reading]]


def find(measured: Sequence[Measured], presets: Sequence[str]) -> Findings:
    """Fits, comparisons and readings of measured checkpoints."""
    groups = member_groups(measured)
    shown = tuple(name for name in groups if name in presets)
    return Findings(
        shown, tuple(measured), groups, fits(measured), comparisons(groups, shown),
        skill_readings(measured),
    )  # fmt: skip


def member_groups(measured: Sequence[Measured]) -> Groups:
    """Cooled-down members by name, in rising compute; the seeds of each in order."""
    names = [name for name in MULTIPLES if any(m.member == name for m in measured)]
    return {
        name: sorted((m for m in measured if m.member == name), key=lambda m: m.seed)
        for name in names
    }


def losses_SN(group: Sequence[Measured], band: int | None = None) -> np.ndarray:
    """float64[seeds, clips] loss of a member: over all times, or at one."""
    pick = slice(None) if band is None else [band]
    return np.stack([m.losses_NK[:, pick].mean(1) for m in group])


def right_SN(group: Sequence[Measured], skill: str) -> np.ndarray:
    """float64[seeds, prompts] whether a skill was right."""
    return np.stack([m.skills[skill].right_N for m in group])


def fits(measured: Sequence[Measured], seed: int = 0) -> dict[str, Fit]:
    """The power law of the members, and that of the checkpoints at constant rate where there are.

    Both over the mean of all times; a law needs two computes, its interval five.
    """
    found = {}
    groups = member_groups(measured)
    points = [Point(_compute(g), losses_SN(g)) for g in groups.values()]
    if len(points) > 1:
        found[MEMBERS] = fit_points(points, seed=seed)
    trunk = [Point(m.flops, losses_SN([m])) for m in measured if f"/{TRUNK}-" in m.job]
    if len({p.compute for p in trunk}) > 1:
        found[CONSTANT] = fit_points(trunk, seed=seed)
    return found


def comparisons(groups: Groups, presets: Sequence[str]) -> list[tuple[str, str, str, Verdict]]:
    """(metric, ours, theirs, verdict) of each preset against each smaller one."""
    rows = []
    for k, ours in enumerate(presets):
        for theirs in presets[:k]:
            for metric, direction, chance, values in _metrics(groups):
                others = [v for name, v in values.items() if name not in (ours, theirs)]
                verdict = compare(
                    values[ours], values[theirs], direction, chance=chance, others=others,
                    resamples=RESAMPLES,
                )  # fmt: skip
                rows.append((metric, ours, theirs, verdict))
    return rows


def skill_readings(measured: Sequence[Measured]) -> dict[str, list[Reading]]:
    """Each skill of every checkpoint, in rising compute; seeds of one member are joined."""
    groups: dict[tuple[str, int], list[Measured]] = {}
    for m in measured:
        key = (m.member, -1) if m.member is not None else (m.job, m.step)
        groups.setdefault(key, []).append(m)
    skills = list(dict.fromkeys(name for m in measured for name in m.skills))
    readings = {
        name: [
            Reading(_compute(g), skill_share(right_SN(g, name)), g[0].skills[name].chance)
            for g in groups.values()
        ]
        for name in skills
    }
    return {name: sorted(rows, key=lambda r: r.compute) for name, rows in readings.items()}


def summarise(found: Findings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that scaling.json holds, JSON-able."""
    return {
        **facts,
        "presets": list(found.presets),
        "checkpoints": [_checkpoint(m) for m in sorted(found.measured, key=lambda m: m.flops)],
        "fits": {name: _fit(fit) for name, fit in found.fits.items()},
        "predictions": _predictions(found.fits),
        "comparisons": [
            {"metric": metric, "ours": ours, "theirs": theirs, "verdict": v.word,
             "difference": _interval(v.difference), "seed_spread": _number(v.spread)}
            for metric, ours, theirs, v in found.comparisons
        ],
        "emergence": {
            "note": WORLD_NOTE,
            "skills": {name: _emergence(rows) for name, rows in found.readings.items()},
        },
    }  # fmt: skip


def _predictions(laws: Mapping[str, Fit]) -> list[dict[str, Any]]:
    """What the members' law says of larger members and families, where the latents are these."""
    law = laws.get(MEMBERS)
    wanted = [
        (family.name, name, family.base_flops * multiple)
        for family in FAMILIES.values() if family.reference == "shapes"
        for name, multiple in MULTIPLES.items()
    ]  # fmt: skip
    return [] if law is None else [
        {"family": family, "preset": name, "flops": flops, "loss": _interval(law.predict(flops))}
        for family, name, flops in wanted
    ]  # fmt: skip


def _metrics(groups: Groups) -> list[tuple[str, Any, float | None, dict[str, np.ndarray]]]:
    """(metric, direction, chance, member -> values) of everything that is compared."""
    first = next(iter(groups.values()))[0]
    rows: list[tuple[str, Any, float | None, dict[str, np.ndarray]]] = [
        ("loss", "lower", None, {name: losses_SN(g) for name, g in groups.items()})
    ]
    for k, t in enumerate(first.times):
        rows.append((f"loss at time {t:g}", "lower", None,
                     {name: losses_SN(g, k) for name, g in groups.items()}))  # fmt: skip
    for skill, row in first.skills.items():
        rows.append((skill, "higher", row.chance,
                     {name: right_SN(g, skill) for name, g in groups.items()}))  # fmt: skip
    return rows


def _checkpoint(m: Measured) -> dict[str, Any]:
    return {
        "job": m.job, "seed": m.seed, "member": m.member, "step": m.step, "flops": m.flops,
        "loss": _interval(_clips(m.losses_NK.mean(1))),
        "loss_by_time": {f"{t:g}": _interval(_clips(m.losses_NK[:, k]))
                         for k, t in enumerate(m.times)},
        "skills": {name: _skill(row.right_N, row.chance) for name, row in m.skills.items()},
    }  # fmt: skip


def _skill(right_N: np.ndarray, chance: float) -> dict[str, Any]:
    share = skill_share(right_N[None])
    row = {**_interval(share), "chance": chance}
    return row if share.low > chance else {**row, "word": AT_CHANCE}


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "law": "loss = factor * flops ** exponent", "factor": fit.law.factor,
        "exponent": _interval(fit.exponent), "points": fit.points, "log_residual": fit.residual,
        "seed_spread": _number(fit.seed_spread),
    }  # fmt: skip


def _emergence(rows: Sequence[Reading]) -> dict[str, Any]:
    found = emergence(rows)
    return {
        "first_above_chance_flops": found.compute if found.compute is not None else "not reached",
        "holds_beyond": found.holds,
        "readings": [{"flops": r.compute, **_interval(r.share), "chance": r.chance} for r in rows],
    }


def _clips(values_N: np.ndarray) -> Interval:
    return clip_bootstrap(values_N, resamples=RESAMPLES)


def _compute(group: Sequence[Measured]) -> float:
    return float(np.mean([m.flops for m in group]))


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": _number(interval.low), "high": _number(interval.high),
            "n": interval.n}  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
