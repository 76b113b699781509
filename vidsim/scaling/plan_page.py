"""Stored plans as a Markdown table: what experiments/PLANS.md shows (a test compares the two).

python -m vidsim.scaling.plan_page experiments/plans
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidsim.scaling.plan_compare import stored_plan

HEAD = (
    "| plan | slice (chips) | mesh | peak GiB a chip | of | fits | state GiB a chip "
    "| tokens a step | PFLOPs a step (Σn²; row²) | largest collective | sent MiB a device "
    "| at least s | at 40% s |"
)
GIB, MIB = 2**30, 2**20


def table(folder: str | Path) -> str:
    """All plans of a folder, by name."""
    paths = sorted(Path(folder).glob("*.json"), key=_order)
    lines = [row(path.stem, stored_plan(path)) for path in paths]
    return "\n".join([HEAD, "|" + "---|" * (HEAD.count("|") - 1), *lines])


def row(name: str, plan: Mapping[str, Any]) -> str:
    """One plan; what a program that does not fit cannot tell stays empty."""
    mesh = " ".join(f"{axis} {n}" for axis, n in plan["mesh"].items() if n > 1) or "-"
    over = plan["over_bytes"] / GIB
    verdict = f"yes, {-over:.2f} left" if plan["fits"] else f"**no**, {over:.2f} too much"
    state = (plan["weight_bytes"] + plan["average_bytes"] + plan["optimizer_bytes"]) / GIB
    largest, bound = plan["largest"], plan["roofline"]
    flops = f"{plan['flops'] / 1e15:.4g}"
    if plan["room"]:
        flops += f"; {plan['padded_flops'] / 1e15:.4g}"
    sent = sum(kind["sent"] for kind in plan["collectives"].values()) / MIB
    cells = [
        name.rsplit(".", 1)[0] + (", quick" if plan["quick"] else ""),
        f"{plan['topology']} ({plan['chips']})" if plan["slices"] == 1
        else f"{plan['slices']} x {plan['topology']} ({plan['chips']})",
        mesh, f"{plan['peak_bytes'] / GIB:.2f}", f"{plan['usable_bytes'] / GIB:.2f}", verdict,
        f"{state:.2f}", f"{plan['tokens']:,.0f}" if plan["room"] else "-", flops,
        f"{largest['kind']} {largest['bytes'] / MIB:,.1f} MiB" if largest else "-",
        f"{sent:,.0f}" if bound else "-",
        f"{bound['lower_s']:.3g} ({bound['bound']})" if bound else "-",
        f"{bound['at_mfu_s']:.3g}" if bound else "-",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _order(path: Path) -> tuple[str, int, str]:
    """By family, then by compute (base before 2x before 16x), then by name."""
    family, _, rest = path.stem.partition("-")
    digits = rest.split(".")[0].removesuffix("x")
    return family, int(digits) if digits.isdigit() else 1, rest


if __name__ == "__main__":
    print(table(sys.argv[1]))
