"""The scale of latents: the one place that normalises patches for the denoiser, and undoes it.

Training, validation and sampling go through `normalise` and `denormalise` of one `LatentConfig`,
whose numbers are measured by `LatentMoments` over a VAE's encoded clips and stored with its
checkpoint.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """What the numbers of a patch mean.

    patch      (pt, ph, pw) latent cells in one patch
    mean, std  of each latent channel over the training clips; one number serves all channels
    gain       rms change of the decoded pixels for a change of one std in each channel; one number
               weighs all channels alike
    """

    patch: tuple[int, int, int] = (1, 2, 2)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    gain: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise bad("LatentConfig.patch", f"{self.patch}", "three sizes of at least 1")
        if not self.mean or len(self.mean) != len(self.std):
            raise bad(
                "LatentConfig",
                f"{len(self.mean)} means and {len(self.std)} standard deviations",
                "one of each for every latent channel",
            )
        if len(self.gain) not in (1, len(self.mean)) or min(self.gain) <= 0.0:
            raise bad("LatentConfig.gain", f"{self.gain}", "one positive number, or one a channel")
        if not all(np.isfinite(self.mean)) or not all(0.0 < s < np.inf for s in self.std):
            raise bad("LatentConfig.std", f"{self.std}", "finite means, finite positive stds")


def check_width(cfg: LatentConfig, width: int) -> None:
    """Raises BadInput unless patches of `width` numbers fit the patch shape and the statistics."""
    cells = math.prod(cfg.patch)
    channels, rest = divmod(width, cells)
    if rest or len(cfg.mean) not in (1, channels):
        raise bad(
            "latent statistics",
            f"{len(cfg.mean)} channels for patches of {width} numbers in {cells} cells",
            f"multiples of {cells}" if rest else f"{channels} channels",
        )


def _tables(cfg: LatentConfig, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and std of each of a patch's P numbers, [1..., P]; channels vary fastest in a patch."""
    width = patches.shape[-1]
    check_width(cfg, width)
    mean, std = (
        jnp.tile(jnp.asarray(x, jnp.float32), width // len(x)) for x in (cfg.mean, cfg.std)
    )
    shape = (1,) * (patches.ndim - 1) + (width,)
    return mean.reshape(shape), std.reshape(shape)


def channel_weights(cfg: LatentConfig, width: int, exponent: float) -> jax.Array:
    """Weights f32[P] of a patch's numbers with mean 1: the squared gain to the power `exponent`.

    exponent  0 weighs all channels alike, 1 as their error shows in pixels
    """
    power = jnp.asarray(cfg.gain, jnp.float32) ** (2.0 * exponent)
    power = jnp.tile(power, width // len(cfg.gain))
    return power / jnp.mean(power)


def normalise(cfg: LatentConfig, patches: jax.Array) -> jax.Array:
    """Raw latent patches [..., P] to zero mean and unit variance per channel, float32."""
    mean, std = _tables(cfg, patches)
    return (patches.astype(jnp.float32) - mean) / std


def denormalise(cfg: LatentConfig, patches: jax.Array) -> jax.Array:
    """The inverse of `normalise`."""
    mean, std = _tables(cfg, patches)
    return patches.astype(jnp.float32) * std + mean


class LatentMoments:
    """Mean and standard deviation of each latent channel, gathered clip by clip in float64.

    Every latent cell counts the same. `+` merges what two processes gathered; the result does not
    depend on order or split beyond float64 rounding.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels, np.float64)
        self.square = np.zeros(channels, np.float64)  # sum of squared distances from the mean

    def add(self, latent_thwc: np.ndarray) -> None:
        """Takes in one clip's latents [..., c]."""
        flat = np.asarray(latent_thwc, np.float64).reshape(-1, self.mean.size)
        mean = flat.mean(0)
        self._merge(len(flat), mean, np.square(flat - mean).sum(0))

    def __add__(self, other: "LatentMoments") -> "LatentMoments":
        both = LatentMoments(self.mean.size)
        both._merge(self.count, self.mean, self.square)
        both._merge(other.count, other.mean, other.square)
        return both

    def _merge(self, count: int, mean: np.ndarray, square: np.ndarray) -> None:
        # Chan, Golub and LeVeque 1979: pairwise update, free of the cancellation of E[x^2] - E[x]^2
        total = self.count + count
        if total == 0:
            return
        gap = mean - self.mean
        self.square = self.square + square + gap**2 * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    def config(self, patch: tuple[int, int, int]) -> LatentConfig:
        """The statistics as a LatentConfig. Raises BadInput before anything was added."""
        if self.count == 0:
            raise bad("latent statistics", "no latents gathered", "at least one clip")
        std = np.sqrt(self.square / self.count)
        return LatentConfig(patch, tuple(map(float, self.mean)), tuple(map(float, std)))
