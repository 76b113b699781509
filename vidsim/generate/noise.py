"""The noise of a request: white at every size, with its coarse part shared between sizes.

"shared": the numbers drawn are coefficients of the orthonormal cosine basis over a latent frame,
keyed by (seed, step, latent frame, row frequency, column frequency, channel). An orthonormal map of
independent standard normals is independent standard normals, so every clip starts from exactly the
kind of noise that training used. Two sizes of one seed draw the same numbers for the frequencies
that both have: seen from afar (and stretched, where the aspect ratios differ) their noises are the
same, so a small prototype shows the layout of the full size. A longer clip begins as the shorter.

"token": independent per token of the clip, keyed by (seed, step, index of the token). No two sizes
have anything in common.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.core.host_random import hash_normal
from vidsim.core.keys import stream
from vidsim.core.patching import patchify
from vidsim.tasks.noising import batch_noise

KINDS = ("shared", "token")
START = -1  # the noise that sampling begins with; steps count from 0
Grid = tuple[int, int, int]

# Bits of a number's address: frame above, then row frequency, column frequency, channel.
_SIDE_BITS, _CHANNEL_BITS = 14, 12


class Noise:
    """All noise of a batch of packed rows; what a request gets is a function of its seed and size.

    kind    "shared" or "token"
    batch   the packed batch
    spans   request -> (row, tokens of the row)
    grids   token grid of each request
    rows    indices of requests, one list a row
    patch   in latent cells
    """

    def __init__(
        self,
        kind: str,
        batch: Mapping[str, Any],
        spans: Mapping[int, tuple[int, slice]],
        grids: Sequence[Grid],
        rows: Sequence[Sequence[int]],
        patch: Grid,
    ) -> None:
        check_kind(kind)
        self.kind, self.batch, self.patch = kind, batch, patch
        self._clips = [
            (r, span, int(batch["clip_key"][r, rows[r].index(i)]), grids[i])
            for i, (r, span) in spans.items()
        ]

    def start(self) -> jax.Array:
        """Where sampling starts, f32[R,N,P]. Padding is zero, as the network answers it."""
        return self.at(START)

    def at(self, step: int | jax.Array) -> jax.Array:
        """Fresh noise f32[R,N,P] for a solver's step (0, 1, ...)."""
        if self.kind == "token":
            return _token_noise(self.batch, jnp.asarray(step, jnp.int32))
        noise_RNP = np.zeros(self.batch["patches"].shape, np.float32)
        channels = noise_RNP.shape[-1] // int(np.prod(self.patch))
        pt, ph, pw = self.patch
        for r, span, key, (t, h, w) in self._clips:
            size = t * pt, h * ph, w * pw
            noise_RNP[r, span] = patchify(shared_noise(key, size, channels, int(step)), self.patch)
        return jnp.asarray(noise_RNP)


def check_kind(kind: str) -> None:
    """Raises BadInput for an unknown kind of noise."""
    if kind not in KINDS:
        raise bad("--noise", repr(kind), nearest(kind, KINDS))


def shared_noise(key: int, size_thw: Grid, channels: int, step: int = START) -> np.ndarray:
    """White noise of a clip whose low frequencies do not depend on its size.

    key       of the request; the same key, the same noise
    size_thw  latent frames, rows, columns
    Returns   f32[t,h,w,c], independent standard normal numbers
    Raises    BadInput for a side or a number of channels beyond the address
    """
    t, h, w = size_thw
    if max(h, w) >= 1 << _SIDE_BITS or channels >= 1 << _CHANNEL_BITS:
        raise bad("noise", f"latents of {h}x{w}x{channels}", f"sides below {1 << _SIDE_BITS}")
    frame, row, column, channel = np.ogrid[:t, :h, :w, :channels]
    address = (((frame << _SIDE_BITS) + row << _SIDE_BITS) + column << _CHANNEL_BITS) + channel
    z_thwc = hash_normal(key, f"noise/{step}", address)
    half = np.einsum("tywc,yh->thwc", z_thwc, cosine_basis(h), optimize=True)
    return np.einsum("thxc,xw->thwc", half, cosine_basis(w), optimize=True).astype(np.float32)


@functools.lru_cache(maxsize=32)
def cosine_basis(n: int) -> np.ndarray:
    """f64[k, i]: the n orthonormal cosines over n samples, slowest first (DCT-II)."""
    k, i = np.ogrid[:n, :n]
    basis = np.sqrt(2.0 / n) * np.cos(np.pi * (i + 0.5) * k / n)
    basis[0] = np.sqrt(1.0 / n)
    return basis


@jax.jit
def _token_noise(batch: Mapping[str, Any], step: jax.Array) -> jax.Array:
    key = jax.random.fold_in(stream(0, "sample/noise"), step.astype(jnp.uint32))
    return jnp.where((batch["patch_segment"] > 0)[..., None], batch_noise(key, batch), 0.0)
