"""Chunked coding: clips of any duration in constant memory, equal to coding them whole.

Each layer that looks back hands the few frames that it will need again to the next chunk. They
travel as an explicit tree, the state: saved and given back later, it continues the clip. None is
the state before a clip.

    state = None
    for frames in pieces:                     # 1 + k * time_stride frames, then k * time_stride
        state, mean, logvar = encode_chunk(vae, params, state, frames)
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.models.vae import Tree, Vae
from vidsim.nn.conv import apply_mask

State = Any


class Encoded(NamedTuple):
    """One chunk of latents, and the state after it."""

    mean_Bthwc: jax.Array
    logvar_Bthwc: jax.Array
    state: State


class Decoded(NamedTuple):
    """One chunk of pixels, and the state after it."""

    video_BTHWC: jax.Array
    state: State


@functools.partial(jax.jit, static_argnames=("vae",))
def encode_chunk(
    vae: Vae,
    params: Tree,
    state: State,
    video_BTHWC: jax.Array,
    valid_B2: jax.Array | None = None,
) -> tuple[State, jax.Array, jax.Array]:
    """Encodes the next frames of clips; compiled once per shape.

    state        of the chunk before; None before the first
    video_BTHWC  pixels in [-1, 1]: 1 + k * time_stride frames if first, else k * time_stride
    Returns      state, mean, logvar: float32 [B, 1 + k or k, h, w, latent_channels]
    """
    first = state is None
    vae.check_video(video_BTHWC.shape, first)
    x, mask = vae.to_encoder(video_BTHWC, first), vae.encoder_mask(video_BTHWC, valid_B2)
    variables = {"params": params["encoder"]} | ({} if first else {"stream": state})
    moments, kept = vae.encoder.apply(variables, x, mask, first, mutable=["stream"])
    return kept["stream"], *vae.from_encoder(moments, mask)


@functools.partial(jax.jit, static_argnames=("vae",))
def decode_chunk(
    vae: Vae,
    params: Tree,
    state: State,
    latent_Bthwc: jax.Array,
    valid_B2: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Decodes the next latents of clips; compiled once per shape.

    Returns  state, pixels: 1 + (t - 1) * time_stride frames if first, else t * time_stride
    """
    first = state is None
    vae.check_latent(latent_Bthwc.shape)
    mask = vae.decoder_mask(latent_Bthwc, valid_B2)
    variables = {"params": params["decoder"]} | ({} if first else {"stream": state})
    latent = apply_mask(latent_Bthwc, mask)
    patches, kept = vae.decoder.apply(variables, latent, mask, first, mutable=["stream"])
    return kept["stream"], vae.from_decoder(patches, valid_B2, first)


def encode_stream(
    vae: Vae,
    params: Tree,
    frames_iter: Iterable[np.ndarray | jax.Array],
    valid_B2: jax.Array | None = None,
    *,
    latent_frames: int = 1,
    state: State = None,
) -> Iterator[Encoded]:
    """Encodes clips that arrive piece by piece, holding at most one chunk of pixels.

    frames_iter    pixels [B, any number of frames, H, W, 3] in [-1, 1], one piece after the other
    latent_frames  latents per step; more are faster, fewer need less memory
    state          continues a clip from here; None begins one
    Yields         one latent frame for a clip's first frame, then `latent_frames` at a time, the
                   rest at the end one by one
    Raises         BadInput at the end when frames are left that fill no latent frame
    """
    stride = vae.cfg.time_stride
    for chunk in _chunks(frames_iter, state is None, latent_frames * stride, stride):
        state, mean, logvar = encode_chunk(vae, params, state, jnp.asarray(chunk), valid_B2)
        yield Encoded(mean, logvar, state)


def decode_stream(
    vae: Vae,
    params: Tree,
    latents_iter: Iterable[np.ndarray | jax.Array],
    valid_B2: jax.Array | None = None,
    *,
    latent_frames: int = 1,
    state: State = None,
) -> Iterator[Decoded]:
    """Decodes latents [B, any number, h, w, c] that arrive piece by piece; see `encode_stream`."""
    for chunk in _chunks(latents_iter, state is None, latent_frames, 1):
        state, video = decode_chunk(vae, params, state, jnp.asarray(chunk), valid_B2)
        yield Decoded(video, state)


def _chunks(
    pieces: Iterable[np.ndarray | jax.Array], first: bool, size: int, unit: int
) -> Iterator[np.ndarray]:
    """Cuts a stream into its first frame (if `first`), runs of `size`, runs of `unit`."""
    want = 1 if first else size
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(np.asarray(piece))
        count += piece.shape[1]
        while count >= want:
            joined = np.concatenate(held, 1) if len(held) > 1 else held[0]
            yield joined[:, :want]
            held, count, want = [joined[:, want:]], count - want, size
    rest = np.concatenate(held, 1) if held else np.zeros((1, 0))
    if count % unit:
        raise bad("stream", f"{count % unit} frames left over", f"1 + k * {unit} frames in all")
    for start in range(0, count, unit):
        yield rest[:, start : start + unit]
