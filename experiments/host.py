"""Compute presets for one TPU host of 8 chips, on latents of a user's own videos.

Purpose   base, 2x, 4x, 8x, 16x, 32x of 4e18 training FLOPs; 37M, 54M, 77M, 120M, 176M, 263M
          parameters
Command   vidsim train --config=experiments/host.py:4x --workdir runs/host-4x \
              data.cache=latents data.validation_cache=latents-held-out
          vidsim plan --config=experiments/host.py:4x --topology v5e:2x4
Latents   4x8x8 autoencoder with 16 channels, encoded with geometry.max_area=65536
          geometry.max_frames=65 geometry.max_tokens=4352 max_text=1024
Hardware  8 TPU v5e or v6e chips
Cost      base 4e18 FLOPs: 2 hours of 8 v5e chips at 35% utilisation (assumed, not measured); 4x and
          16x that many times as long
Reaches   not run; its number is the loss that `vidsim scaling` predicts from a smaller family
Variants  :base, :2x, :4x, :8x, :16x, :32x; with -steps behind it the model of 4x trained for that
          much compute; :debug, three steps of a tiny model
"""

from vidsim.scaling.presets import experiment


def get_config(variant: str = "") -> dict:
    """The configuration as plain data."""
    return experiment("host", variant)
