"""The quickstart's autoencoder as an experiment of its own.

Purpose   a small 4x16x16 autoencoder on the shapes world; linear start, a few convolutions
Command   vidsim index 'world:shapes?size=9000&max_objects=2' --out runs/shapes/train.parquet
          vidsim train --config=experiments/shapes_vae.py --workdir runs/shapes/vae
Hardware  2 CPU cores, 4 GiB
Cost      about 4 minutes
Target    30 dB PSNR on held-out clips (vidsim eval --suite vae)
Variants  :debug, a few steps
"""

from vidsim.config import to_dict
from vidsim.quickstart import vae_run


def get_config(variant: str = "") -> dict:
    """The configuration as plain data."""
    if variant not in ("", "debug"):
        raise ValueError(f"experiments/shapes_vae.py: unknown variant {variant!r}; known: debug")
    return to_dict(vae_run("runs/shapes/train.parquet", 3 if variant == "debug" else 1200))
