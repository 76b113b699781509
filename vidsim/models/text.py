"""Text encoder learnt with the denoiser: bytes, a word-sized convolution, a small transformer.

No download and no vocabulary: the words of a small world are learnt from bytes within minutes.
Captions are packed in rows; nothing crosses from one segment to the next.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.dims import check
from vidsim.core.errors import bad
from vidsim.core.host_random import generator
from vidsim.core.precision import compute_dtype
from vidsim.nn.attention import AttentionPlan, attend_planned, plan_attention
from vidsim.nn.init import init_params, param_axes
from vidsim.nn.layers import Embed, Linear, param
from vidsim.nn.pointwise import gelu, rms_norm
from vidsim.nn.rope import rotate, rotation
from vidsim.nn.stack import init_stack, run_stack, stack_axes
from vidsim.parallel.place import constrain

ROWS = ("rows", None, None)


@dataclasses.dataclass(frozen=True)
class ByteEncoderConfig:
    """Shape of the byte encoder. A caption of no bytes is its first token (BOS) alone.

    vocab      token ids of start, padding and bytes, 0 = padding
    words      known words, whose ids follow; the tokenizer has the same
    width      numbers of a text token, inside and out
    heads      attention heads; width / heads is even
    mlp_width  F
    layers     transformer layers
    reach      bytes to each side that the convolution sees
    eps        of the norms
    dtype      operands of products: float32 or bfloat16
    attention  an implementation of vidsim.nn.attention, or auto
    """

    vocab: int = 258
    words: tuple[str, ...] = ()
    width: int = 128
    heads: int = 4
    mlp_width: int = 384
    layers: int = 2
    reach: int = 4
    eps: float = 1e-6
    dtype: str = "float32"
    attention: str = "auto"

    def __post_init__(self) -> None:
        where = "ByteEncoderConfig"
        for name in ("vocab", "width", "heads", "mlp_width", "layers"):
            if getattr(self, name) < 1:
                raise bad(f"{where}.{name}", f"{getattr(self, name)}", "at least 1")
        if self.reach < 0:
            raise bad(f"{where}.reach", f"{self.reach}", "0 or more")
        if self.width % (2 * self.heads):
            raise bad(
                f"{where}.width", f"{self.width}", f"a multiple of 2 * heads={2 * self.heads}"
            )
        compute_dtype(self.dtype, f"{where}.dtype")


class WordMixing(nn.Module):
    """Depthwise convolution over neighbouring bytes of the same segment."""

    width: int
    reach: int

    @nn.compact
    def __call__(self, x_RME: jax.Array, segment_RM: jax.Array) -> jax.Array:
        taps = 2 * self.reach + 1
        init = nn.initializers.normal(taps**-0.5)
        kernel = param(self, "kernel", init, (taps, self.width), ("table", None))
        out = jnp.zeros_like(x_RME)
        for tap in range(taps):
            ahead = tap - self.reach
            near = _shift(segment_RM, ahead) == segment_RM
            shifted = jnp.where(near[..., None], _shift(x_RME, ahead), 0.0)
            out = out + shifted * kernel[tap][None, None].astype(x_RME.dtype)
        return out


def _shift(x_RM: jax.Array, ahead: int) -> jax.Array:
    """x[:, m + ahead], zeros (padding) outside the row."""
    widths = [(0, 0)] * x_RM.ndim
    widths[1] = (max(-ahead, 0), max(ahead, 0))
    start = max(ahead, 0)
    return jnp.pad(x_RM, widths)[:, start : start + x_RM.shape[1]]


class TextLayer(nn.Module):
    """Pre-norm attention with rotary positions inside the caption, then an MLP."""

    cfg: ByteEncoderConfig

    @nn.compact
    def __call__(
        self, x_RME: jax.Array, turn: tuple[jax.Array, jax.Array], plan: AttentionPlan
    ) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        e, f = cfg.width, cfg.mlp_width
        h = rms_norm(x_RME, param(self, "norm_1", "one", (e,), (None,)), cfg.eps)
        q, k, v = (
            Linear(e, e, ("caption", "heads"), use_bias=False, dtype=dtype, name=name)(h).reshape(
                *h.shape[:2], cfg.heads, e // cfg.heads
            )
            for name in ("q", "k", "v")
        )
        h = attend_planned(rotate(q, turn), rotate(k, turn), v, plan).reshape(x_RME.shape)
        h = Linear(e, e, ("heads", "caption"), use_bias=False, dtype=dtype, name="out")(h)
        x_RME = x_RME + h.astype(x_RME.dtype)
        h = rms_norm(x_RME, param(self, "norm_2", "one", (e,), (None,)), cfg.eps)
        h = gelu(Linear(e, f, ("caption", "mlp"), use_bias=False, dtype=dtype, name="up")(h))
        h = Linear(f, e, ("mlp", "caption"), use_bias=False, dtype=dtype, name="down")(h)
        return x_RME + h.astype(x_RME.dtype)


class _Network(nn.Module):
    """Everything but the layers, whose stacked weights are an argument."""

    cfg: ByteEncoderConfig

    @nn.compact
    def __call__(
        self,
        text_ids_RM: jax.Array,
        segment_RM: jax.Array,
        position_RM: jax.Array,
        layers: dict[str, Any] | None = None,
    ) -> jax.Array:
        cfg, e = self.cfg, self.cfg.width
        x = Embed(
            cfg.vocab + len(cfg.words),
            e,
            ("vocab", "caption"),
            nn.initializers.normal(1.0),
            name="bytes",
        )(text_ids_RM)
        x = constrain(x + WordMixing(e, cfg.reach, name="words")(x, segment_RM), ROWS)
        if layers is not None:
            plan = plan_attention(
                segment_RM, segment_RM, implementation=cfg.attention, q_axis=None, k_axis=None
            )
            turn = rotation(position_RM[..., None], (e // cfg.heads,))
            one = lambda p, x: constrain(TextLayer(cfg).apply({"params": p}, x, turn, plan), ROWS)  # noqa: E731
            x = run_stack(one, layers, x, remat="none", loop="scan")
        x = rms_norm(x, param(self, "norm", "one", (e,), (None,)), cfg.eps)
        return jnp.where((segment_RM > 0)[..., None], x, 0.0)


@dataclasses.dataclass(frozen=True)
class ByteEncoder:
    """Pure functions of a plain tree of float32 weights; those of the layers are stacked."""

    cfg: ByteEncoderConfig

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh weights."""
        ends, layers = jax.random.split(key)
        network = init_params(_Network(self.cfg), ends, *self._example())
        return network | {
            "layers": init_stack(TextLayer(self.cfg), self.cfg.layers, layers, *self._layer())
        }

    def param_axes(self) -> dict[str, Any]:
        """Logical axis names of every weight, a tree like `init`'s."""
        network = param_axes(_Network(self.cfg), *self._example())
        return network | {"layers": stack_axes(TextLayer(self.cfg), *self._layer())}

    def apply(
        self,
        params: dict[str, Any],
        text_ids_RM: jax.Array,
        text_segment_RM: jax.Array,
        text_position_RM: jax.Array,
    ) -> jax.Array:
        """Text tokens of a row's captions.

        text_ids_RM       byte tokens, 0 = padding
        text_segment_RM   1.. in row order, 0 = padding
        text_position_RM  0.. inside the caption
        Returns           f32[R, M, E]; zeros at padding
        Raises            BadInput when shapes disagree
        """
        check(
            "byte encoder",
            {},
            text_ids=(text_ids_RM.shape, "RM"),
            text_segment=(text_segment_RM.shape, "RM"),
            text_position=(text_position_RM.shape, "RM"),
        )
        ends = {name: value for name, value in params.items() if name != "layers"}
        return _Network(self.cfg).apply(
            {"params": ends}, text_ids_RM, text_segment_RM, text_position_RM, params["layers"]
        )

    def _example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32),) * 3

    def _layer(self) -> tuple[Any, ...]:
        """Example arguments of a layer, one token: weights do not depend on the sizes."""
        f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
        one = jnp.zeros((1, 1), jnp.int32)
        half = self.cfg.width // self.cfg.heads // 2
        turn = (f32(1, 1, 1, half), f32(1, 1, 1, half))
        return f32(1, 1, self.cfg.width), turn, plan_attention(one, one, implementation="dense")


def with_words(
    params: Any, config: ByteEncoderConfig, words: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Weights of `config` for another vocabulary: a word of both keeps its row of the table, a new
    one gets a fresh row by its own name, whatever words stand beside it.

    params   weights of an encoder of `config`, which has the old words
    Returns  the tree with a table f32[config.vocab + len(words), width]
    """
    old = np.asarray(params["bytes"]["table"])
    table = np.empty((config.vocab + len(words), config.width), old.dtype)
    table[: config.vocab] = old[: config.vocab]
    place = {word: config.vocab + k for k, word in enumerate(config.words)}
    for k, word in enumerate(words):
        fresh = generator(seed, "word", word).standard_normal
        table[config.vocab + k] = old[place[word]] if word in place else fresh(config.width)
    return {**params, "bytes": {**params["bytes"], "table": table}}
