"""Checkpoints as if they had been measured: losses and skills planted, samples of one pixel."""

import numpy as np

from vidsim.eval.result import Sample, SuiteResult, View, save_result
from vidsim.scaling.families import MULTIPLES
from vidsim.scaling.measure import Measured, Skill

TIMES = (0.1, 0.5, 0.9)
CHANCE = 0.2
BASE = 6e12


def planted_run(folder, *, exponent, skill_at, noise=0, clips=96, members=("base", "2x", "4x", "8x",
                                                                        "16x")):  # fmt: skip
    """Three seeds up to 4x, one above, and a trunk of nine points at constant rate.

    exponent  of the loss in compute; 0 plants equal models
    skill_at  FLOPs from which "colour" is right in 9 of 10 prompts; "shape" is always at chance
    """
    rng = np.random.default_rng(noise)
    clip_N1 = np.exp(0.4 * rng.standard_normal((clips, 1)))
    prompts = _prompts(folder)
    found = []

    def add(job, seed, member, multiple):
        level = 1.5 * multiple**exponent * np.exp(0.004 * rng.standard_normal())
        times = np.array(TIMES) + 0.5
        losses_NK = level * clip_N1 * times * np.exp(0.03 * rng.standard_normal((clips, 3)))
        able = 0.9 if multiple * BASE >= skill_at else CHANCE
        skills = {
            "colour": Skill((rng.random(clips) < able).astype(float), CHANCE),
            "shape": Skill((rng.random(clips) < CHANCE).astype(float), CHANCE),
        }
        step = int(100 * multiple)
        found.append(
            Measured(job, seed, member, step, BASE * multiple, losses_NK, TIMES, skills, prompts)
        )

    for member in members:
        multiple = MULTIPLES[member]
        for seed in range(3 if multiple <= 4 else 1):
            add(f"seed{seed}/{member}", seed, member, multiple)
    for multiple in 0.8 * 2 ** np.arange(0, 4.1, 0.5):
        add(f"seed0/trunk-{int(100 * multiple):06d}", 0, None, float(multiple))
    return found


def _prompts(folder):
    video = np.full((1, 16, 16, 3), 127, np.uint8)
    sample = Sample("prompt 0", "a red square", (View(video),), 1.0, "Samples", {"seed": 7})
    result = SuiteResult("prompts", "Prompts", "", (), (sample,))
    return save_result(folder / "eval" / "prompts", result, {})
