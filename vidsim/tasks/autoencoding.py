"""Learning the video autoencoder: reconstruction, a light pull to a standard normal, and late in
training an optional critic that asks for sharp texture.

Random stream, keyed by (seed, step, clip key): "autoencode/posterior".
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.core.keys import stream, token_normal
from vidsim.models.critic import Critic, CriticConfig
from vidsim.models.vae import Vae, VaeConfig, kl_standard_normal
from vidsim.tasks.base import Batch, Metrics, Params

# Maps video_BTHWC in [-1, 1] to feature maps [B, ..., channels], one for each chosen layer.
Features = Callable[[jax.Array], Sequence[jax.Array]]

# Latent rows and columns are numbered on a grid of this width, so that a position's noise does not
# depend on the canvas the clip lies on.
NOISE_GRID = 4096


@dataclasses.dataclass(frozen=True)
class AutoencodingConfig:
    """The autoencoder and the weights of its losses. Every loss is a mean over a clip's numbers.

    l1, l2         absolute and squared error of pixels in [-1, 1]
    kl             KL divergence of the posterior to a standard normal, nats a latent number
    perceptual     squared distance of unit-length features of a frozen network (arXiv:1801.03924)
    critic         patch discriminator; None trains without one
    critic_weight  of the autoencoder's part of the hinge loss (arXiv:1705.02894)
    critic_start   first step at which the critic learns and is heard
    """

    vae: VaeConfig
    l1: float = 1.0
    l2: float = 0.0
    kl: float = 1e-6
    perceptual: float = 0.0
    critic: CriticConfig | None = None
    critic_weight: float = 0.05
    critic_start: int = 0

    def __post_init__(self) -> None:
        where = "AutoencodingConfig"
        for name in ("l1", "l2", "kl", "perceptual", "critic_weight"):
            if getattr(self, name) < 0.0:
                raise bad(f"{where}.{name}", f"{getattr(self, name)}", "a weight of 0 or more")
        if self.l1 + self.l2 <= 0.0:
            raise bad(f"{where}.l1", "l1 and l2 are both 0", "one of them above 0")
        if self.critic_start < 0:
            raise bad(f"{where}.critic_start", f"{self.critic_start}", "a step of 0 or more")


@dataclasses.dataclass(frozen=True)
class Autoencoding:
    """The task of a config. Weights: {"vae": ...} and, with a critic, {"critic": ...} beside it in
    the same tree; stopped gradients keep each from learning the other's loss.

    Batch: video u8[B,T,H,W,3], clip_key u32[B], num_clips f32[] of the whole step, and optionally
    valid i32[B,2], the (h, w) of each clip on its canvas in latent positions.

    features  of the perceptual loss, needed when its weight is above 0
    """

    cfg: AutoencodingConfig
    features: Features | None = None
    name = "autoencoding"

    def __post_init__(self) -> None:
        if self.cfg.perceptual > 0.0 and self.features is None:
            raise bad(
                "AutoencodingConfig.perceptual",
                f"weight {self.cfg.perceptual} without a feature network",
                "0, or weights supplied for one",
            )

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
        cfg, valid_B2 = self.cfg, batch.get("valid")
        video = to_signed(batch["video"])
        mean, logvar = self.vae.encode(params["vae"], video, valid_B2)
        noise = posterior_noise(stream(seed, "autoencode/posterior", step), batch, mean.shape)
        made = self.vae.decode(params["vae"], mean + jnp.exp(0.5 * logvar) * noise, valid_B2)
        inside = canvas_mask(valid_B2, video.shape, cfg.vae.space_stride)
        cells = canvas_mask(valid_B2, mean.shape, 1)
        terms_B = {
            "l1": clip_mean(jnp.abs(made - video), inside),
            "l2": clip_mean(jnp.square(made - video), inside),
            "kl": clip_mean(kl_standard_normal(mean, logvar), cells),
        }
        weights = {"l1": cfg.l1, "l2": cfg.l2, "kl": cfg.kl}
        if cfg.perceptual > 0.0:
            terms_B["perceptual"] = self._perceptual(made, video)
            weights["perceptual"] = cfg.perceptual
        if self.critic is not None:
            adversarial_B, critic_B = self._hinge(params, made, video, step)
            terms_B |= {"adversarial": adversarial_B, "critic": critic_B}
            weights |= {"adversarial": cfg.critic_weight, "critic": 1.0}
        total = jnp.maximum(batch["num_clips"], 1.0)
        metrics = {name: jnp.sum(term_B) / total for name, term_B in terms_B.items()}
        loss = sum(weights[name] * value for name, value in metrics.items())
        psnr_B = psnr(clip_mean(jnp.square(jnp.clip(made, -1.0, 1.0) - video), inside))
        return loss, metrics | {"loss": loss, "psnr": jnp.sum(psnr_B) / total}

    def _hinge(
        self, params: Params, made: jax.Array, video: jax.Array, step: int | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(what the autoencoder hears, the critic's own loss), f32[B] each; 0 before critic_start.

        The autoencoder sees a frozen critic, the critic sees frozen videos. Before its start the
        critic is not run at all.
        """
        assert self.critic is not None
        apply = self.critic.apply

        def heard(critic: Params, made: jax.Array) -> tuple[jax.Array, jax.Array]:
            praise = apply(jax.lax.stop_gradient(critic), made)
            fake = apply(critic, jax.lax.stop_gradient(made))
            real = apply(critic, video)
            hinge = _per_clip(jax.nn.relu(1.0 + fake)) + _per_clip(jax.nn.relu(1.0 - real))
            return -_per_clip(praise), hinge

        def silent(critic: Params, made: jax.Array) -> tuple[jax.Array, jax.Array]:
            nothing = jnp.zeros(made.shape[0], jnp.float32)
            return nothing, nothing

        return jax.lax.cond(
            jnp.asarray(step) >= self.cfg.critic_start, heard, silent, params["critic"], made
        )

    def _perceptual(self, made: jax.Array, video: jax.Array) -> jax.Array:
        """Squared distance of features of unit length, mean over positions, sum over layers."""
        assert self.features is not None
        total = jnp.zeros(made.shape[0], jnp.float32)
        for a, b in zip(self.features(made), self.features(video), strict=True):
            a, b = (f * jax.lax.rsqrt(jnp.sum(f * f, -1, keepdims=True) + 1e-10) for f in (a, b))
            total = total + _per_clip(jnp.sum(jnp.square(a - b), -1, keepdims=True))
        return total


