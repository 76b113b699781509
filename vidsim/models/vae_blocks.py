"""Parts of the video autoencoder: residual block, attention in a frame, stages, both halves.

Layout and order of operations follow Wan 2.1 and 2.2 (arXiv:2503.20314, section 4.1), so that their
weights fit. All blocks take [B, T, H, W, C], a canvas mask or None, and `first` (see nn/conv.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidsim.models.vae_config import VaeConfig
from vidsim.nn.conv import (
    CLIPS_HEIGHT,
    CausalConv,
    ChannelNorm,
    SpaceDown,
    SpaceUp,
    TimeDown,
    TimeUp,
    fold,
    grow_mask,
    shrink_mask,
    unfold,
)
from vidsim.nn.layers import Linear
from vidsim.parallel.place import constrain, ways

Mask = jax.Array | None
ATTENTION_ROWS = 2048  # queries at a time; a 720p frame has 14,400 positions, all at once 0.8 GB


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); x through a 1x1x1 one where widths differ."""

    plan: VaeConfig
    cin: int
    cout: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan = self.plan
        y = x
        for i, cin in ((1, self.cin), (2, self.cout)):
            y = nn.silu(ChannelNorm(cin, eps=plan.norm_eps, name=f"norm{i}")(y))
            conv = CausalConv(cin, self.cout, dtype=plan.compute, method=plan.conv, name=f"conv{i}")
            y = conv(y, mask, first)
        if self.cin != self.cout:
            x = CausalConv(self.cin, self.cout, (1, 1, 1), dtype=plan.compute, name="short")(x)
        return constrain(x + y, CLIPS_HEIGHT)


class FrameAttention(nn.Module):
    """x + attention of one head among the positions of each frame, except those off the mask."""

    plan: VaeConfig
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None) -> jax.Array:
        plan, c = self.plan, self.channels
        b, t, h, w, _ = x.shape
        y = ChannelNorm(c, eps=plan.norm_eps, name="norm")(x).reshape(b, t, h * w, c)
        y = Linear(c, 3 * c, ("embed", "heads"), dtype=plan.compute, name="qkv")(y)
        q, k, v = jnp.split(y, 3, axis=-1)
        y = _attend_in_frame(q, k, v, None if mask is None else mask.reshape(b, 1, h * w))
        y = Linear(c, c, ("heads", "embed"), dtype=plan.compute, name="proj")(y)
        return constrain(x + y.reshape(x.shape), CLIPS_HEIGHT)


def _attend_in_frame(q: jax.Array, k: jax.Array, v: jax.Array, seen: Mask) -> jax.Array:
    """softmax(q k / sqrt c) v over [B, t, positions, c]; seen bool[B, 1, positions] or None."""
    b, t, n, c = q.shape
    if seen is not None:
        # an unseen value times weight 0 must be 0 even where it is not finite
        v = jnp.where(seen[..., None], v, jnp.zeros((1, 1, 1, 1), v.dtype))

    v1 = jnp.concatenate([v, jnp.ones((b, t, n, 1), v.dtype)], -1)

    def rows(q_rows: jax.Array) -> jax.Array:
        scores = jnp.einsum("btqc,btkc->btqk", q_rows, k, preferred_element_type=jnp.float32)
        scores = scores * c**-0.5
        if seen is not None:
            scores = jnp.where(seen[:, :, None], scores, jnp.full((1, 1, 1, 1), -1e30))
        weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)).astype(v.dtype)
        # numerator and denominator in one product: see ChannelNorm on the rounding of reductions
        y = jnp.einsum("btqk,btkc->btqc", weights, v1, preferred_element_type=jnp.float32)
        return (y[..., :c] / y[..., c:]).astype(v.dtype)

    if n <= ATTENTION_ROWS:
        return rows(q)
    # Each device takes its own queries a few at a time: a block has rows of every part.
    parts = ways("height")
    each = n // parts
    blocks = -(-each // ATTENTION_ROWS)
    q = q.reshape(b, t, parts, each, c)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, blocks * ATTENTION_ROWS - each), (0, 0)))
    q = jnp.moveaxis(q.reshape(b, t, parts, blocks, ATTENTION_ROWS, c), 3, 0)
    q = q.reshape(blocks, b, t, parts * ATTENTION_ROWS, c)
    y = jax.lax.map(jax.checkpoint(rows), q).reshape(blocks, b, t, parts, ATTENTION_ROWS, c)
    y = jnp.moveaxis(y, 0, 3).reshape(b, t, parts, blocks * ATTENTION_ROWS, c)
    return y[:, :, :, :each].reshape(b, t, n, c)


