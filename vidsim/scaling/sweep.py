"""The learning rate of `--by size`: swept at the smallest and the largest member, between by law.

Factors on the rate of the preset. Three are tried; while the best one lies at an edge, the next
factor beyond it is tried too. Members between take the factor on the straight line between both
ends, in logarithms of compute and rate.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vidsim.data.pipeline import make_plan
from vidsim.runs import resolve_denoiser
from vidsim.scaling.families import MULTIPLES
from vidsim.scaling.jobs import Job, members_of, size_chain
from vidsim.scaling.measure import Protocol, held_out_loss
from vidsim.scaling.members import Members
from vidsim.store.manifest import write_atomic
from vidsim.store.shards import LatentCache

FACTORS = (0.5, 1.0, 2.0)
FURTHEST = 8.0  # from 1, in either direction
RATES = "rates.json"


@dataclasses.dataclass(frozen=True)
class Swept:
    """The best factor, the loss of every factor tried, and whether the best is still at an edge."""

    factor: float
    losses: Mapping[float, float]
    at_edge: bool


def search(loss_of: Callable[[float], float]) -> Swept:
    """The factor of least loss; a loss that is not a number counts as the worst."""
    losses = {factor: loss_of(factor) for factor in FACTORS}
    while True:
        best = min(losses, key=lambda f: math.inf if math.isnan(losses[f]) else losses[f])
        further = {min(losses): best / 2, max(losses): best * 2}.get(best)
        if further is None or not 1 / FURTHEST <= further <= FURTHEST:
            return Swept(best, dict(sorted(losses.items())), further is not None)
        losses[further] = loss_of(further)


def between(ends: Mapping[int, float], multiple: int) -> float:
    """The factor of a member, from those of two multiples of compute."""
    low, high = sorted(ends)
    x = [math.log(low), math.log(high)]
    y = [math.log(ends[low]), math.log(ends[high])]
    return math.exp(np.interp(math.log(multiple), x, y))


def swept_rates(
    members: Members, cache: LatentCache, protocol: Protocol, stages: Any
) -> dict[str, float]:
    """The factor of every member; sweeps once a folder, other processes wait."""
    names = members_of(members.what.presets)
    path = members.folder / RATES
    with members.wait("sweep"):
        if not path.exists():
            ends = {
                name: search(functools.partial(_loss, members, cache, protocol, stages, name))
                for name in (names[0], names[-1])
            }
            write_atomic(path, json.dumps(_record(ends), indent=1).encode())
    record = json.loads(path.read_text())
    found = {MULTIPLES[name]: row["factor"] for name, row in record.items()}
    return {name: between(found, MULTIPLES[name]) for name in names}


def _record(ends: Mapping[str, Swept]) -> dict[str, Any]:
    return {
        name: {"factor": s.factor, "at_edge": s.at_edge,
               "losses": {f"{f:g}": loss for f, loss in s.losses.items()}}
        for name, s in ends.items()
    }  # fmt: skip


def _loss(
    members: Members, cache: LatentCache, protocol: Protocol, stages: Any, name: str, factor: float
) -> float:
    what = members.what
    plan = make_plan(cache, what.family.plan, 0, what.family.captions, members.cache / "plans")
    chain = size_chain(what.family, name, 0, plan, str(members.cache),
                       lambda run: resolve_denoiser(run, cache), factor)  # fmt: skip
    job: Job = dataclasses.replace(chain[0], name=f"sweep/{name}-x{factor:g}")
    members.train_chain((job,), cache)
    out = members.folder / "eval" / job.name
    with stages(job.name) as progress:
        loss = held_out_loss(members.workdir(job), job.steps, out, protocol, progress)
    members.say(f"{job.name}: held-out loss {loss:.4f}")
    return loss
