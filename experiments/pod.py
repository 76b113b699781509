"""Compute presets for a TPU pod slice, on latents of a user's own videos.

Purpose   base, 2x, 4x, 8x, 16x, 32x of 1e21 training FLOPs; 0.78B, 1.16B, 1.72B, 2.60B, 3.84B,
          5.53B parameters
Command   vidsim train --config=experiments/pod.py:4x --workdir gs-mount/pod-4x \
              data.cache=gs-mount/latents data.validation_cache=gs-mount/latents-held-out
          vidsim plan --config=experiments/pod.py:4x --topology v5p:4x4x4
Latents   4x8x8 autoencoder with 16 channels, encoded with geometry.max_area=147456
          geometry.max_frames=65 geometry.max_tokens=9792 max_text=1024
Hardware  64 TPU v5p chips or more
Cost      base 1e21 FLOPs: 27 hours of 64 v5p chips at 35% utilisation (assumed, not measured);
          4x and 16x that many times as long
Reaches   not run; its number is the loss that `vidsim scaling` predicts from a smaller family
Variants  :base, :2x, :4x, :8x, :16x, :32x; with -steps behind it the model of 4x trained for that
          much compute; :debug, three steps of a tiny model
"""

from vidsim.scaling.presets import experiment


def get_config(variant: str = "") -> dict:
    """The configuration as plain data."""
    return experiment("pod", variant)
