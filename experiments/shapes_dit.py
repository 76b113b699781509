"""The quickstart's denoiser as an experiment of its own.

Purpose   a small text-conditional diffusion transformer on the latents of the shapes world
Command   vidsim encode --vae runs/shapes/vae --index runs/shapes/train.parquet \
              --out runs/shapes/latents 'geometry.patch=(1,1,1)' geometry.max_area=0 \
              geometry.max_frames=33 geometry.max_tokens=576 max_text=96 words=256
          vidsim train --config=experiments/shapes_dit.py --workdir runs/shapes/dit
Hardware  2 CPU cores, 4 GiB
Cost      about 8 minutes
Reaches   what experiments/RESULTS.md says of the quickstart (vidsim eval --suite prompts)
Variants  :debug, a few steps
"""

from vidsim.config import to_dict
from vidsim.quickstart import denoiser_run


def get_config(variant: str = "") -> dict:
    """The configuration as plain data."""
    if variant not in ("", "debug"):
        raise ValueError(f"experiments/shapes_dit.py: unknown variant {variant!r}; known: debug")
    return to_dict(denoiser_run("runs/shapes/latents", None, 3 if variant == "debug" else 800))
