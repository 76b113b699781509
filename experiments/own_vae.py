"""An autoencoder for a small folder of one's own videos.

Purpose   4x16x16 autoencoder that starts at the principal components of the folder's own pixels
Command   vidsim train --config=experiments/own_vae.py --workdir runs/own/vae \
              data.index=videos/index.parquet
Hardware  2 CPU cores, 4 GiB
Cost      about 5 minutes, beside other work
Reaches   31 dB on the later frames of 8 clips (experiments/RESULTS.md)
Variants  :debug, a few steps
"""

from vidsim.config import override, to_dict
from vidsim.quickstart import vae_run


def get_config(variant: str = "") -> dict:
    """The configuration as plain data; clips need at least 9 frames of 64x64 pixels."""
    if variant not in ("", "debug"):
        raise ValueError(f"experiments/own_vae.py: unknown variant {variant!r}; known: debug")
    config = to_dict(vae_run("runs/own/index.parquet", 3 if variant == "debug" else 300))
    return override(
        config,
        [
            "autoencoding.vae.latent_channels=256",
            "data.crops.canvases=((9, 64, 64), (1, 64, 64))",
            "data.crops.batch_size=8",
            "data.crops.image_batch_size=32",
        ],
    )
