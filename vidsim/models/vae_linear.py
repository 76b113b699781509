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

    def components(
        self, count: int, known_CP: np.ndarray | None = None, motion: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean [P], standard deviations [count] and directions [P, count], by what they count.

        known_CP  directions that are coded already: the components are at right angles to them
        motion    how many times what changes from frame to frame inside a block counts in the
                  choice. What moves is a small share of the pixels' variance, and components chosen
                  by that alone let an object stand still in a block and leap to the next
        """
        if self.count == 0:
            raise bad("principal start", "no clips gathered", "at least one")
        mean = self.sum / self.count
        cov = self.square / self.count - np.outer(mean, mean)
        if known_CP is None and motion == 1.0:
            value, vector = np.linalg.eigh(cov)
            order = np.argsort(value)[::-1][:count]
            return mean, np.sqrt(np.maximum(value[order], 1e-8)), vector[:, order]
        free = np.eye(len(mean))
        if known_CP is not None:
            basis = np.linalg.qr(np.asarray(known_CP, np.float64).T)[0]
            free -= basis @ basis.T
        weighed = self._weigh(self._weigh(cov, motion).T, motion)
        value, vector = np.linalg.eigh(free @ weighed @ free)
        chosen = free @ vector[:, np.argsort(value)[::-1][:count]]
        axes = np.linalg.qr(chosen)[0]  # as the code and its inverse are transposes
        return mean, np.sqrt(np.maximum(np.diag(axes.T @ cov @ axes), 1e-8)), axes

    def _weigh(self, x_PK: np.ndarray, motion: float) -> np.ndarray:
        """Columns of blocks with their differences from the block's mean frame times `motion`."""
        frames = self.vae.cfg.patch[0]
        split = x_PK.reshape(frames, -1, x_PK.shape[1])
        still = split.mean(0, keepdims=True)
        return (still + motion * (split - still)).reshape(x_PK.shape)


def principal_start(moments: BlockMoments, params: Tree, motion: float = 1.0) -> Tree:
    """Weights that code linearly by principal components; everything else starts at no effect.

    params   fresh weights of `Vae.init`
    motion   as in `BlockMoments.components`
    Returns  a new tree; the encoder's mean is whitened, its log variance START_LOGVAR
    """
    c = moments.vae.cfg.latent_channels
    mean, std, axes = moments.components(c, motion=motion)
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
