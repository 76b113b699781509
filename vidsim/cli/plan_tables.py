"""Reading the options of `vidsim plan`, and its tables."""

import argparse
import json
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from vidsim.core.errors import bad
from vidsim.scaling.plan import Ask, Summary
from vidsim.scaling.plan_programs import ClipSize
from vidsim.scaling.plan_search import Found
from vidsim.scaling.topology import CHIPS

GIB = 2**30


def ask_of(args: argparse.Namespace) -> Ask:
    """What the options ask for. Raises BadInput for a clip that is not one."""
    chosen: dict[str, Any] = {name: getattr(args, name) for name in ("mfu", "guidance")
                              if getattr(args, name) is not None}  # fmt: skip
    return Ask(what=args.what, rows=args.rows, clips=args.clips, clip=_clip(args.size, args.frames),
               vae=args.vae, chunk=args.chunk, quick=args.quick, **chosen)  # fmt: skip


def _clip(size: str | None, frames: int | None) -> ClipSize | None:
    if size is None and frames is None:
        return None
    if size is None or frames is None:
        raise bad("plan", "one of --size and --frames without the other", "both or neither")
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        raise bad("--size", repr(size), "WIDTHxHEIGHT in pixels")
    return ClipSize(int(found.group(2)), int(found.group(1)), frames)


def show(plan: Summary, console: Console | None = None) -> None:
    """One plan on the screen."""
    console = console or Console()
    table = Table("", "", show_header=False)
    for name, text in facts(plan):
        table.add_row(name, text)
    console.print(table)
    if not plan.collectives:
        return
    table = Table("collective", "runs a step", "MiB of a device", "MiB sent by a device")
    for kind, row in plan.collectives.items():
        table.add_row(kind, f"{row['count']:,.0f}", f"{row['bytes'] / 2**20:,.1f}",
                      f"{row['sent'] / 2**20:,.1f}")  # fmt: skip
    console.print(table)


def facts(plan: Summary) -> list[tuple[str, str]]:
    """Name and text of everything but the collectives."""
    chip = CHIPS[plan.topology.split(":")[0]]
    mesh = ", ".join(f"{axis} {n}" for axis, n in plan.mesh.items() if n > 1) or "one device"
    attention = ", ".join(f"{use} {name}" for use, name in plan.attention.items())
    effort = " (compiled with least effort)" if plan.quick else ""
    verdict = "fits, {:.2f} GiB left" if plan.fits else "does not fit, {:.2f} GiB too much"
    rows = [
        ("program", f"{plan.what}, {plan.rows} rows at once, remat {plan.remat}"),
        ("slice", f"{plan.slices} x {plan.topology}: {plan.chips} chips, {plan.devices} devices; "
                  f"{mesh}"),
        ("attention", f"{attention or 'none'}; {plan.kernels} kernel calls in the program"
                      f"{effort}"),
        ("memory a chip", f"peak {_gib(plan.peak_bytes)} of {_gib(plan.usable_bytes)} GiB usable: "
                          + verdict.format(abs(plan.over_bytes) / GIB)),
        ("state a chip", f"weights {_gib(plan.weight_bytes)}, average {_gib(plan.average_bytes)}, "
                         f"optimizer {_gib(plan.optimizer_bytes)} GiB"),
    ]  # fmt: skip
    if plan.room:
        rows.append(("tokens a step", f"{plan.tokens:,.0f} useful of {plan.room:,.0f} "
                     f"({plan.tokens / plan.room:.3f}); {plan.told}"))  # fmt: skip
    rows.append(("FLOPs a step", f"{plan.flops:.4g} by the sum of squared clip lengths, "
                 f"{plan.padded_flops:.4g} by row length squared"
                 if plan.room else f"{plan.flops:.4g} counted in the traced program"))  # fmt: skip
    if plan.largest:
        over = " x ".join(plan.largest["over"]) or "one axis"
        rows.append(("largest collective", f"{plan.largest['kind']} of "
                     f"{plan.largest['bytes'] / 2**20:,.1f} MiB over {over}, "
                     f"{plan.largest['times']} times"))  # fmt: skip
    if plan.unknown_loops:
        rows.append(("loops", f"{plan.unknown_loops} collectives in loops of unknown length, "
                     "counted once"))  # fmt: skip
    if plan.roofline:
        r = plan.roofline
        rows += [
            ("step at least", f"{r.lower_s:.4g} s, bound by {r.bound} (compute {r.compute_s:.4g}, "
                              f"HBM {r.hbm_s:.4g}, ICI {r.ici_s:.4g}, DCN {r.dcn_s:.4g})"),
            (f"step at {r.mfu:.0%} MFU", f"{r.at_mfu_s:.4g} s (assumed utilisation of "
                                         f"{chip.flops / 1e12:g} TFLOP/s a chip)"),
        ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    rows.append(("compiled", f"in {plan.compile_s:.0f} s by {versions}; nothing was timed"))
    return rows


def show_search(found: Found, as_json: bool, console: Console | None = None) -> None:
    """What a search tried and found."""
    if as_json:
        plain = {"best": found.best and found.best.to_dict(), "cheapest": found.cheapest,
                 "tried": [plan.to_dict() for plan in found.tried]}  # fmt: skip
        print(json.dumps(plain, indent=1))
        return
    console = console or Console()
    table = Table("remat", "rows", "tokens a chip", "peak GiB a chip", "")
    for plan in found.tried:
        verdict = "fits" if plan.fits else f"{plan.over_bytes / GIB:.2f} GiB too much"
        table.add_row(plan.remat, f"{plan.rows}", f"{plan.room / plan.chips:,.0f}",
                      _gib(plan.peak_bytes), verdict)  # fmt: skip
    console.print(table)
    if found.best is None:
        console.print("not even one row a device fits")
        return
    console.print(f"cheapest policy that fits one row a device: {found.cheapest}; most tokens: ")
    show(found.best, console)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
