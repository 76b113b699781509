"""A denoiser for a small folder of one's own videos.

Purpose   learns a handful of captioned clips by heart: each caption brings back its own clip
Command   vidsim encode --vae runs/own/vae --index videos/index.parquet --out runs/own/latents \
              'geometry.patch=(1,1,1)'
          vidsim train --config=experiments/own_dit.py --workdir runs/own/dit \
              data.cache=runs/own/latents
Hardware  2 CPU cores, 4 GiB
Cost      about 27 minutes, beside other work
Reaches   8 of 8 captions by nearest neighbour, 23.6 dB (experiments/RESULTS.md)
Variants  :debug, a few steps
"""

from vidsim.config import override, to_dict
from vidsim.quickstart import denoiser_run


def get_config(variant: str = "") -> dict:
    """The configuration as plain data; clips of up to 1,024 tokens of 16x16 pixels and 4 frames."""
    if variant not in ("", "debug"):
        raise ValueError(f"experiments/own_dit.py: unknown variant {variant!r}; known: debug")
    config = to_dict(denoiser_run("runs/own/latents", None, 3 if variant == "debug" else 1500))
    return override(
        config,
        [
            "plan.row_tokens=1024",
            "plan.row_text=1024",
            "plan.rows_per_step=2",
            "plan.group_rows=1",
            "plan.pool_rows=8",
            "run.ema_decay=0.99",
        ],
    )
