"""The denoiser: a diffusion transformer over packed rows of patch tokens.

Every token brings its own noise level, position and segment; its clip's caption is met by
cross-attention within the segment. A clip gives the same whatever else is in its row.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.dims import check
from vidsim.core.errors import bad
from vidsim.core.precision import compute_dtype
from vidsim.models.dit_config import PLACE_WAVES, DiTConfig
from vidsim.nn.attention import AttentionPlan, attend_planned, plan_attention
from vidsim.nn.init import init_params, param_axes
from vidsim.nn.layers import Linear, param
from vidsim.nn.modulation import TimeEmbedding, per_token, sinusoid, sum_per_row
from vidsim.nn.pointwise import gated_add, gelu, layer_norm, modulated_norm, rms_norm
from vidsim.nn.rope import axis_widths, rotate, rotation
from vidsim.nn.stack import init_stack, run_stack, stack_axes
from vidsim.parallel.place import constrain

ROWS_TOKENS, ROWS = ("rows", "tokens", None), ("rows", None, None)


class BlockContext(NamedTuple):
    """What all blocks share."""

    six_RK6D: jax.Array  # f32 modulation of each level: shift, scale, gate of attention, then MLP
    level_index_RN: jax.Array
    text_RMD: jax.Array
    turn: tuple[jax.Array, jax.Array]  # rotary cosines and sines
    within: AttentionPlan  # patch tokens to patch tokens
    across: AttentionPlan  # patch tokens to text tokens


class Attention(nn.Module):
    """Projections, RMS norm of queries and keys over all heads, rotary positions, attention."""

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self,
        x_RND: jax.Array,
        source_RMD: jax.Array,
        turn: tuple[jax.Array, jax.Array] | None,
        plan: AttentionPlan,
    ) -> jax.Array:
        """Queries from x, keys and values from the source; turn None leaves positions out."""
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        d = cfg.width
        q, k, v = (
            Linear(d, d, ("embed", "heads"), dtype=dtype, name=name)(z)
            for name, z in (("q", x_RND), ("k", source_RMD), ("v", source_RMD))
        )
        if cfg.qk_norm:
            q = rms_norm(q, param(self, "q_norm", "one", (d,), ("heads",)), cfg.eps)
            k = rms_norm(k, param(self, "k_norm", "one", (d,), ("heads",)), cfg.eps)
        q, k, v = (z.reshape(*z.shape[:2], cfg.heads, cfg.head_width) for z in (q, k, v))
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        out_RNAE = attend_planned(q, k, v, plan)
        out_RND = out_RNAE.reshape(*out_RNAE.shape[:2], d)
        return Linear(d, d, ("heads", "embed"), dtype=dtype, name="out")(out_RND)


class Block(nn.Module):
    """Modulated self-attention, cross-attention to the text, modulated MLP (arXiv:2503.20314)."""

    cfg: DiTConfig

    @nn.compact
    def __call__(self, x_RND: jax.Array, context: BlockContext) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        d, f = cfg.width, cfg.mlp_width
        table = param(self, "table", nn.initializers.normal(d**-0.5), (6, d), ("table", "embed"))
        six = jnp.moveaxis(context.six_RK6D + table[None, None], 2, 0)
        index_RN = context.level_index_RN

        h = modulated_norm(x_RND, six[0], six[1], index_RN, cfg.eps)
        h = Attention(cfg, name="self")(h, h, context.turn, context.within)
        x_RND = gated_add(x_RND, h, six[2], index_RN)

        h = x_RND
        if cfg.cross_norm:
            g = param(self, "norm_g", "one", (d,), (None,))
            h = layer_norm(h, g, param(self, "norm_b", "zero", (d,), (None,)), cfg.eps)
        x_RND = x_RND + Attention(cfg, name="cross")(h, context.text_RMD, None, context.across)

        h = modulated_norm(x_RND, six[3], six[4], index_RN, cfg.eps)
        h = gelu(Linear(d, f, ("embed", "mlp"), dtype=dtype, name="up")(h))
        h = Linear(f, d, ("mlp", "embed"), dtype=dtype, name="down")(h)
        x_RND = gated_add(x_RND, h, six[5], index_RN)
        return constrain(x_RND, ROWS_TOKENS)


class Inputs(nn.Module):
    """Patches, text, levels, frame rates, sizes and actions to the model's width."""

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self,
        patches_RNP: jax.Array,
        text_RME: jax.Array,
        level_RK: jax.Array,
        segment_RN: jax.Array,
        fps_RS: jax.Array,
        size_RS2: jax.Array,
        place_RN3: jax.Array | None,
        action_RN: jax.Array | None,
        text_segment_RM: jax.Array,
        estimate_RNP: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns x_RND, text_RMD (compute dtype), time_RKD, six_RK6D (float32)."""
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        d = cfg.width
        x = Linear(cfg.patch_width, d, ("patch", "embed"), dtype=dtype, name="patch")(patches_RNP)
        x = x.astype(jnp.float32)
        if cfg.self_condition:
            said = jnp.zeros_like(patches_RNP) if estimate_RNP is None else estimate_RNP
            x = x + Linear(
                cfg.patch_width, d, ("patch", "embed"), init="zero", dtype=dtype, name="estimate"
            )(said).astype(jnp.float32)
        if cfg.clip_embedding:
            x = x + per_token(self._clips(fps_RS, size_RS2), segment_RN - 1)
        if place_RN3 is not None:
            waves = _place_waves(place_RN3)
            x = x + Linear(waves.shape[-1], d, ("time", "embed"), name="place")(waves)
        if cfg.pooled_text:
            slots = fps_RS.shape[1]
            x = x + per_token(self._captions(text_RME, text_segment_RM, slots), segment_RN - 1)
        if cfg.num_actions:
            table = param(self, "action", "zero", (cfg.num_actions, d), ("table", "embed"))
            if action_RN is not None:
                rows = jnp.broadcast_to(table[None], (x.shape[0], *table.shape))
                x = x + jnp.where((action_RN > 0)[..., None], per_token(rows, action_RN - 1), 0.0)
        hidden = Linear(cfg.text_width, d, ("text", "embed"), dtype=dtype, name="text_in")(text_RME)
        hidden = gelu(constrain(hidden, ROWS))
        text_RMD = Linear(d, d, ("embed", "text"), dtype=dtype, name="text_out")(hidden)
        text_RMD = constrain(text_RMD, ROWS)
        time_RKD, six_RK6D = TimeEmbedding(cfg.freq_width, d, name="time")(level_RK)
        return x.astype(dtype), text_RMD, time_RKD, six_RK6D

    def _clips(self, fps_RS: jax.Array, size_RS2: jax.Array) -> jax.Array:
        """f32[R, S, D] from logarithms; zero before training. Empty slots meet no token."""
        three_RS3 = jnp.concatenate([fps_RS[..., None], size_RS2.astype(jnp.float32)], -1)
        wave = sinusoid(100.0 * jnp.log(jnp.maximum(three_RS3, 1e-3)), self.cfg.freq_width)
        width = 3 * self.cfg.freq_width
        wave = wave.reshape(*wave.shape[:2], width)
        hidden = Linear(width, self.cfg.width, ("time", "embed"), name="clip_in")(wave)
        out = Linear(
            self.cfg.width, self.cfg.width, ("embed", "time"), init="zero", name="clip_out"
        )(nn.silu(constrain(hidden, ROWS)))
        return constrain(out, ROWS)

    def _captions(self, text_RME: jax.Array, segment_RM: jax.Array, slots: int) -> jax.Array:
        """f32[R, S, D] from the mean of each caption's tokens. Empty slots meet no token."""
        cfg = self.cfg
        real_RME = jnp.where((segment_RM > 0)[..., None], text_RME.astype(jnp.float32), 0.0)
        sums_RSE = sum_per_row(real_RME, segment_RM - 1, slots)
        counts_RS = (segment_RM[:, None] == jnp.arange(1, slots + 1)[None, :, None]).sum(-1)
        mean_RSE = sums_RSE / jnp.maximum(counts_RS, 1).astype(jnp.float32)[..., None]
        hidden = Linear(cfg.text_width, cfg.width, ("text", "embed"), name="pool_in")(mean_RSE)
        hidden = gelu(constrain(hidden, ROWS))
        out = Linear(cfg.width, cfg.width, ("embed", "text"), name="pool_out")(hidden)
        return constrain(out, ROWS)


