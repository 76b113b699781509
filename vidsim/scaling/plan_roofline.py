"""The least time a step can take on chips of published peaks, and a likelier one.

The bound is the largest of four times, as if everything overlapped: useful operations at the peak
rate; the program's arguments read once and its results written once; the bytes that its collectives
send inside slices, at the rate of all links of a chip together; and those between slices.
"""

import dataclasses

from vidsim.core.errors import bad
from vidsim.scaling.plan_hlo import Program
from vidsim.scaling.topology import Topology

MFU = 0.40  # assumed where no measurement exists: what published video transformers reach on TPU


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step; `bound` names the largest. `at_mfu_s` assumes utilisation `mfu`."""

    compute_s: float
    hbm_s: float
    ici_s: float
    dcn_s: float
    lower_s: float
    bound: str
    mfu: float
    at_mfu_s: float


def roofline(
    topology: Topology, flops: float, io_bytes: float, ici_bytes: float, dcn_bytes: float,
    mfu: float = MFU,
) -> Roofline:  # fmt: skip
    """The bound of a step.

    flops                useful operations of the whole step
    io_bytes             arguments and results of one device
    ici_bytes, dcn_bytes sent by one device inside its slice and between slices
    mfu                  assumed share of the peak, in (0, 1]
    """
    if not 0.0 < mfu <= 1.0:
        raise bad("--mfu", f"{mfu}", "a share of the peak, above 0 and at most 1")
    chip = topology.chip
    times = {
        "compute": flops / (topology.chips * chip.flops),
        "hbm": io_bytes * chip.devices / chip.hbm_bytes_per_s,
        "ici": ici_bytes * chip.devices / chip.ici_bytes_per_s,
        "dcn": dcn_bytes * chip.devices / chip.dcn_bytes_per_s,
    }
    bound = max(times, key=lambda name: times[name])
    return Roofline(
        times["compute"], times["hbm"], times["ici"], times["dcn"], times[bound], bound, mfu,
        max(times["compute"] / mfu, times[bound]),
    )  # fmt: skip


def sent_bytes(program: Program, topology: Topology) -> tuple[float, float]:
    """(inside a slice, between slices) bytes that one device sends a step."""
    here = topology.devices // topology.slices
    inside = between = 0.0
    for c in program.collectives:
        crosses = len({device // here for device in c.group}) > 1
        inside, between = (
            (inside, between + c.times * c.sent)
            if crosses
            else (inside + c.times * c.sent, between)
        )
    return inside, between
