"""Compute as presets mean it: FLOPs of the denoiser that clips needed, from the plan's numbers.

Compute is what training spent on tokens that exist: products by token, and attention as the sum of
squared clip lengths (train/flops.py). Padding is never counted. The plan knows every length before
a latent is read, so a run's length is solved before it starts.
"""

from collections.abc import Iterator

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.plan import Plan, StepRows
from vidsim.tasks.denoising import DenoisingConfig
from vidsim.train.flops import TRAINING, Counts, forward_flops

MIN_STEPS = 50  # half a step is then at most 1% of a run


def step_counts(plan: Plan, step: StepRows) -> Counts:
    """What a planned step holds; equal to `live_counts` of the batch assembled from it."""
    rows = step.rows
    patches = plan.tokens[rows.piece].astype(np.int64)
    texts = plan.text_tokens(step.epoch, rows.piece)
    filled = int((np.diff(rows.offset) > 0).sum())
    return Counts(
        patches=int(patches.sum()),
        texts=int(texts.sum()),
        clips=len(rows.piece),
        levels=len(rows.piece) + filled,
        self_pairs=int((patches**2).sum()),
        cross_pairs=int((patches * texts).sum()),
        text_pairs=int((texts**2).sum()),
    )


def step_flops(cfg: DenoisingConfig, plan: Plan) -> Iterator[float]:
    """Training FLOPs of step 0, 1, 2, ... of a plan, without end."""
    number = 0
    while True:
        yield TRAINING * sum(forward_flops(cfg, step_counts(plan, plan.step(number))))
        number += 1


def epoch_mean(cfg: DenoisingConfig, plan: Plan) -> float:
    """Mean training FLOPs of a step over the plan's first epoch, its last step left out."""
    steps = max(1, plan.num_steps(0) - 1)
    every = step_flops(cfg, plan)
    return float(np.mean([next(every) for _ in range(steps)]))


def spent_flops(cfg: DenoisingConfig, plan: Plan, until: float) -> np.ndarray:
    """float64[steps]: FLOPs spent after each step of a plan, to the first that reaches `until`."""
    total, spent, every = 0.0, [], step_flops(cfg, plan)
    while total < until:
        total += next(every)
        spent.append(total)
    return np.asarray(spent)


def solve_steps(spent: np.ndarray, target: float) -> int:
    """The run length whose spent FLOPs come nearest to a target.

    spent    from `spent_flops`, at least up to the target
    Raises   BadInput when that is less than `MIN_STEPS` steps, so that it cannot be met within 1%
    """
    steps = int(np.abs(spent - target).argmin()) + 1
    if steps < MIN_STEPS:
        raise bad("scaling", f"{target:.3g} FLOPs are {steps} steps", f"at least {MIN_STEPS}",
                  "smaller steps (plan.rows_per_step)")  # fmt: skip
    return steps
