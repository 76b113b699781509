"""Video autoencoder: clips to latents and back, causal in time, an image being a clip of one frame.

A clip of 1 + k * time_stride frames has 1 + k latent frames. Latent frame 0 is the first frame
alone; no latent frame depends on later frames, and no decoded frame on later latents.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.models.vae_blocks import CLIPS_HEIGHT, Decoder, Encoder, Mask
from vidsim.models.vae_config import VaeConfig
from vidsim.models.vae_presets import PRESETS, preset
from vidsim.nn.conv import apply_mask, fold, unfold
from vidsim.nn.init import init_params, param_axes
from vidsim.parallel.place import constrain

__all__ = ["PRESETS", "Vae", "VaeConfig", "kl_standard_normal", "preset"]

Tree = dict[str, Any]
LOGVAR_RANGE = (-30.0, 20.0)  # nats; exp() of anything outside is useless in float32


@dataclasses.dataclass(frozen=True)
class Vae:
    """The autoencoder of a config, as functions of its weights.

    Weights are a plain tree {"encoder": ..., "decoder": ...} of float32 arrays.
    """

    cfg: VaeConfig

    def init(self, key: jax.Array) -> Tree:
        """Fresh weights."""
        keys = jax.random.split(key)
        return {
            name: init_params(half, k, probe)
            for k, (name, half, probe) in zip(keys, self._halves(), strict=True)
        }

    def param_axes(self) -> Tree:
        """Logical axis names of each weight, in the shape of the weights."""
        return {name: param_axes(half, probe) for name, half, probe in self._halves()}

    def encode(
        self, params: Tree, video_BTHWC: jax.Array, valid_B2: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of the latents of whole clips.

        video_BTHWC  pixels in [-1, 1]; T = 1 + k * time_stride; H, W multiples of space_stride
        valid_B2     size (h, w) of each clip on its canvas, in latent positions; None = all of it.
                     Inside, results are those of the clip alone; outside, zero
        Returns      float32 [B, 1 + k, h, w, latent_channels] twice
        """
        self.check_video(video_BTHWC.shape)
        x, mask = self.to_encoder(video_BTHWC, True), self.encoder_mask(video_BTHWC, valid_B2)
        moments = self.encoder.apply({"params": params["encoder"]}, x, mask)
        return self.from_encoder(moments, mask)

    def decode(
        self, params: Tree, latent_Bthwc: jax.Array, valid_B2: jax.Array | None = None
    ) -> jax.Array:
        """Pixels of whole clips: float32 [B, 1 + (t - 1) * time_stride, H, W, 3], not clipped.

        valid_B2  as in `encode`
        """
        self.check_latent(latent_Bthwc.shape)
        mask = self.decoder_mask(latent_Bthwc, valid_B2)
        latent = apply_mask(constrain(latent_Bthwc, CLIPS_HEIGHT), mask)
        patches = self.decoder.apply({"params": params["decoder"]}, latent, mask)
        return self.from_decoder(patches, valid_B2, True)

    # The steps of encode and decode, shared with chunked coding (vae_stream.py).

    @functools.cached_property
    def encoder(self) -> nn.Module:
        """Folded pixels to moments."""
        return Encoder(self.cfg, self.cfg.pixel_channels, self.cfg.latent_channels)

    @functools.cached_property
    def decoder(self) -> nn.Module:
        """Latents to folded pixels."""
        return Decoder(self.cfg, self.cfg.pixel_channels, self.cfg.latent_channels)

    def to_encoder(self, video_BTHWC: jax.Array, first: bool) -> jax.Array:
        """Folds pixels; a clip's first frame is repeated to fill its block."""
        pt = self.cfg.patch[0]
        x = constrain(video_BTHWC.astype(jnp.float32), CLIPS_HEIGHT)
        if first and pt > 1:
            x = jnp.concatenate([jnp.repeat(x[:, :1], pt - 1, axis=1), x], 1)
        return fold(x, self.cfg.patch)

    def from_encoder(self, moments: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance, float32, zero outside the mask of the folded pixels."""
        scale = self.cfg.space_stride // self.cfg.patch[1]
        mask = None if mask is None else mask[:, :, ::scale, ::scale]
        moments = constrain(apply_mask(moments.astype(jnp.float32), mask), CLIPS_HEIGHT)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def from_decoder(
        self, patches: jax.Array, valid_B2: jax.Array | None, first: bool
    ) -> jax.Array:
        """Unfolds pixels, drops what fills the first block, zeros outside the clip."""
        video = constrain(unfold(patches.astype(jnp.float32), self.cfg.patch), CLIPS_HEIGHT)
        video = video[:, self.cfg.patch[0] - 1 :] if first else video
        return apply_mask(video, _mask(valid_B2, video.shape, self.cfg.space_stride))

    def encoder_mask(self, video_BTHWC: jax.Array, valid_B2: jax.Array | None) -> Mask:
        """Where the clip is, at the size of the folded pixels."""
        b, t, h, w, c = video_BTHWC.shape
        shape = (b, t, h // self.cfg.patch[1], w // self.cfg.patch[2], c)
        return _mask(valid_B2, shape, self.cfg.space_stride // self.cfg.patch[1])

    def decoder_mask(self, latent_Bthwc: jax.Array, valid_B2: jax.Array | None) -> Mask:
        """Where the clip is, in latent positions."""
        return _mask(valid_B2, latent_Bthwc.shape, 1)

    def check_video(self, shape: tuple[int, ...], first: bool = True) -> None:
        """Raises BadInput for pixels that do not fit the strides."""
        stride, space = self.cfg.time_stride, self.cfg.space_stride
        if len(shape) != 5 or shape[-1] != 3:
            raise bad("encode", f"video of shape {shape}", "[batch, frames, height, width, 3]")
        frames = shape[1]
        if frames < 1 or (frames - first) % stride:
            allowed = f"1 + k * {stride}" if first else f"a multiple of {stride}"
            near = max(frames - (frames - first) % stride, 1)
            raise bad("encode", f"{frames} frames", allowed, f"cut to {near}")
        if shape[2] % space or shape[3] % space or 0 in shape:
            near_h, near_w = (max(size // space, 1) * space for size in shape[2:4])
            what = f"{shape[2]}x{shape[3]} pixels"
            raise bad("encode", what, f"multiples of {space}", f"crop to {near_h}x{near_w}")

    def check_latent(self, shape: tuple[int, ...]) -> None:
        """Raises BadInput for latents of another autoencoder."""
        c = self.cfg.latent_channels
        if len(shape) != 5 or shape[-1] != c or 0 in shape:
            raise bad("decode", f"latents of shape {shape}", f"[batch, t, h, w, {c}]")

    def _halves(self) -> tuple[tuple[str, nn.Module, jax.ShapeDtypeStruct], ...]:
        scale = self.cfg.space_stride // self.cfg.patch[1]
        pixels = (1, 1 + self.cfg.time_stride // self.cfg.patch[0], scale, scale)
        video = jax.ShapeDtypeStruct((*pixels, self.cfg.pixel_channels), jnp.float32)
        latent = jax.ShapeDtypeStruct((1, 2, 1, 1, self.cfg.latent_channels), jnp.float32)
        return ("encoder", self.encoder, video), ("decoder", self.decoder, latent)


def kl_standard_normal(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each number, in nats (arXiv:1312.6114, appendix B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def _mask(valid_B2: jax.Array | None, shape: tuple[int, ...], scale: int) -> Mask:
    """bool [B, 1, H, W, 1]: rows < scale * valid h and columns < scale * valid w."""
    if valid_B2 is None:
        return None
    b, _, h, w, _ = shape
    size = (jnp.asarray(valid_B2, jnp.int32) * scale).reshape(b, 2, 1, 1, 1)
    rows = jnp.arange(h, dtype=jnp.int32).reshape(1, 1, h, 1, 1) < size[:, None, 0]
    return rows & (jnp.arange(w, dtype=jnp.int32).reshape(1, 1, 1, w, 1) < size[:, None, 1])
