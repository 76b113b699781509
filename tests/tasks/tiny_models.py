"""Models so small that a test compiles them in a second or two."""

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.trees import flatten, unflatten
from vidsim.models.critic import CriticConfig
from vidsim.models.dit import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae import VaeConfig
from vidsim.tasks.denoising import Denoising, DenoisingConfig

P = 4
DIT = DiTConfig(
    patch_width=P, text_width=8, width=16, heads=2, mlp_width=16, layers=2, freq_width=8
)
TEXT = ByteEncoderConfig(width=8, heads=2, mlp_width=8, layers=1)
VAE = VaeConfig(
    latent_channels=3, base_dim=4, dim_mult=(1, 1), num_res_blocks=1, decoder_res_blocks=1,
    space_down=(True,), time_down=(True,), patch=(1, 2, 2), mid_attention=False,
)  # fmt: skip
CRITIC = CriticConfig(width=4, halves=1)


def make_task(**changes):
    """The denoising task of the tiny models."""
    settings = {"latent": LatentConfig((1, 1, 1)), **changes}
    return Denoising(DenoisingConfig(DIT, TEXT, **settings))


def scattered(task, seed=1, size=0.25):
    """Weights of a task drawn at random, without compiling its initialisation.

    Fresh weights hold zeros (outputs, gates) that would hide whatever lies behind them. Gains of
    norms are scattered around 1, everything else around 0. A weight of the same name and shape is
    the same in every task.
    """
    weights = {}
    for name, leaf in flatten(jax.eval_shape(task.init, jax.random.key(0))).items():
        gain = name.endswith("/g") or "norm" in name.split("/")[-1]
        rng = np.random.default_rng([seed, *name.encode()])
        value = size * rng.normal(size=leaf.shape) + (1.0 if gain else 0.0)
        weights[name] = jnp.asarray(value, jnp.float32)
    return unflatten(weights)
