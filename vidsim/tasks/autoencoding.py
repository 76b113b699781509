"""Learning the video autoencoder: reconstruction, a light pull to a standard normal, and where
configured a perceptual distance and, late in training, a critic that asks for sharp texture.

Random stream, keyed by (seed, step, clip key): "autoencode/posterior".
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file

from vidsim.core.errors import bad
from vidsim.core.keys import per_clip, stream
from vidsim.models.critic import (
    Critic,
    CriticConfig,
    PerceptualSpec,
    hinge_critic,
    hinge_generator,
    perceptual_distance,
)
from vidsim.models.vae import Vae, VaeConfig, kl_standard_normal
from vidsim.models.vae_linear import BlockMoments, principal_start
from vidsim.tasks.base import Batch, Metrics, Params

STARTS = ("random", "principal")
LEARN = ("both", "decoder")


@dataclasses.dataclass(frozen=True)
class AutoencodingConfig:
    """The autoencoder and the weights of its losses. Every loss is a mean over a clip's numbers.

    l1, l2              absolute and squared error of pixels in [-1, 1]
    kl                  divergence of the posterior from a standard normal, nats a latent number
    perceptual          distance of features of a frozen network, see `perceptual_distance`
    perceptual_weights  folder of that network's perceptual.json and perceptual.safetensors
    critic              patch discriminator; None trains without one
    critic_weight       of the autoencoder's part of the hinge loss
    critic_start        first step at which the critic learns and is heard
    start               "random" weights, or "principal": the linear map of each block starts at the
                        principal components of the data (models/vae_linear.py)
    motion              how many times what moves inside a block counts in choosing the components
                        (`BlockMoments.components`)
    learn               "both" halves, or the "decoder" alone: the encoder stays as it is, and with
                        it every latent that was made with it
    """

    vae: VaeConfig
    l1: float = 1.0
    l2: float = 0.0
    kl: float = 1e-6
    perceptual: float = 0.0
    perceptual_weights: str = ""
    critic: CriticConfig | None = None
    critic_weight: float = 0.05
    critic_start: int = 0
    start: str = "random"
    motion: float = 1.0
    learn: str = "both"

    def __post_init__(self) -> None:
        where = "AutoencodingConfig"
        for name in ("l1", "l2", "kl", "perceptual", "critic_weight"):
            if getattr(self, name) < 0.0:
                raise bad(f"{where}.{name}", f"{getattr(self, name)}", "a weight of 0 or more")
        if self.l1 + self.l2 <= 0.0:
            raise bad(f"{where}.l1", "l1 and l2 are both 0", "one of them above 0")
        if self.perceptual > 0.0 and not self.perceptual_weights:
            raise bad(
                f"{where}.perceptual", f"weight {self.perceptual} without a network", "0",
                "set perceptual_weights to the folder of one",
            )  # fmt: skip
        if self.start not in STARTS:
            raise bad(f"{where}.start", f"{self.start!r}", f"one of {', '.join(STARTS)}")
        if self.start == "principal" and not self.vae.linear:
            raise bad(f"{where}.start", "principal without a linear map", "random",
                      "set vae.linear")  # fmt: skip
        if self.motion <= 0.0:
            raise bad(f"{where}.motion", f"{self.motion}", "a weight above 0")
        if self.learn not in LEARN:
            raise bad(f"{where}.learn", f"{self.learn!r}", f"one of {', '.join(LEARN)}")
        if self.critic_start < 0:
            raise bad(f"{where}.critic_start", f"{self.critic_start}", "a step of 0 or more")


class Perceptual(NamedTuple):
    """A frozen feature network: its layers and its weights by name."""

    spec: PerceptualSpec
    weights: Mapping[str, jax.Array]


def load_perceptual(cfg: AutoencodingConfig) -> Perceptual | None:
    """Reads the network that the config names; None when it asks for none.

    Raises BadInput when the folder lacks one of its two files.
    """
    if cfg.perceptual == 0.0:
        return None
    folder = Path(cfg.perceptual_weights)
    layers, weights = folder / "perceptual.json", folder / "perceptual.safetensors"
    for path in (layers, weights):
        if not path.is_file():
            raise bad("AutoencodingConfig.perceptual_weights", f"no file {path}")
    fields = json.loads(layers.read_text())
    spec = PerceptualSpec(*(tuple(fields[name]) for name in ("mean", "std", "layers")))
    return Perceptual(spec, {name: jnp.asarray(x) for name, x in load_file(weights).items()})


@dataclasses.dataclass(frozen=True)
class Autoencoding:
    """The task of a config. Weights: {"vae": ...} and, with a critic, {"critic": ...} beside it in
    the same tree; stopped gradients keep each from learning the other's loss.

    Batch: video u8[B,T,H,W,3], clip_key u32[B], num_clips f32[] of the whole step.

    perceptual  from `load_perceptual`, needed by `loss` when its weight is above 0
    moments     of the data's blocks of pixels, from which a "principal" start is taken; None leaves
                fresh weights random
    """

    cfg: AutoencodingConfig
    perceptual: Perceptual | None = dataclasses.field(default=None, compare=False)
    moments: BlockMoments | None = dataclasses.field(default=None, compare=False)
    name = "autoencoding"

    @functools.cached_property
    def vae(self) -> Vae:
        """The autoencoder."""
        return Vae(self.cfg.vae)

    @functools.cached_property
    def critic(self) -> Critic | None:
        """The discriminator, if any."""
        return None if self.cfg.critic is None else Critic(self.cfg.critic)

    def init(self, key: jax.Array) -> Params:
        """Fresh weights."""
        vae_key, critic_key = jax.random.split(key)
        params = {"vae": self.vae.init(vae_key)}
        if self.moments is not None:
            params["vae"] = principal_start(self.moments, params["vae"], self.cfg.motion)
        return params if self.critic is None else params | {"critic": self.critic.init(critic_key)}

    def param_axes(self) -> dict[str, Any]:
        """Logical axes of every weight."""
        axes = {"vae": self.vae.param_axes()}
        return axes if self.critic is None else axes | {"critic": self.critic.param_axes()}

    def loss(
        self, params: Params, batch: Batch, *, seed: int | jax.Array, step: int | jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The clips' share of the step's loss; adds up over micro-batches. See `tasks.base.Task`.

        Metrics  means over the step's clips: loss, l1, l2, kl, psnr (dB, of a posterior sample)
                 and, where configured, perceptual, adversarial (what the autoencoder hears),
                 critic (its own hinge loss; 2 when it knows nothing)
        """
        cfg = self.cfg
        video = to_signed(batch["video"])
        mean, logvar = self.vae.encode(params["vae"], video)
        if cfg.learn == "decoder":
            mean, logvar = jax.lax.stop_gradient((mean, logvar))
        noise = posterior_noise(stream(seed, "autoencode/posterior", step), batch, mean.shape)
        made = self.vae.decode(params["vae"], mean + jnp.exp(0.5 * logvar) * noise)
        terms_B = {
            "l1": _clip_mean(jnp.abs(made - video)),
            "l2": _clip_mean(jnp.square(made - video)),
            "kl": _clip_mean(kl_standard_normal(mean, logvar)),
        }
        weights = {"l1": cfg.l1, "l2": cfg.l2, "kl": cfg.kl}
        if cfg.perceptual > 0.0:
            if self.perceptual is None:
                raise bad("Autoencoding", "its perceptual network was not loaded")
            terms_B["perceptual"] = perceptual_distance(*self.perceptual, made, video)
            weights["perceptual"] = cfg.perceptual
        if self.critic is not None:
            terms_B["adversarial"], terms_B["critic"] = self._hinge(params, made, video, step)
            weights |= {"adversarial": cfg.critic_weight, "critic": 1.0}
        total = jnp.maximum(batch["num_clips"], 1.0)
        metrics = {name: jnp.sum(term_B) / total for name, term_B in terms_B.items()}
        loss = jnp.sum(jnp.stack([weights[name] * value for name, value in metrics.items()]))
        psnr_B = psnr(_clip_mean(jnp.square(jnp.clip(made, -1.0, 1.0) - video)))
        return loss, metrics | {"loss": loss, "psnr": jnp.sum(psnr_B) / total}

    def _hinge(
        self, params: Params, made: jax.Array, video: jax.Array, step: int | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(what the autoencoder hears, the critic's own loss), f32[B] each; 0 before critic_start.

        The autoencoder sees a frozen critic, the critic sees frozen videos. Before its start the
        critic is not run at all.
        """
        assert self.critic is not None
        judge = self.critic.apply

        def heard(critic: Params, made: jax.Array) -> tuple[jax.Array, jax.Array]:
            fake, real = judge(critic, jax.lax.stop_gradient(made)), judge(critic, video)
            praise = judge(jax.lax.stop_gradient(critic), made)
            return jax.vmap(hinge_generator)(praise), jax.vmap(hinge_critic)(real, fake)

        def silent(critic: Params, made: jax.Array) -> tuple[jax.Array, jax.Array]:
            nothing = jnp.zeros(made.shape[0], jnp.float32)
            return nothing, nothing

        return jax.lax.cond(
            jnp.asarray(step) >= self.cfg.critic_start, heard, silent, params["critic"], made
        )


def to_signed(video: jax.Array) -> jax.Array:
    """Pixels 0..255 (u8) to f32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1.0


def posterior_noise(key: jax.Array, batch: Batch, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal of `shape` [B,t,h,w,c], each clip's keyed by its clip key."""
    draw = jax.vmap(lambda clip: jax.random.normal(clip, shape[1:], jnp.float32))
    return draw(per_clip(key, batch["clip_key"]))


def psnr(square: jax.Array) -> jax.Array:
    """Peak signal to noise ratio in dB from the mean squared error of pixels in [-1, 1]."""
    return -10.0 * jnp.log10(jnp.maximum(square, 1e-10) / 4.0)


def _clip_mean(value: jax.Array) -> jax.Array:
    return jnp.mean(value.astype(jnp.float32), axis=tuple(range(1, value.ndim)))
