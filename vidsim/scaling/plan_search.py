"""The most tokens a device and the cheapest recomputation that fit a chip.

Peak memory grows linearly with the rows of a micro-step, so two compilations tell how many rows
fit and a third proves it.
"""

import dataclasses
import math
from collections.abc import Callable

from vidsim.core.errors import bad
from vidsim.nn.stack import REMAT
from vidsim.runs import DenoiserRun, Run
from vidsim.scaling.plan import Ask, Summary, compile_job, make_job, prepare
from vidsim.scaling.plan_rows import RowContent
from vidsim.scaling.topology import Topology

POLICIES = ("none", "save_attention", "full")  # by what the backward computes again, least first
assert set(POLICIES) == set(REMAT)
MARGIN = 0.8
LARGEST = 4096  # rows a device: nobody asks for more
Compile = Callable[[str, int], Summary]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the search came to.

    best      the plan with the most tokens a device (the cheapest policy among equals); None when
              not even one row a device fits
    cheapest  the cheapest policy with which one row a device fits, None when none does
    tried     every plan that was compiled
    """

    best: Summary | None
    cheapest: str | None
    tried: tuple[Summary, ...]


def search(run: Run, topology: Topology, ask: Ask, say: Callable[[str], None]) -> Found:
    """Searches policies and rows a device for the training step of a denoiser.

    Rows keep their length; a step keeps its micro-steps, so its tokens grow with the rows found.
    """
    if not isinstance(run, DenoiserRun) or ask.what != "train":
        raise bad("--search", f"--what {ask.what} of {run.task}", "the training of a denoiser")
    placed, mesh, content = prepare(run, topology, ask)
    assert isinstance(placed, DenoiserRun) and content is not None
    base: DenoiserRun = placed
    rows_hold: RowContent = content
    ways = mesh.shape["data"] * mesh.shape["fsdp"]

    def compile_one(policy: str, rows: int) -> Summary:
        task = dataclasses.replace(
            base.denoising, dit=dataclasses.replace(base.denoising.dit, remat=policy)
        )
        plan = dataclasses.replace(
            base.plan, rows_per_step=rows * ways * base.run.micro_steps, group_rows=1
        )
        changed = dataclasses.replace(base, denoising=task, plan=plan)
        held = dataclasses.replace(rows_hold, plan=plan)
        job = make_job(changed, mesh, held, ask)
        found = compile_job(job, changed, mesh, topology, ask, held)
        word = "left" if found.fits else "too much"
        say(f"remat {policy}, {rows} rows a device: {abs(found.over_bytes) / 2**30:.2f} GiB a chip "
            f"{word}, compiled in {found.compile_s:.0f} s")  # fmt: skip
        return found

    return best_of(compile_one)


def best_of(compile_one: Compile) -> Found:
    """The search itself, over anything that answers (policy, rows a device) with a plan."""
    tried: list[Summary] = []
    best: tuple[int, Summary] | None = None
    cheapest = None
    for policy in POLICIES:

        def one(rows: int, policy: str = policy) -> Summary:
            tried.append(compile_one(policy, rows))
            return tried[-1]

        rows, found = most_rows(one)
        if found is None:
            continue
        cheapest = cheapest or policy
        if best is None or rows > best[0]:
            best = rows, found
    return Found(best[1] if best else None, cheapest, tuple(tried))


def most_rows(compile_one: Callable[[int], Summary]) -> tuple[int, Summary | None]:
    """(most rows that fit, their plan); (0, None) when one does not fit.

    Where the room left is less than `MARGIN` of what a row takes, the next row is not tried.
    """
    first = compile_one(1)
    if not first.fits:
        return 0, None
    second = compile_one(2)
    if not second.fits:
        return 1, first
    each = max(second.peak_bytes - first.peak_bytes, 1)
    low, held, high = 2, second, LARGEST
    while high - low > 1:
        room = -held.over_bytes / each
        if room < MARGIN:
            break
        rows = min(low + max(1, math.floor(room)), high - 1)
        found = compile_one(rows)
        low, held, high = (rows, found, high) if found.fits else (low, held, rows)
    return low, held