def to_signed(video: jax.Array) -> jax.Array:
    """Pixels 0..255 (u8) to f32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1.0


def posterior_noise(key: jax.Array, batch: Batch, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal of `shape` [B,t,h,w,c], keyed by clip key and latent position alone."""
    b, t, h, w, c = shape
    ft, fy, fx = jnp.meshgrid(jnp.arange(t), jnp.arange(h), jnp.arange(w), indexing="ij")
    index_N = ((ft * NOISE_GRID + fy) * NOISE_GRID + fx).reshape(-1)
    index_BN = jnp.broadcast_to(index_N[None], (b, index_N.size))
    owner_BN = jnp.broadcast_to(batch["clip_key"][:, None], index_BN.shape)
    return token_normal(key, owner_BN, index_BN, c).reshape(shape)


def canvas_mask(valid_B2: jax.Array | None, shape: tuple[int, ...], scale: int) -> jax.Array | None:
    """Where clips are on canvases of `shape` [B,T,H,W,C]: bool[B,1,H,W,1]; None = everywhere."""
    if valid_B2 is None:
        return None
    rows = jnp.arange(shape[2])[None, None, :, None, None]
    columns = jnp.arange(shape[3])[None, None, None, :, None]
    size = valid_B2 * scale
    height, width = (size[:, i].reshape(-1, 1, 1, 1, 1) for i in (0, 1))
    return (rows < height) & (columns < width)


def clip_mean(value: jax.Array, inside: jax.Array | None) -> jax.Array:
    """Mean over each clip's own numbers: value [B,T,H,W,C], inside from `canvas_mask`. f32[B]."""
    if inside is None:
        return _per_clip(value)
    counted = jnp.broadcast_to(inside, value.shape).astype(jnp.float32)
    axes = tuple(range(1, value.ndim))
    return jnp.sum(value * counted, axes) / jnp.maximum(jnp.sum(counted, axes), 1.0)


def psnr(square: jax.Array) -> jax.Array:
    """Peak signal to noise ratio in dB from the mean squared error of pixels in [-1, 1]."""
    return -10.0 * jnp.log10(jnp.maximum(square, 1e-10) / 4.0)


def _per_clip(value: jax.Array) -> jax.Array:
    return jnp.mean(value.astype(jnp.float32), axis=tuple(range(1, value.ndim)))
