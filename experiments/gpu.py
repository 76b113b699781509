"""Compute presets for one accelerator, on the embedded shapes world.

Purpose   base, 2x, 4x, 8x, 16x, 32x of 2e15 training FLOPs; 7M to 54M parameters
Command   vidsim scaling --presets base,4x,16x --family gpu --workdir runs/scaling-gpu
          or one member on a cache of one's own:
          vidsim train --config=experiments/gpu.py:4x --workdir runs/gpu-4x data.cache=latents
Hardware  one accelerator of 1e14 bfloat16 FLOPs a second or more
Cost      members with three seeds are 28 times base: 18 minutes at 5e13 FLOPs a second (assumed,
          not measured)
Reaches   not run; its number is the loss that `vidsim scaling --family laptop` predicts
Variants  :base, :2x, :4x, :8x, :16x, :32x; with -steps behind it the model of 4x trained for that
          much compute; :debug, three steps of a tiny model
"""

from vidsim.scaling.presets import experiment


def get_config(variant: str = "") -> dict:
    """The configuration as plain data."""
    return experiment("gpu", variant)
