"""Starting an autoencoder at the best linear one: the principal components of blocks of pixels.

Where the patch does all of the compression, the linear map of each block (VaeConfig.linear) can be
set in closed form; the convolutions start at zero and learn only what it leaves over. Latents start
with unit variance in every channel.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.models.vae import Tree, Vae

START_LOGVAR = -5.0  # nats; noise of 0.08 on latents of unit variance


class BlockMoments:
    """Sum, sum of squares and number of folded blocks of pixels, gathered in float64."""

    def __init__(self, vae: Vae) -> None:
        if not vae.cfg.linear:
            raise bad("principal start", "a VAE without the linear map", "VaeConfig.linear = true")
        width = vae.cfg.pixel_channels
        self.vae, self.count = vae, 0
        self.sum, self.square = np.zeros(width), np.zeros((width, width))

    def add(self, video_BTHWC: np.ndarray) -> None:
        """Takes in clips with pixels in [-1, 1], every block counting the same."""
        blocks = np.asarray(self.vae.to_encoder(jnp.asarray(video_BTHWC), True), np.float64)
        flat = blocks.reshape(-1, blocks.shape[-1])
        self.count += len(flat)
        self.sum += flat.sum(0)
        self.square += flat.T @ flat

    def components(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean [P], standard deviations [count] and directions [P, count], largest first."""
        if self.count == 0:
            raise bad("principal start", "no clips gathered", "at least one")
        mean = self.sum / self.count
        value, vector = np.linalg.eigh(self.square / self.count - np.outer(mean, mean))
        order = np.argsort(value)[::-1][:count]
        return mean, np.sqrt(np.maximum(value[order], 1e-8)), vector[:, order]


def principal_start(moments: BlockMoments, params: Tree) -> Tree:
    """Weights that code linearly by principal components; everything else starts at no effect.

    params   fresh weights of `Vae.init`
    Returns  a new tree; the encoder's mean is whitened, its log variance START_LOGVAR
    """
    c = moments.vae.cfg.latent_channels
    mean, std, axes = moments.components(c)
    encode = np.concatenate([axes / std, np.zeros_like(axes)], 1)
    encode_b = np.concatenate([-(mean @ axes) / std, np.full(c, START_LOGVAR)])
    encoder = _zeroed(params["encoder"], "moments") | {"linear": _weights(encode, encode_b)}
    decoder = _zeroed(params["decoder"], "conv_out") | {"linear": _weights((axes * std).T, mean)}
    return {"encoder": encoder, "decoder": decoder}


def _weights(w: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    return {"w": jnp.asarray(w[None, None, None], jnp.float32), "b": jnp.asarray(b, jnp.float32)}


def _zeroed(half: Tree, name: str) -> Tree:
    return half | {name: {key: jnp.zeros_like(value) for key, value in half[name].items()}}


__all__ = ["START_LOGVAR", "BlockMoments", "principal_start"]
