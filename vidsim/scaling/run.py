"""A whole comparison: data, trainings, measurements, page; goes on where it stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidsim.core.errors import bad, nearest
from vidsim.eval.runner import hardware
from vidsim.scaling.families import FAMILIES, debug_family, family
from vidsim.scaling.jobs import Chain
from vidsim.scaling.measure import Measured, Protocol, measure
from vidsim.scaling.members import Comparison, Members
from vidsim.scaling.presets import BY
from vidsim.scaling.report import lines, write_comparison
from vidsim.scaling.summary import find
from vidsim.scaling.sweep import swept_rates
from vidsim.store.shards import LatentCache
from vidsim.store.workdir import code_facts

CLIPS, VAE_STEPS = 12_000, 150
DEBUG_CLIPS, DEBUG_VAE_STEPS = 600, 40
DEBUG_PROTOCOL = Protocol(clips=48, prompts=48, steps=6)


def make_comparison(
    family_name: str,
    presets: Sequence[str],
    by: str,
    seeds: int,
    debug: bool,
    sweep: bool = False,
) -> tuple[Comparison, Protocol]:
    """What is compared and how it is measured. Raises BadInput before anything is written."""
    if family_name not in FAMILIES:
        raise bad("--family", repr(family_name), nearest(family_name, FAMILIES))
    if by not in BY:
        raise bad("--by", repr(by), nearest(by, BY))
    chosen = family(family_name)
    if not debug:
        return Comparison(chosen, by, tuple(presets), seeds, CLIPS, VAE_STEPS, sweep), Protocol()
    what = Comparison(debug_family(chosen), by, tuple(presets), seeds, DEBUG_CLIPS, DEBUG_VAE_STEPS)
    return what, DEBUG_PROTOCOL


def run_comparison(
    what: Comparison, protocol: Protocol, workdir: str | Path, say: Callable[[str], None],
    counter: Any, stages: Any,
) -> Path | None:  # fmt: skip
    """Trains and measures what no other process is at; the last one to finish writes the page.

    counter, stages  show progress (vidsim.cli.progress)
    Returns          the page, or None while other processes are still at work
    """
    folder = Path(workdir)
    members = Members(what, folder, say, counter)
    cache = members.prepare()
    rates = swept_rates(members, cache, protocol, stages) if what.sweep else {}
    chains = members.chains(cache, rates)
    say(forecast(chains))
    measured: dict[str, list[Measured]] = {}
    for _ in range(2):  # chains that others held at first may be finished by the end of ours
        for chain in chains:
            if chain[0].name not in measured:
                with members.claim(chain) as mine:
                    if mine:
                        members.train_chain(chain, cache)
                        measured[chain[0].name] = _measure_chain(members, chain, protocol, stages)
    left = [chain[0].name for chain in chains if chain[0].name not in measured]
    if left:
        say(f"{', '.join(left)}: another process is at it; the last one to finish writes the page")
        return None
    found = find([m for chain in measured.values() for m in chain], what.presets)
    for line in lines(found):
        say(line)
    return write_comparison(folder, found, _facts(what, cache, chains, rates))


def forecast(chains: Sequence[Chain]) -> str:
    """What there is to train, in FLOPs and steps."""
    jobs = [job for chain in chains for job in chain]
    ends = {job.name: job.flops for job in jobs}
    spent = sum(job.flops - (ends[job.start] if job.start else 0.0) for job in jobs)
    steps = sum(job.steps - job.start_step for job in jobs)
    return f"{len(jobs)} trainings, {steps:,} steps, {spent:.3g} training FLOPs in all"


def _measure_chain(
    members: Members, chain: Chain, protocol: Protocol, stages: Any
) -> list[Measured]:
    """Every checkpoint of a chain; of seeds beyond the first only the cooled-down ones."""
    found = []
    for job in chain:
        if job.seed and job.member is None:
            continue
        for step, flops in job.measured:
            out = members.folder / "eval" / f"{job.name}-{step:06d}"
            with stages(f"{job.name} step {step}") as progress:
                found.append(
                    measure(job, step, flops, members.workdir(job), out, protocol, progress)
                )
    return found


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ×{factor:.3g}" for name, factor in rates.items()) or "the preset's"


def _facts(
    what: Comparison, cache: LatentCache, chains: Sequence[Chain], rates: Mapping[str, float]
) -> dict[str, Any]:
    code = code_facts()
    return {
        "family": what.family.name, "by": what.by, "base FLOPs": f"{what.family.base_flops:.3g}",
        "seeds": what.seeds, "rates": _rates(rates), "training clips": what.clips,
        "VAE": cache.meta.vae_hash[:12],
        "trainings": sum(len(chain) for chain in chains),
        "date": time.strftime("%Y-%m-%d %H:%M %z"), "hardware": hardware(),
        "vidsim": code["vidsim"], "git": (code["git"] or "")[:12],
    }  # fmt: skip