class Middle(nn.Module):
    """Residual block, attention (where the config has it), residual block."""

    plan: VaeConfig
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan, c = self.plan, self.channels
        x = ResBlock(plan, c, c, name="res0")(x, mask, first)
        if plan.mid_attention:
            x = FrameAttention(plan, c, name="attention")(x, mask)
        return ResBlock(plan, c, c, name="res1")(x, mask, first)


def average_down(x: jax.Array, cout: int, factor: tuple[int, int, int], first: bool) -> jax.Array:
    """Shortcut without weights: blocks into channels, then means of neighbouring channels.

    Zeros stand for the frames that a first block lacks. Source: AvgDown3D of Wan 2.2.
    """
    start_dtype = x.dtype
    if first and factor[0] > 1:
        x = jnp.pad(x, ((0, 0), (factor[0] - 1, 0), (0, 0), (0, 0), (0, 0)))
    cin, volume = x.shape[-1], factor[0] * factor[1] * factor[2]
    x = fold(x, factor)
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], volume, cin), -2, -1)
    group = cin * volume // cout
    x = x.reshape(*x.shape[:-2], cout, group).astype(jnp.float32)
    # a sum written out: see ChannelNorm on the rounding of reductions
    return (sum(x[..., i] for i in range(group)) / group).astype(start_dtype)


def repeat_up(x: jax.Array, cout: int, factor: tuple[int, int, int], first: bool) -> jax.Array:
    """Shortcut without weights: channels repeated, then spread over a block. Source: DupUp3D."""
    volume = factor[0] * factor[1] * factor[2]
    x = jnp.repeat(x, cout * volume // x.shape[-1], axis=-1)
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], cout, volume), -1, -2)
    x = unfold(x.reshape(*x.shape[:-2], volume * cout), factor)
    return x[:, factor[0] - 1 :] if first else x


class EncoderStage(nn.Module):
    """Residual blocks, then half the size (`space`) and half the frame rate (`time`)."""

    plan: VaeConfig
    cin: int
    cout: int
    space: bool
    time: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan, start, cin = self.plan, x, self.cin
        for i in range(plan.num_res_blocks):
            x = ResBlock(plan, cin, self.cout, name=f"res{i}")(x, mask, first)
            cin = self.cout
        if self.space:
            x = SpaceDown(self.cout, plan.compute, name="space")(x, mask)
        if self.time:
            x = TimeDown(self.cout, plan.compute, name="time")(x, first)
        if plan.residual:
            factor = (1 + self.time, 1 + self.space, 1 + self.space)
            x = x + average_down(start, self.cout, factor, first)
        return constrain(x, CLIPS_HEIGHT)


class DecoderStage(nn.Module):
    """Residual blocks, then twice the frame rate (`time`) and twice the size (`space`)."""

    plan: VaeConfig
    cin: int
    cout: int
    up_width: int
    space: bool
    time: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan, start, cin = self.plan, x, self.cin
        for i in range(plan.decoder_res_blocks):
            x = ResBlock(plan, cin, self.cout, name=f"res{i}")(x, mask, first)
            cin = self.cout
        if self.time:
            x = TimeUp(self.cout, plan.compute, name="time")(x, first)
        if self.space:
            up = SpaceUp(self.cout, self.up_width, plan.compute, plan.conv, name="space")
            x = up(x, mask)
        if plan.residual and (self.space or self.time):
            factor = (1 + self.time, 1 + self.space, 1 + self.space)
            x = x + repeat_up(start, self.cout, factor, first)
        return constrain(x, CLIPS_HEIGHT)


