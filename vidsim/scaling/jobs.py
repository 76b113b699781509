"""Which trainings a comparison consists of: chains of jobs, each a complete run with a start.

by steps   one chain a seed. Its trunk trains one model at a constant rate, cut into pieces; from
           the trunk each member is branched and cooled down over the same share of its own steps.
           A member is then exactly a warmup-stable-decay run of its length, and the trunk is paid
           for once.
by size    one chain a seed and member, each a whole run of its own model.

Lengths are solved from the plan of the training latents: FLOPs spent, not steps, are the multiples.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from vidsim.core.errors import bad
from vidsim.data.plan import Plan
from vidsim.runs import DenoiserRun
from vidsim.scaling.compute import solve_steps, spent_flops
from vidsim.scaling.families import MULTIPLES, Family
from vidsim.scaling.presets import member_run, multiple_of

SEEDED = 4  # members up to this multiple are trained with every seed, larger ones with seed 0
TRUNK = "trunk"
KEPT = 4  # by size: a run keeps a checkpoint at each of so many parts of it


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    name        its folder below runs/
    seed        of weights, noise and data order
    member      "base", "2x", ... of a cooled-down member; None for a piece of the trunk
    run         the configuration, not yet resolved against the cache
    start       the job whose last checkpoint it goes on from, None = from nothing
    start_step  steps of that checkpoint
    measured    (steps, FLOPs spent) of the checkpoints to measure, rising; the last is the end
    """

    name: str
    seed: int
    member: str | None
    run: DenoiserRun
    start: str | None
    start_step: int
    measured: tuple[tuple[int, float], ...]

    @property
    def steps(self) -> int:
        """Where the job ends."""
        return self.run.run.steps

    @property
    def flops(self) -> float:
        """Training FLOPs spent at its end, those before its start included."""
        return self.measured[-1][1]


Chain = tuple[Job, ...]
Resolve = Callable[[DenoiserRun], DenoiserRun]


def members_of(presets: Sequence[str]) -> list[str]:
    """Every member up to the largest of `presets`: powers of two between them are fitted along.

    Raises  BadInput for unknown names, or fewer than two
    """
    largest = max((multiple_of(name) for name in presets), default=0)
    if len(set(presets)) < 2:
        raise bad(
            "--presets", ",".join(presets) or "none", f"two or more of {', '.join(MULTIPLES)}"
        )
    least = min(multiple_of(name) for name in presets)
    return [name for name, m in MULTIPLES.items() if least <= m <= largest]


def trunk_chain(
    family: Family,
    members: Sequence[str],
    seed: int,
    plan: Plan,
    cache: str,
    resolve: Resolve = lambda run: run,
) -> Chain:
    """The chain of one seed, by steps: trunk pieces up to each branch, then the branch.

    plan     of the training latents with this seed
    resolve  fills in what the latents decide; FLOPs are counted on its result
    """
    task = resolve(member_run(family, 1, "steps", 1, cache=cache)).denoising
    targets = {name: family.base_flops * MULTIPLES[name] for name in members}
    spent = spent_flops(task, plan, max(targets.values()))
    lengths = {name: solve_steps(spent, target) for name, target in targets.items()}
    branch = {
        name: steps - max(round(family.optim.decay_share * steps), 1)
        for name, steps in lengths.items()
    }
    cuts = sorted(set(branch.values()))
    if seed == 0:  # a point between each two, for the law at constant rate
        cuts = sorted({*cuts, *(round(math.sqrt(a * b)) for a, b in itertools.pairwise(cuts))})
    if family.optim.warmup_steps > cuts[0]:
        raise bad("scaling", f"{family.optim.warmup_steps} warm-up steps of {cuts[0]}",
                  "within the shortest member", "lower optim.warmup_steps")  # fmt: skip
    jobs: list[Job] = []
    last: tuple[str | None, int] = (None, 0)
    for cut in cuts:
        run = _with_schedule(_run(family, 1, "steps", cut, last[1], seed, cache), "constant")
        name = f"seed{seed}/{TRUNK}-{cut:06d}"
        jobs.append(Job(name, seed, None, run, *last, ((cut, float(spent[cut - 1])),)))
        last = name, cut
        for member, steps in lengths.items():
            if branch[member] == cut:
                end = (steps, float(spent[steps - 1]))
                run = _run(family, MULTIPLES[member], "steps", steps, cut, seed, cache)
                jobs.append(Job(f"seed{seed}/{member}", seed, member, run, *last, (end,)))
    return tuple(jobs)


def size_chain(
    family: Family,
    member: str,
    seed: int,
    plan: Plan,
    cache: str,
    resolve: Resolve = lambda run: run,
    rate: float = 1.0,
) -> Chain:
    """The chain of one seed and member, by size: one run that keeps checkpoints on its way.

    rate  factor on the learning rates of the preset
    """
    multiple = MULTIPLES[member]
    task = resolve(member_run(family, multiple, "size", 1, cache=cache)).denoising
    spent = spent_flops(task, plan, family.base_flops * multiple)
    steps = solve_steps(spent, family.base_flops * multiple)
    part = steps // KEPT
    spec = _run(family, multiple, "size", steps, 0, seed, cache)
    adam = spec.optim.adam_lr
    run = dataclasses.replace(
        spec, run=dataclasses.replace(spec.run, save_every=part, keep_every=part),
        optim=dataclasses.replace(spec.optim, lr=spec.optim.lr * rate,
                                  adam_lr=None if adam is None else adam * rate),
    )  # fmt: skip
    decay = steps - max(round(family.optim.decay_share * steps), 1)
    kept = [k * part for k in range(1, KEPT) if k * part <= decay] if seed == 0 else []
    measured = tuple((s, float(spent[s - 1])) for s in (*kept, steps))
    return (Job(f"seed{seed}/{member}", seed, member, run, None, 0, measured),)


def seed_members(members: Sequence[str], seed: int) -> list[str]:
    """Which members a seed trains."""
    return [name for name in members if seed == 0 or MULTIPLES[name] <= SEEDED]


def _run(
    family: Family, multiple: int, by: str, steps: int, start: int, seed: int, cache: str
) -> DenoiserRun:
    run = member_run(family, multiple, by, steps, cache=cache, seed=seed)
    spec = dataclasses.replace(
        run.run, save_every=max(1, (steps - start) // 4), eval_every=steps, keep=1
    )
    return dataclasses.replace(run, run=spec)


def _with_schedule(run: DenoiserRun, schedule: str) -> DenoiserRun:
    optim = dataclasses.replace(run.optim, schedule=schedule)  # type: ignore[arg-type]
    return dataclasses.replace(run, optim=optim)
