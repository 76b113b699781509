"""A plan beside the stored one: what grew or shrank by more than a tolerance."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidsim.core.errors import bad

TOLERANCE = 0.05
SMALL = 2**20  # bytes; kinds of collectives that move less than this are not compared
SAME = ("what", "topology", "slices", "mesh", "attention", "kernels", "remat", "rows", "fits",
        "quick", "room", "weight_bytes", "average_bytes", "optimizer_bytes")  # fmt: skip


def stored_plan(path: str | Path) -> dict[str, Any]:
    """A plan as `vidsim plan --json` printed it. Raises BadInput naming the file otherwise."""
    try:
        plan = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise bad(f"{path}", f"no stored plan: {error}", "what vidsim plan --json prints") from None
    missing = [
        name for name in (*SAME, "peak_bytes", "collectives", "versions") if name not in plan
    ]
    if missing:
        raise bad(f"{path}", f"no stored plan: {', '.join(missing)} missing", "",
                  "store it again with vidsim plan --json")  # fmt: skip
    return plan


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float = TOLERANCE
) -> list[str]:
    """One line for each thing that differs: what must be equal, the peak, the largest collective,
    and bytes by kind beyond the tolerance. Figures hold for one libtpu, so another is a line too.
    """
    lines = [
        f"{name}: {old[name]} before, {new[name]} now" for name in SAME if old[name] != new[name]
    ]
    lines += [
        f"{name}: {version} before, {new['versions'].get(name)} now"
        for name, version in old["versions"].items()
        if new["versions"].get(name) != version
    ]
    figures = {
        "peak_bytes": (old["peak_bytes"], new["peak_bytes"]),
        "largest collective": (_bytes(old["largest"]), _bytes(new["largest"])),
    }
    for kind in sorted(old["collectives"].keys() | new["collectives"].keys()):
        pair = _bytes(old["collectives"].get(kind)), _bytes(new["collectives"].get(kind))
        if max(pair) >= SMALL:
            figures[f"{kind} bytes"] = pair
    for name, (before, now) in figures.items():
        if abs(now - before) > tolerance * before:
            change = f"{now / before - 1:+.1%}" if before else "new"
            lines.append(f"{name}: {before:,.0f} before, {now:,.0f} now ({change})")
    return lines


def _bytes(row: Mapping[str, Any] | None) -> float:
    return row["bytes"] if row else 0