class Encoder(nn.Module):
    """Folded pixels [B, T, H, W, patch numbers] to [B, t, h, w, 2 latent channels]."""

    plan: VaeConfig
    channels: int
    latent: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan, widths = self.plan, self.plan.encoder_widths
        make = {"dtype": plan.compute, "method": plan.conv}
        pixels = x
        x = CausalConv(
            self.channels, widths[0], plan.edge, ("patch", "conv_out"), name="conv_in", **make
        )(x, mask, first)
        spaces, times = (*plan.space_down, False), (*plan.time_down, False)
        for i, cout in enumerate(widths[1:]):
            stage = EncoderStage(plan, widths[i], cout, spaces[i], times[i], name=f"stage{i}")
            x = stage(x, mask, first)
            mask = shrink_mask(mask, 1 + spaces[i])
        if plan.middle:
            x = Middle(plan, widths[-1], name="middle")(x, mask, first)
        x = nn.silu(ChannelNorm(widths[-1], eps=plan.norm_eps, name="norm_out")(x))
        x = CausalConv(
            widths[-1], 2 * self.latent, axes=("conv_in", "latent"), name="conv_out", **make
        )(x, mask, first)
        x = CausalConv(
            2 * self.latent, 2 * self.latent, (1, 1, 1), ("latent", None),
            dtype=plan.compute, name="moments",
        )(x)  # fmt: skip
        if plan.linear:
            x = x + _linear(plan, self.channels, 2 * self.latent, ("patch", "latent"))(pixels)
        return x


class Decoder(nn.Module):
    """Latents [B, t, h, w, latent channels] to folded pixels [B, T, H, W, patch numbers]."""

    plan: VaeConfig
    channels: int
    latent: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Mask = None, first: bool = True) -> jax.Array:
        plan, widths = self.plan, self.plan.decoder_widths
        make = {"dtype": plan.compute, "method": plan.conv}
        latent = x
        x = CausalConv(
            self.latent, self.latent, (1, 1, 1), ("latent", None),
            dtype=plan.compute, name="unmoments",
        )(x)  # fmt: skip
        x = CausalConv(self.latent, widths[0], axes=("latent", "conv_out"), name="conv_in", **make)(
            x, mask, first
        )
        if plan.middle:
            x = Middle(plan, widths[0], name="middle")(x, mask, first)
        spaces, times = (*plan.space_down[::-1], False), (*plan.time_down[::-1], False)
        cin = widths[0]
        for i, cout in enumerate(widths[1:]):
            # Wan 2.1 halves the width in the convolution that follows an enlargement
            up = cout // 2 if spaces[i] and not plan.residual else cout
            stage = DecoderStage(plan, cin, cout, up, spaces[i], times[i], name=f"stage{i}")
            x = stage(x, mask, first)
            mask, cin = grow_mask(mask, 1 + spaces[i]), up
        x = nn.silu(ChannelNorm(widths[-1], eps=plan.norm_eps, name="norm_out")(x))
        x = CausalConv(
            widths[-1], self.channels, plan.edge, ("conv_in", "patch"), name="conv_out", **make
        )(x, mask, first)
        if plan.linear:
            x = x + _linear(plan, self.latent, self.channels, ("latent", "patch"))(latent)
        return x


def _linear(plan: VaeConfig, cin: int, cout: int, axes: tuple[str, str]) -> CausalConv:
    """The map of each block by itself, beside the convolutions."""
    return CausalConv(cin, cout, (1, 1, 1), axes, dtype=plan.compute, name="linear")
