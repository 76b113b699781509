"""Causal 3-D convolution and the space and time resampling of a video autoencoder, channels last.

Causal: frame t of an output depends on frames <= t of the input. Two ways to compute the same sums:

taps      the kt frames that a kernel sees are laid side by side in the channels and one 2-D
          convolution does the rest; 2.2 times faster than a 3-D convolution on CPU, level on TPU
winograd  F(2x2, 3x3) in space (arXiv:1509.09308, section 4.1) over the same laid-out channels: 16
          matrix products on a quarter of the positions, 2.25 times fewer multiplications; for CPU
          and float32

Chunks. Every layer that looks back keeps the frames that it would need again in the variable
collection "stream" when that collection is mutable. A caller that passes those variables back with
`first=False` continues the clip; see vidsim.models.vae_stream.

Canvas. `mask_B1HW1` (or None) marks the part of a static canvas that holds the clip. Convolutions
that look sideways set everything else to zero first, as if the clip ended there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidsim.core.errors import bad
from vidsim.nn.layers import fan_in_normal, param
from vidsim.parallel.place import constrain, ways

METHODS = ("taps", "winograd")
# Clips over devices, and the rows of their frames where the mesh has a context axis: convolutions
# then swap the rows at the borders, and attention in a frame gathers its keys and values.
CLIPS_HEIGHT = ("clips", None, "height", None, None)
# G of F(2, 3): the four products of a row of a kernel
_KERNEL_ROWS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def apply_mask(x_BTHWC: jax.Array, mask_B1HW1: jax.Array | None) -> jax.Array:
    """Zero outside the mask; `where`, not a product, so that no value outside can leak in."""
    if mask_B1HW1 is None:
        return x_BTHWC
    return jnp.where(mask_B1HW1, x_BTHWC, jnp.zeros((), x_BTHWC.dtype).reshape((1,) * x_BTHWC.ndim))


def shrink_mask(mask_B1HW1: jax.Array | None, factor: int) -> jax.Array | None:
    """The mask of a grid `factor` times coarser; sizes inside must be multiples of `factor`."""
    return None if mask_B1HW1 is None else mask_B1HW1[:, :, ::factor, ::factor]


def grow_mask(mask_B1HW1: jax.Array | None, factor: int) -> jax.Array | None:
    """The mask of a grid `factor` times finer."""
    if mask_B1HW1 is None or factor == 1:
        return mask_B1HW1
    return jnp.repeat(jnp.repeat(mask_B1HW1, factor, axis=2), factor, axis=3)


def convolve(xp_BTHWC: jax.Array, w_thwco: jax.Array, method: str = "taps") -> jax.Array:
    """Convolution, valid in time and same-sized in space (zeros beyond the border).

    xp_BTHWC  input with kt - 1 extra frames in front
    w_thwco   kernel [kt, k, k, channels in, channels out], k = 1 or 3
    Returns   [B, T - kt + 1, H, W, channels out], in the dtype of the input
    """
    kt, kh, kw, c, o = w_thwco.shape
    b, t, h, w = xp_BTHWC.shape[0], xp_BTHWC.shape[1] - kt + 1, *xp_BTHWC.shape[2:4]
    if kh == kw == 1:
        return _lay_taps(xp_BTHWC, kt) @ w_thwco.reshape(kt * c, o)
    if method == "winograd" and (kh, kw) == (3, 3):
        return _winograd(xp_BTHWC, w_thwco)
    x = _lay_taps(xp_BTHWC, kt).reshape(b * t, h, w, kt * c)
    kernel = w_thwco.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, o)
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(b, t, h, w, o)


def _lay_taps(xp_BTHWC: jax.Array, kt: int) -> jax.Array:
    """The kt frames ending at each frame, side by side in the channels: [B, T-kt+1, H, W, kt C]."""
    t = xp_BTHWC.shape[1] - kt + 1
    return jnp.concatenate([xp_BTHWC[:, k : k + t] for k in range(kt)], -1) if kt > 1 else xp_BTHWC


def _winograd(xp_BTHWC: jax.Array, w_thwco: jax.Array) -> jax.Array:
    """3x3 convolution by 2x2 output tiles; each tile reads 4x4 inputs. Sums as in `convolve`."""
    kt, _, _, c, o = w_thwco.shape
    b, t, h, w = xp_BTHWC.shape[0], xp_BTHWC.shape[1] - kt + 1, *xp_BTHWC.shape[2:4]
    rows, cols = -(-h // 2), -(-w // 2)
    rows_G = jnp.asarray(_KERNEL_ROWS, w_thwco.dtype)
    kernel = jnp.einsum("ai,bj,kijco->abkco", rows_G, rows_G, w_thwco).reshape(4, 4, kt * c, o)
    x = jnp.pad(xp_BTHWC, ((0, 0), (0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))
    product = [[jnp.zeros(())] * 4 for _ in range(4)]
    for i, row in enumerate(_input_rows([_every_other(x, i, rows, 2) for i in range(4)])):
        for j, tile in enumerate(_input_rows([_every_other(row, j, cols, 3) for j in range(4)])):
            product[i][j] = _lay_taps(tile, kt).reshape(-1, kt * c) @ kernel[i, j]
    halves = [_output_rows([product[i][j] for i in range(4)]) for j in range(4)]
    quarters = [_output_rows([half[i] for half in halves]) for i in range(2)]
    pairs = [jnp.stack([q.reshape(b, t, rows, cols, o) for q in pair], 4) for pair in quarters]
    y = jnp.stack(pairs, 3).reshape(b, t, 2 * rows, 2 * cols, o)
    return y[:, :, :h, :w]


def _every_other(x: jax.Array, start: int, count: int, axis: int) -> jax.Array:
    return lax.slice_in_dim(x, start, start + 2 * count - 1, 2, axis=axis)


def _input_rows(d: list[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_rows(m: list[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def with_past(module: nn.Module, x_BTHWC: jax.Array, frames: int, first: bool) -> jax.Array:
    """x preceded by the `frames` frames before it: zeros where a clip starts, else the kept ones.

    Keeps the last `frames` frames for the next chunk when the collection "stream" is mutable.
    Raises  BadInput when `first` is False and nothing was kept
    """
    b, _, h, w, c = x_BTHWC.shape
    if first:
        past = jnp.zeros((b, frames, h, w, c), x_BTHWC.dtype)
    else:
        past = kept(module)
    joined = constrain(jnp.concatenate([past, x_BTHWC], 1), CLIPS_HEIGHT)
    keep(module, joined[:, joined.shape[1] - frames :])
    return joined


def keep(module: nn.Module, past_BTHWC: jax.Array) -> None:
    """Stores frames for the next chunk; nothing happens outside chunked coding."""
    if module.is_mutable_collection("stream") and not module.is_initializing():
        module.put_variable("stream", "past", past_BTHWC)


def kept(module: nn.Module) -> jax.Array:
    """The frames stored by the chunk before. Raises BadInput when there is none."""
    past: Any = module.get_variable("stream", "past")
    if past is None:
        raise bad("chunk", "continues a clip, but no state was given", change="pass the state")
    return past


class CausalConv(nn.Module):
    """Convolution [kt, k, k] with zeros beyond the border and before the first frame, plus bias.

    kernel  (kt, k, k), k = 1 or 3
    axes    logical axes of channels in and out
    method  one of METHODS; matters for k = 3 only
    """

    cin: int
    cout: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    axes: tuple[str | None, str | None] = ("conv_in", "conv_out")
    dtype: Any = jnp.float32
    method: str = "taps"

    @nn.compact
    def __call__(
        self, x_BTHWC: jax.Array, mask_B1HW1: jax.Array | None = None, first: bool = True
    ) -> jax.Array:
        w, b = conv_weights(self, self.kernel, self.cin, self.cout, self.axes)
        x = x_BTHWC.astype(self.dtype)
        x = apply_mask(x, mask_B1HW1) if self.kernel[1] > 1 else x
        x = with_past(self, x, self.kernel[0] - 1, first) if self.kernel[0] > 1 else x
        y = convolve(x, w.astype(self.dtype), self.method)
        return y + b.astype(self.dtype).reshape(1, 1, 1, 1, -1)


def conv_weights(
    module: nn.Module,
    kernel: tuple[int, int, int],
    cin: int,
    cout: int,
    axes: tuple[str | None, str | None],
) -> tuple[jax.Array, jax.Array]:
    """Kernel [kt, kh, kw, cin, cout], scaled by how much one output sums, and bias [cout]."""
    spread = fan_in_normal(fan_axes=(0, 1, 2, 3))
    w = param(module, "w", spread, (*kernel, cin, cout), (None, None, None, *axes))
    if ways("height") > 1:  # or XLA keeps the kernel split and gathers whole frames in its place
        w = constrain(w, (None,) * w.ndim)
    return w, param(module, "b", "zero", (cout,), (axes[1],))


class ChannelNorm(nn.Module):
    """x / rms(x) * g over the channels, in float32; returns the dtype of x (arXiv:1910.07467).

    The mean square is a matrix product with ones. On CPU the rounding of a fused reduction depends
    on how many frames are computed together, that of the product does not. It costs nothing
    measurable.
    """

    channels: int
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g = param(self, "g", "one", (self.channels,), (None,))
        z = x.astype(jnp.float32)
        ones = jnp.full((self.channels, 2), 1.0 / self.channels, jnp.float32)
        square = jnp.matmul(jnp.square(z), ones, precision=lax.Precision.HIGHEST)[..., :1]
        z = z * lax.rsqrt(square + self.eps)
        return (z * g.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class SpaceDown(nn.Module):
    """Halves height and width: 3x3 convolution of stride 2 that looks right and down (as Wan's)."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, mask_B1HW1: jax.Array | None = None) -> jax.Array:
        axes = ("conv_in", "conv_out")
        w, bias = conv_weights(self, (1, 3, 3), self.channels, self.channels, axes)
        b, t, h, wide, c = x_BTHWC.shape
        x = apply_mask(x_BTHWC.astype(self.dtype), mask_B1HW1).reshape(b * t, h, wide, c)
        y = lax.conv_general_dilated(
            x, w[0].astype(self.dtype), (2, 2), ((0, 1), (0, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y.reshape(b, t, h // 2, wide // 2, c)


class SpaceUp(nn.Module):
    """Doubles height and width: each pixel four times, then a 3x3 convolution in the frame."""

    cin: int
    cout: int
    dtype: Any = jnp.float32
    method: str = "taps"

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, mask_B1HW1: jax.Array | None = None) -> jax.Array:
        x = constrain(jnp.repeat(jnp.repeat(x_BTHWC, 2, axis=2), 2, axis=3), CLIPS_HEIGHT)
        conv = CausalConv(
            self.cin, self.cout, (1, 3, 3), dtype=self.dtype, method=self.method, name="conv"
        )
        return conv(x, grow_mask(mask_B1HW1, 2))


class TimeDown(nn.Module):
    """Halves the frame rate: frame 0 passes as it is, output j > 0 mixes frames 2j-2, 2j-1, 2j.

    Takes 1 + 2n frames, or 2n when `first` is False. Returns 1 + n, or n.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, first: bool = True) -> jax.Array:
        c = self.channels
        w, b = conv_weights(self, (3, 1, 1), c, c, ("conv_in", "conv_out"))
        x = x_BTHWC.astype(self.dtype)
        joined = x if first else jnp.concatenate([kept(self), x], 1)
        keep(self, joined[:, -1:])
        steps = (joined.shape[1] - 1) // 2
        start = x[:, :1] if first else x[:, :0]
        if steps == 0:
            return start
        seen = [_every_other(joined, k, steps, 1) for k in range(3)]
        y = jnp.concatenate(seen, -1) @ w.astype(self.dtype).reshape(3 * c, c)
        y = y + b.astype(self.dtype).reshape(1, 1, 1, 1, -1)
        return jnp.concatenate([start, y], 1)


class TimeUp(nn.Module):
    """Doubles the frame rate: frame 0 stays one frame, every later frame becomes two.

    The pair of frame j > 0 is a convolution over frames j-2, j-1, j, with zeros for frames <= 0
    (frame 0 is not seen: Wan's rule, kept so that its weights fit).
    Takes 1 + n frames, or n when `first` is False. Returns 1 + 2n, or 2n.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, first: bool = True) -> jax.Array:
        c = self.channels
        w, bias = conv_weights(self, (3, 1, 1), c, 2 * c, ("conv_in", "conv_out"))
        x = x_BTHWC.astype(self.dtype)
        start, later = (x[:, :1], x[:, 1:]) if first else (x[:, :0], x)
        joined = with_past(self, later, 2, first)
        b, n, h, wide, _ = later.shape
        if n == 0:
            return start
        y = convolve(joined, w.astype(self.dtype)) + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)
        y = constrain(y, CLIPS_HEIGHT)
        pair = jnp.stack([y[..., :c], y[..., c:]], 2)
        y = constrain(pair.reshape(b, 2 * n, h, wide, c), CLIPS_HEIGHT)
        return jnp.concatenate([start, y], 1)


def fold(x_BTHWC: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """Blocks of (frames, rows, columns) into channels, in that order with the old channels last."""
    pt, ph, pw = patch
    b, t, h, w, c = x_BTHWC.shape
    x = x_BTHWC.reshape(b, t // pt, pt, h // ph, ph, w // pw, pw, c)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // pt, h // ph, w // pw, pt * ph * pw * c)


def unfold(x_BTHWC: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """The inverse of `fold`."""
    pt, ph, pw = patch
    b, t, h, w, c = x_BTHWC.shape
    x = x_BTHWC.reshape(b, t, h, w, pt, ph, pw, c // (pt * ph * pw))
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * pt, h * ph, w * pw, c // (pt * ph * pw))
