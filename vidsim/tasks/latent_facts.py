"""What is measured of an autoencoder's latents once, and stored with its weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.data.index import ClipIndex
from vidsim.models.codec import encode_clips
from vidsim.models.latents import LatentMoments
from vidsim.models.vae import Tree, Vae

MAX_FRAMES = 33
GAIN_CLIPS = 8


def latent_facts(vae: Vae, params: Tree, index: ClipIndex, clips: int) -> dict[str, Any]:
    """Mean, deviation and gain of each latent channel, over clips spread evenly through an index.

    Returns  {"mean": [c], "std": [c], "gain": [c], "clips": n}, JSON-able
    """
    rows = np.unique(np.linspace(0, len(index) - 1, min(clips, len(index))).astype(int))
    videos = [v for row in rows.tolist() if (v := _aligned(vae, index, row)) is not None]
    latents = encode_clips(vae, params, videos)
    moments = LatentMoments(vae.cfg.latent_channels)
    for latent in latents:
        moments.add(latent)
    std = np.sqrt(moments.square / max(moments.count, 1))
    gain = channel_gain(vae, params, latents[:: max(1, len(latents) // GAIN_CLIPS)], std)
    return {"mean": moments.mean.tolist(), "std": std.tolist(), "gain": gain.tolist(),
            "clips": len(videos)}  # fmt: skip


def channel_gain(vae: Vae, params: Tree, latents: list[np.ndarray], std: np.ndarray) -> np.ndarray:
    """f64[c]: rms change of the decoded pixels when a channel moves by one deviation.

    latents  [t,h,w,c] each; the first GAIN_CLIPS are used, cut to their common size
    """
    t, h, w = np.min([z.shape[:3] for z in latents[:GAIN_CLIPS]], axis=0)
    z_Bthwc = jnp.asarray(np.stack([z[:t, :h, :w] for z in latents[:GAIN_CLIPS]]))
    decode = jax.jit(vae.decode)
    base = decode(params, z_Bthwc)

    def moved(channel: int) -> float:
        step = jnp.zeros((1, 1, 1, 1, len(std))).at[..., channel].set(float(std[channel]))
        return float(jnp.sqrt(jnp.mean(jnp.square(decode(params, z_Bthwc + step) - base))))

    return np.array([moved(c) for c in range(len(std))])


def _aligned(vae: Vae, index: ClipIndex, row: int) -> np.ndarray | None:
    """A clip cut to the autoencoder's grid; None where it is smaller than one cell."""
    space, stride = vae.cfg.space_stride, vae.cfg.time_stride
    height, width = (int(s) // space * space for s in (index.height[row], index.width[row]))
    if not height or not width:
        return None
    frames = 1 + (min(int(index.num_frames[row]), MAX_FRAMES) - 1) // stride * stride
    return index.read(row, 0, frames, crop=(0, 0, height, width))
