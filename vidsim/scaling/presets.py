"""Compute presets: base, 4x, 16x, 32x as multiples of training FLOPs, each a complete run.

Copies of the report that made the comparison known give its largest member as 32x in some places
and as 16x in others; both are here. Two readings of "more compute":

size   separate models. Parameters of the blocks grow as compute to the power SIZE_EXPONENT, the
       published compute-optimal exponent of diffusion transformers (arXiv:2410.08184: N_opt
       proportional to C^0.5681), anchored at `base`; the peak rate falls with parameters to the
       power RATE_EXPONENT (arXiv:2411.17470)
steps  one model, that of 4x, trained for longer
"""

import dataclasses
import functools

import jax

from vidsim.config import to_dict
from vidsim.core.errors import bad, nearest
from vidsim.core.trees import count
from vidsim.models.dit import DiT
from vidsim.models.dit_config import DiTConfig
from vidsim.runs import DenoiserRun, LatentData
from vidsim.scaling.compute import MIN_STEPS, epoch_mean
from vidsim.scaling.families import FAMILIES, MIDDLE, MULTIPLES, Family, Shape, family
from vidsim.scaling.reference import reference_plan
from vidsim.tasks.denoising import DenoisingConfig
from vidsim.train.loop import RunSpec
from vidsim.train.optim import OptimConfig

SIZE_EXPONENT = 0.5681
RATE_EXPONENT = -0.162
BY = ("steps", "size")


@dataclasses.dataclass(frozen=True)
class Preset:
    """One member of a family.

    target_flops    training FLOPs asked for: a multiple of the family's base
    step_flops      mean training FLOPs of a step on the family's reference clips
    run             the whole configuration; its steps spend `target_flops` on reference clips
    devices         how many the mesh of `run` is meant for
    topology        TPU slice that it is meant for, None where it needs no TPU
    """

    family: str
    name: str
    by: str
    target_flops: float
    step_flops: float
    run: DenoiserRun
    devices: int
    topology: str | None

    @property
    def flops(self) -> float:
        """What the run spends on reference clips."""
        return self.run.run.steps * self.step_flops

    @property
    def parameters(self) -> int:
        """Of the transformer, without the text encoder."""
        return transformer_parameters(self.run.denoising.dit)


def preset(
    family_name: str,
    name: str,
    by: str = "size",
    *,
    cache: str = "latents",
    held_out: str | None = None,
    seed: int = 0,
) -> Preset:
    """The member `name` (base, 2x, 4x, 8x, 16x or 32x) of a family.

    by        "size" or "steps", see the module
    cache     latents to train on; held_out latents for the fixed-noise loss
    Raises    BadInput for unknown names, with the nearest known one
    """
    chosen, multiple = family(family_name), multiple_of(name)
    if by not in BY:
        raise bad("--by", repr(by), nearest(by, BY))
    per_step = reference_step_flops(chosen.name, multiple if by == "size" else MIDDLE)
    target = chosen.base_flops * multiple
    steps = round(target / per_step)
    if steps < MIN_STEPS:
        raise bad("preset", f"{family_name} {name} has {steps} steps", f"at least {MIN_STEPS}")
    run = member_run(chosen, multiple, by, steps, cache=cache, held_out=held_out, seed=seed)
    return Preset(chosen.name, name, by, target, per_step, run, chosen.devices, chosen.topology)


def multiple_of(name: str) -> int:
    """Compute of a member in units of base. Raises BadInput with the nearest known name."""
    if name not in MULTIPLES:
        raise bad("preset", repr(name), nearest(name, MULTIPLES))
    return MULTIPLES[name]


def member_shape(chosen: Family, multiple: int, by: str) -> Shape:
    """The model of a member."""
    return chosen.shapes[multiple if by == "size" else MIDDLE]


def member_task(chosen: Family, multiple: int, by: str) -> DenoisingConfig:
    """The denoiser of a member."""
    shape = member_shape(chosen, multiple, by)
    dit = dataclasses.replace(
        chosen.denoising.dit, width=shape.width, heads=shape.heads, mlp_width=4 * shape.width,
        layers=shape.layers,
    )  # fmt: skip
    return dataclasses.replace(chosen.denoising, dit=dit)


def member_optim(chosen: Family, multiple: int, by: str) -> OptimConfig:
    """The optimizer of a member: the family's rates, moved by the parameters of its blocks."""
    ours = block_parameters(member_shape(chosen, multiple, by))
    factor = (ours / block_parameters(chosen.shapes[MIDDLE])) ** RATE_EXPONENT
    adam = chosen.optim.adam_lr
    return dataclasses.replace(
        chosen.optim, lr=chosen.optim.lr * factor, adam_lr=None if adam is None else adam * factor
    )


def member_run(
    chosen: Family,
    multiple: int,
    by: str,
    steps: int,
    *,
    cache: str,
    held_out: str | None = None,
    seed: int = 0,
) -> DenoiserRun:
    """The complete run of a member with a number of steps; saves and evaluates ten times."""
    tenth = max(1, steps // 10)
    return DenoiserRun(
        data=LatentData(cache, held_out),
        denoising=member_task(chosen, multiple, by),
        plan=chosen.plan,
        run=RunSpec(steps=steps, seed=seed, ema_decay=chosen.ema_decay, save_every=tenth,
                    eval_every=tenth, log_every=max(1, min(100, steps // 100)), keep=2),
        optim=member_optim(chosen, multiple, by),
        parallel=chosen.parallel,
        captions=chosen.captions,
    )  # fmt: skip


@functools.cache
def reference_step_flops(family_name: str, multiple: int) -> float:
    """Mean training FLOPs of a step of a model of `--by size` on the family's reference clips."""
    chosen = FAMILIES[family_name]
    plan = reference_plan(chosen.reference, chosen.geometry, chosen.max_text, chosen.plan)
    return epoch_mean(member_task(chosen, multiple, "size"), plan)


def block_parameters(shape: Shape) -> int:
    """Parameters in the matrices of all blocks: 8 width^2 of attention, as much of the MLP."""
    return 16 * shape.layers * shape.width**2


@functools.cache
def transformer_parameters(dit: DiTConfig) -> int:
    """Parameters of a denoiser without its text encoder."""
    scanned = dataclasses.replace(dit, loop="scan")  # the same weights, one block to trace
    return count(jax.eval_shape(DiT(scanned).init, jax.random.key(0)))


def experiment(family_name: str, variant: str) -> dict:
    """Plain data of a preset for an experiment file: variant is "4x", "4x-steps", "debug", ...

    "debug" is base with a model and rows small enough for a CPU, for three steps.
    """
    if variant == "debug":
        return _debug(family_name)
    name, _, by = (variant or "base").partition("-")
    return to_dict(preset(family_name, name, by or "size").run)


def _debug(family_name: str) -> dict:
    chosen = FAMILIES[family_name]
    run = member_run(chosen, 1, "size", 3, cache="latents")
    dit = dataclasses.replace(run.denoising.dit, width=64, heads=2, mlp_width=128, layers=2,
                              dtype="float32")  # fmt: skip
    plan = dataclasses.replace(run.plan, rows_per_step=2, group_rows=1, pool_rows=8)
    task = dataclasses.replace(run.denoising, dit=dit)
    return to_dict(dataclasses.replace(run, denoising=task, plan=plan))
