"""A whole generator with random weights that compiles in seconds, in memory or on disk."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.config import to_dict
from vidsim.data.packing import RowLimits
from vidsim.data.plan import PlanConfig
from vidsim.generate.model import Model, VaeModel
from vidsim.models.dit import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae import Vae, VaeConfig
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.weights import save_model
from vidsim.tasks.denoising import Denoising, DenoisingConfig

VAE = Vae(
    VaeConfig(latent_channels=3, base_dim=8, dim_mult=(1,), num_res_blocks=1, decoder_res_blocks=1,
              space_down=(), time_down=(), patch=(2, 4, 4), mid_attention=False)
)  # fmt: skip
TASK = Denoising(
    DenoisingConfig(
        DiTConfig(patch_width=12, text_width=16, width=32, heads=2, mlp_width=32, layers=1,
                  freq_width=16),
        ByteEncoderConfig(width=16, heads=2, mlp_width=16, layers=1),
        LatentConfig((1, 2, 2), (0.1, -0.2, 0.3), (1.5, 0.5, 1.0)),
    )
)  # fmt: skip
LIMITS = RowLimits(91, 64, 6)  # an odd length is never halved: fewer shapes to compile


def random_weights(init, seed: int):
    """Weights of which none is zero, so that every path is alive; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(x):
        fan_in = x.shape[-2] if len(x.shape) > 1 else 25
        return jnp.asarray(rng.normal(0.0, 1.2 * fan_in**-0.5, x.shape), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0)))


@functools.cache
def denoiser_params():
    return random_weights(TASK.init, 0)


@functools.cache
def vae_params():
    return random_weights(VAE.init, 1)


@functools.cache
def make_model() -> Model:
    vae = VaeModel(VAE, vae_params(), "0" * 64, {})
    return Model(TASK, denoiser_params(), vae, LIMITS, {"step": 3}, {})


def self_conditioned_model() -> Model:
    """The same with a network that reads what it said before."""
    dit = dataclasses.replace(TASK.cfg.dit, self_condition=True)
    task = Denoising(dataclasses.replace(TASK.cfg, dit=dit))
    return dataclasses.replace(make_model(), task=task, params=random_weights(task.init, 0))


def referring_model() -> Model:
    """The same as if trained on windows with a reference to the video's first frame."""
    masks = dataclasses.replace(TASK.cfg.masks, headless=0.5, reference=0.5)
    return dataclasses.replace(
        make_model(), task=Denoising(dataclasses.replace(TASK.cfg, masks=masks))
    )


def save_workdir(folder: Path, **changes) -> str:
    """Writes what training would have left; returns the hash of the VAE."""
    vae_hash = save_model(folder / "vae", to_dict(VAE.cfg), jax.device_get(vae_params()), {})
    plan = PlanConfig(LIMITS.tokens, LIMITS.text, LIMITS.segments, 4, 2)
    config = {"task": "denoising", "denoising": to_dict(TASK.cfg),
              "plan": dataclasses.asdict(plan), "vae_hash": vae_hash}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    store = CheckpointStore(folder / "checkpoints")
    for step in (1, 3):
        scaled = jax.tree.map(lambda x, s=step: x * (s / 3), denoiser_params())
        store.save(step, {"params": jax.tree.map(np.negative, scaled), "ema": scaled})
    store.wait()
    return vae_hash