def _place_waves(place_RN3: jax.Array) -> jax.Array:
    """f32[R,N,6 * PLACE_WAVES]: cos and sin of half waves over height, width and duration."""
    rates = np.pi * np.arange(1, PLACE_WAVES + 1, dtype=np.float32)
    angle = place_RN3[..., None] * rates.reshape(1, 1, 1, -1)
    waves = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return waves.reshape(*place_RN3.shape[:2], 6 * PLACE_WAVES)


class Head(nn.Module):
    """Modulated norm and projection to patches; zero before training."""

    cfg: DiTConfig

    @nn.compact
    def __call__(self, x_RND: jax.Array, time_RKD: jax.Array, index_RN: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        d = cfg.width
        table = param(self, "table", nn.initializers.normal(d**-0.5), (2, d), ("table", "embed"))
        shift, scale = (time_RKD + table[None, i : i + 1] for i in range(2))
        h = modulated_norm(x_RND, shift, scale, index_RN, cfg.eps)
        out = Linear(d, cfg.patch_width, ("embed", "patch"), init="zero", dtype=dtype, name="out")
        return out(h).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class DiT:
    """Pure functions of a plain tree of float32 weights {inputs, blocks (stacked), head}."""

    cfg: DiTConfig

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh weights."""
        inputs, block, head = self._parts()
        keys = jax.random.split(key, 3)
        return {
            "inputs": init_params(inputs[0], keys[0], *inputs[1]),
            "blocks": init_stack(block[0], self.cfg.layers, keys[1], *block[1]),
            "head": init_params(head[0], keys[2], *head[1]),
        }

    def param_axes(self) -> dict[str, Any]:
        """Logical axis names of every weight, a tree like `init`'s."""
        inputs, block, head = self._parts()
        return {
            "inputs": param_axes(inputs[0], *inputs[1]),
            "blocks": stack_axes(block[0], *block[1]),
            "head": param_axes(head[0], *head[1]),
        }

    def num_params(self) -> int:
        """Numbers in all weights, without making them."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def apply(
        self,
        params: dict[str, Any],
        patches_RNP: jax.Array,
        text_RME: jax.Array,
        *,
        levels_RK: jax.Array,
        level_index_RN: jax.Array,
        patch_segment_RN: jax.Array,
        text_segment_RM: jax.Array,
        position_RN3: jax.Array,
        fps_RS: jax.Array,
        size_RS2: jax.Array,
        grid_RS3: jax.Array | None = None,
        action_RN: jax.Array | None = None,
        estimate_RNP: jax.Array | None = None,
    ) -> jax.Array:
        """Clean patches predicted from noisy ones.

        patches_RNP       noisy patches, in units of the normalised latent
        text_RME          caption tokens of the clips of a row
        levels_RK         distinct noise levels of a row, 0 = data, 1 = noise
        level_index_RN    each token's entry in levels
        patch_segment_RN  1.. in row order, 0 = padding; text_segment_RM the same for text tokens
        position_RN3      (t, y, x) in tokens, int or float, counted inside the clip
        fps_RS, size_RS2  frames a second and (height, width) in pixels of segment s in slot s-1
        grid_RS3          tokens (t, h, w) of segment s in slot s-1; for place_embedding alone
        action_RN         1.. or 0 for none
        estimate_RNP      what was last predicted, for self_condition alone; None for nothing yet
        Returns           f32 RNP; zeros at padding
        Raises            BadInput when shapes disagree
        """
        check(
            "denoiser",
            {"P": self.cfg.patch_width, "E": self.cfg.text_width},
            patches=(patches_RNP.shape, "RNP"),
            text=(text_RME.shape, "RME"),
            levels=(levels_RK.shape, "RK"),
            level_index=(level_index_RN.shape, "RN"),
            patch_segment=(patch_segment_RN.shape, "RN"),
            text_segment=(text_segment_RM.shape, "RM"),
            position=(position_RN3.shape, "RN3"),
            fps=(fps_RS.shape, "RS"),
            size=(size_RS2.shape, "RS2"),
        )
        cfg = self.cfg
        x, text, time, six = _call(
            Inputs(cfg), params["inputs"], patches_RNP, text_RME, levels_RK, patch_segment_RN,
            fps_RS, size_RS2, self._place(position_RN3, grid_RS3, patch_segment_RN), action_RN,
            text_segment_RM, estimate_RNP,
        )  # fmt: skip
        within, across = self._attention_plans(patch_segment_RN, text_segment_RM)
        turn = rotation(position_RN3, axis_widths(cfg.head_width), cfg.theta)
        context = BlockContext(six, level_index_RN, text, turn, within, across)
        block = lambda p, x: _call(Block(cfg), p, x, context)  # noqa: E731
        x = constrain(x, ROWS_TOKENS)
        x = run_stack(block, params["blocks"], x, remat=cfg.remat, loop=cfg.loop)
        out = _call(Head(cfg), params["head"], x, time, level_index_RN)
        return jnp.where((patch_segment_RN > 0)[..., None], out, 0.0)

    def _attention_plans(
        self, patch_RN: jax.Array, text_RM: jax.Array
    ) -> tuple[AttentionPlan, AttentionPlan]:
        """Of one step's segments: among patch tokens, and from them to the text."""
        name, longest = self.cfg.attention, self.cfg.longest_clip or None
        within = plan_attention(patch_RN, patch_RN, implementation=name, longest=longest)
        return within, plan_attention(patch_RN, text_RM, implementation=name, k_axis=None)

    def _place(
        self, position_RN3: jax.Array, grid_RS3: jax.Array | None, segment_RN: jax.Array
    ) -> jax.Array | None:
        """Each token's middle as a share of its clip's height, width and duration, f32[R,N,3]."""
        if not self.cfg.place_embedding:
            return None
        if grid_RS3 is None:
            raise bad("denoiser", "no grid for its place_embedding", "grid_RS3 of the packed batch")
        sides_RN3 = per_token(grid_RS3.astype(jnp.float32), segment_RN - 1)
        return jnp.roll((position_RN3 + 0.5) / jnp.maximum(sides_RN3, 1.0), -1, axis=-1)

    def _parts(self) -> tuple[tuple[nn.Module, tuple[Any, ...]], ...]:
        """Modules with example arguments, one token a row: weights do not depend on the sizes."""
        cfg, dtype = self.cfg, compute_dtype(self.cfg.dtype)
        f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
        act = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
        ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        d = cfg.width
        one = jnp.zeros((1, 1), jnp.int32)
        plan = plan_attention(one, one, implementation="dense")
        turn = (f32(1, 1, 1, cfg.head_width // 2), f32(1, 1, 1, cfg.head_width // 2))
        context = BlockContext(f32(1, 1, 6, d), ids, act(1, 1, d), turn, plan, plan)
        return (
            (
                Inputs(cfg),
                (f32(1, 1, cfg.patch_width), f32(1, 1, cfg.text_width), f32(1, 1), ids, f32(1, 1),
                 f32(1, 1, 2), f32(1, 1, 3) if cfg.place_embedding else None, ids, ids,
                 None),
            ),
            (Block(cfg), (act(1, 1, d), context)),
            (Head(cfg), (act(1, 1, d), f32(1, 1, d), ids)),
        )  # fmt: skip


def _call(module: nn.Module, params: dict[str, Any], *args: Any) -> Any:
    return module.apply({"params": params}, *args)
