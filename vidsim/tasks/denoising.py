"""Learning to denoise packed latent patches: where the transformer meets the noise process.

One forward path, `predict`, serves training, validation and sampling. Random streams, all keyed by
(seed, step, clip key): "denoise/time", "denoise/noise", "denoise/mask", "denoise/drop".
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad, nearest
from vidsim.core.keys import clip_uniform, per_clip, stream
from vidsim.diffusion.guidance import GuidanceConfig, guide
from vidsim.diffusion.losses import (
    WEIGHTINGS,
    ClipLoss,
    clip_losses,
    step_loss,
    token_errors,
    velocity_weight,
)
from vidsim.diffusion.masks import (
    MaskConfig,
    condition_tokens,
    draw_heads,
    draw_masks,
    draw_references,
)
from vidsim.diffusion.process import TARGETS, Flow
from vidsim.diffusion.segments import spread
from vidsim.diffusion.solvers import Denoise, hold
from vidsim.diffusion.times import TimeConfig, sample_times
from vidsim.models.dit import DiT, DiTConfig
from vidsim.models.latents import LatentConfig, channel_weights, check_width, normalise
from vidsim.models.text import ByteEncoder, ByteEncoderConfig
from vidsim.tasks.base import Batch, Metrics, Params
from vidsim.tasks.midstream import drop_heads, given_midstream
from vidsim.tasks.noising import batch_noise, residual_scales
from vidsim.tasks.prompting import Text, drop_captions

RESIDUAL = "residual"
SAID_SHARE = 0.5  # of the steps of a `self_condition` network: those that read a first say


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """The denoiser, what it is trained on, and how its errors count.

    dit             the network
    text            byte encoder trained with it; None: captions come encoded by a frozen encoder
    latent          patch shape and per-channel statistics of the VAE's latents
    times           noise times, for training and for sampling
    masks           which frames are given in training
    text_drop_prob  share of clips trained on the empty caption, for guidance
    weighting       "clip" or "token", see `diffusion.losses.step_loss`
    prediction      what the network's output means: "x", "v" or "eps", or "residual": x less what a
                    unit Gaussian's posterior mean already tells, in units of its deviation (see
                    `residual_scales`); everything outside sees x
    channel_weight  exponent of each latent channel's gain, in what the network sees and (squared)
                    in the training loss: 0 all alike, 1 as they show in pixels; the validation loss
                    weighs all alike
    time_floor      floor on t in the velocity weight 1 / t^2 (arXiv:2511.13720 uses 0.05)
    """

    dit: DiTConfig
    text: ByteEncoderConfig | None
    latent: LatentConfig = LatentConfig()
    times: TimeConfig = TimeConfig()
    masks: MaskConfig = MaskConfig()
    text_drop_prob: float = 0.1
    weighting: str = "clip"
    prediction: str = "x"
    channel_weight: float = 0.0
    time_floor: float = 0.05

    def __post_init__(self) -> None:
        where = "DenoisingConfig"
        if not 0.0 <= self.text_drop_prob <= 1.0:
            raise bad(f"{where}.text_drop_prob", f"{self.text_drop_prob}", "a share from 0 to 1")
        for field, known in (("weighting", WEIGHTINGS), ("prediction", (*TARGETS, RESIDUAL))):
            if getattr(self, field) not in known:
                value = getattr(self, field)
                raise bad(f"{where}.{field}", f"{value!r}", nearest(value, known))
        if not 0.0 < self.time_floor < 1.0:
            raise bad(f"{where}.time_floor", f"{self.time_floor}", "a time between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Denoising:
    """The task of a config. Weights: {"dit": ..., "text": ...}, or {"dit": ..., "null": f32[E]}
    when captions come from a frozen encoder (`null` stands for a dropped caption).

    Raises BadInput when the parts of the config do not fit each other.
    """

    cfg: DenoisingConfig
    name = "denoising"
    flow = Flow()

    def __post_init__(self) -> None:
        dit, text, latent = self.cfg.dit, self.cfg.text, self.cfg.latent
        if text is not None and text.width != dit.text_width:
            raise bad(
                "DiTConfig.text_width", f"{dit.text_width}", f"{text.width}, the encoder's width"
            )
        check_width(latent, dit.patch_width)

    @functools.cached_property
    def dit(self) -> DiT:
        """The network."""
        return DiT(self.cfg.dit)

    @functools.cached_property
    def encoder(self) -> ByteEncoder | None:
        """The text encoder trained along, if any."""
        return None if self.cfg.text is None else ByteEncoder(self.cfg.text)

    def init(self, key: jax.Array) -> Params:
        """Fresh weights."""
        dit_key, text_key = jax.random.split(key)
        params = {"dit": self.dit.init(dit_key)}
        if self.encoder is None:
            return params | {"null": jnp.zeros((self.cfg.dit.text_width,), jnp.float32)}
        return params | {"text": self.encoder.init(text_key)}

    def param_axes(self) -> dict[str, Any]:
        """Logical axes of every weight."""
        axes = {"dit": self.dit.param_axes()}
        if self.encoder is None:
            return axes | {"null": ("text",)}
        return axes | {"text": self.encoder.param_axes()}

    def loss(
        self, params: Params, batch: Batch, *, seed: int | jax.Array, step: int | jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The rows' share of the step's loss; adds up over micro-batches. See `tasks.base.Task`.

        Metrics  loss; condition_share, given tokens over all tokens of the step; drop_share,
                 dropped captions over all clips of the step
        """
        cfg, clip_key_RS = self.cfg, batch["clip_key"]
        real_RS = clip_key_RS > 0
        batch, condition_RN, given_noise_RS = self._draw_condition(batch, seed, step)
        tokens_RS = jnp.prod(batch["grid"], axis=-1)
        time_key = stream(seed, "denoise/time", step)
        t_RS = sample_times(cfg.times, per_clip(time_key, clip_key_RS), tokens_RS)
        draw_RS = clip_uniform(stream(seed, "denoise/drop", step), clip_key_RS)
        dropped_RS = real_RS & (draw_RS < cfg.text_drop_prob)
        clips = self._clip_losses(
            params,
            batch,
            self.encode_text(params, batch, dropped_RS),
            jnp.where(real_RS, t_RS, 0.0),
            stream(seed, "denoise/noise", step),
            condition_RN,
            given_noise_RS,
            channel_weights(cfg.latent, batch["patches"].shape[-1], cfg.channel_weight),
            stream(seed, "denoise/say", step),
        )
        num_clips, num_tokens = batch["num_clips"], batch["num_tokens"]
        loss = step_loss(clips, cfg.weighting, num_clips, num_tokens)
        return loss, {
            "loss": loss,
            "condition_share": jnp.sum(condition_RN) / jnp.maximum(num_tokens, 1.0),
            "drop_share": jnp.sum(dropped_RS) / jnp.maximum(num_clips, 1.0),
        }

    def validation(
        self,
        params: Params,
        batch: Batch,
        *,
        times: jax.Array,
        seed: int | jax.Array,
        given: int = 0,
        channel_weight: float = 0.0,
    ) -> jax.Array:
        """Loss of each clip at fixed times with fixed noise: captions kept.

        times           f32[bands]
        seed            of the noise, which is the same for every time and every call
        given           latent frames at the start of each clip that are given clean
        channel_weight  as in the configuration; 0 weighs all channels alike
        Returns  f32[R,S,bands] mean over the clip's noisy tokens of the velocity-weighted error; 0
                 for an empty slot
        """
        text = self.encode_text(params, batch, jnp.zeros(batch["clip_key"].shape, bool))
        key = stream(seed, "denoise/validation")
        given_RN = (batch["patch_position"][..., 0] < given) & (batch["patch_segment"] > 0)
        clean_RS = jnp.zeros(batch["clip_key"].shape, jnp.float32)
        weight_P = channel_weights(self.cfg.latent, batch["patches"].shape[-1], channel_weight)

        def one(t: jax.Array) -> jax.Array:
            t_RS = jnp.where(batch["clip_key"] > 0, t, 0.0)
            clips = self._clip_losses(params, batch, text, t_RS, key, given_RN, clean_RS, weight_P)
            return clips.mean_RS

        return jnp.moveaxis(jax.lax.map(one, jnp.asarray(times, jnp.float32)), 0, -1)

    def encode_text(self, params: Params, batch: Batch, dropped_RS: jax.Array) -> Text:
        """Encoded captions: text f32[R,M,E] with text_segment and text_position i32[R,M].

        dropped_RS  bool[R,S]: these clips get the empty caption
        """
        text = drop_captions(batch, dropped_RS, params.get("null"))
        if self.encoder is None:
            return text
        ids = text.pop("text_ids")
        encoded = self.encoder.apply(
            params["text"], ids, text["text_segment"], text["text_position"]
        )
        return text | {"text": encoded}

    def predict(
        self,
        params: Params,
        batch: Batch,
        text: Text,
        x_t_RNP: jax.Array,
        t_RS: jax.Array,
        condition_RN: jax.Array,
        group_RN: jax.Array | None = None,
        estimate_RNP: jax.Array | None = None,
    ) -> jax.Array:
        """The network's prediction of clean normalised patches, f32[R,N,P].

        batch         only its positions, segments and per-clip facts are read, never its patches
        text          from `encode_text`
        x_t_RNP       noisy patches; clean ones where given
        t_RS          noise time of each clip
        condition_RN  bool[R,N] tokens that are given: the network is told that their time is 0
        group_RN      i32[R,N] which column of t_RS (from 1; 0: padding) holds a token's time, where
                      it is not its clip's: frames of one clip may have times of their own
        estimate_RNP  what was last predicted of x, for a network that reads it (`self_condition`);
                      None for nothing yet
        """
        segment_RN = batch["patch_segment"]
        group_RN = segment_RN if group_RN is None else group_RN
        clean_R1 = jnp.zeros_like(t_RS[:, :1])
        weight_P = channel_weights(self.cfg.latent, x_t_RNP.shape[-1], self.cfg.channel_weight)
        seen_P = jnp.sqrt(weight_P)[None, None]
        if estimate_RNP is not None:
            estimate_RNP = jnp.where(condition_RN[..., None], x_t_RNP, estimate_RNP) * seen_P
        output_RNP = self.dit.apply(
            params["dit"],
            x_t_RNP * seen_P,
            text["text"],
            levels_RK=jnp.concatenate([clean_R1, t_RS], axis=1),
            level_index_RN=jnp.where(condition_RN, 0, group_RN),
            patch_segment_RN=segment_RN,
            text_segment_RM=text["text_segment"],
            position_RN3=batch["patch_position"],
            fps_RS=batch["fps"],
            size_RS2=batch["size"],
            grid_RS3=batch["grid"],
            action_RN=batch["action"],
            estimate_RNP=estimate_RNP,
        ).astype(jnp.float32)
        t_RN = spread(t_RS, group_RN)
        if self.cfg.prediction == RESIDUAL:
            skip_RN1, scale_RN1 = residual_scales(t_RN[..., None])
            return skip_RN1 * x_t_RNP + scale_RN1 * output_RNP
        return self.flow.convert(output_RNP, self.cfg.prediction, "x", x_t_RNP, t_RN)

    def prepare(self, params: Params, batch: Batch, guidance: GuidanceConfig) -> Text:
        """What sampling computes once: captions, then as many rows of empty ones if guided."""
        shape = batch["clip_key"].shape
        text = self.encode_text(params, batch, jnp.zeros(shape, bool))
        if not guidance.needed:
            return text
        empty = self.encode_text(params, batch, jnp.ones(shape, bool))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), text, empty)

    def denoise(
        self,
        params: Params,
        batch: Batch,
        text: Text,
        guidance: GuidanceConfig,
        x_t_RNP: jax.Array,
        t_RS: jax.Array,
        condition_RN: jax.Array,
        group_RN: jax.Array | None = None,
        estimate_RNP: jax.Array | None = None,
    ) -> jax.Array:
        """Guided prediction of x, f32[R,N,P]: with and without captions in one call of twice the
        rows. The next call may be given it as `estimate_RNP`, which both branches read.

        text  from `prepare` with the same guidance; the rest as in `predict`
        """
        if not guidance.needed:
            return self.predict(
                params, batch, text, x_t_RNP, t_RS, condition_RN, group_RN, estimate_RNP
            )

        def twice(value: jax.Array) -> jax.Array:
            return jnp.concatenate([value, value]) if value.ndim else value

        both_RNP = self.predict(
            params, {k: twice(v) for k, v in batch.items() if k not in ("patches", "text")}, text,
            twice(x_t_RNP), twice(t_RS), twice(condition_RN),
            None if group_RN is None else twice(group_RN),
            None if estimate_RNP is None else twice(estimate_RNP),
        )  # fmt: skip
        with_text, without_text = jnp.split(both_RNP, 2)
        owner_RN = batch["patch_segment"] if group_RN is None else group_RN
        return guide(guidance, with_text, without_text, t_RS, owner_RN)

    def denoise_fn(
        self,
        params: Params,
        batch: Batch,
        guidance: GuidanceConfig = GuidanceConfig(),  # noqa: B008  (frozen)
        condition_RN: jax.Array | None = None,
        given_RNP: jax.Array | None = None,
    ) -> Denoise:
        """`denoise(x_RNP, t_RS)` for the solvers, in normalised patches. A pure function: a
        `self_condition` network begins with nothing at every call.

        condition_RN, given_RNP  tokens that are given, and their clean normalised values
        """
        text = self.prepare(params, batch, guidance)
        if condition_RN is None or given_RNP is None:
            nothing_RN = jnp.zeros(batch["patch_segment"].shape, bool)
            return lambda x, t: self.denoise(params, batch, text, guidance, x, t, nothing_RN)
        return hold(
            lambda x, t: self.denoise(params, batch, text, guidance, x, t, condition_RN),
            given_RNP, condition_RN[..., None],
        )  # fmt: skip

    def _draw_condition(
        self, batch: Batch, seed: int | jax.Array, step: int | jax.Array
    ) -> tuple[Batch, jax.Array, jax.Array]:
        """The batch as it is trained on (some clips without their heads, given frames that do not
        stand at the start mid-stream), its given tokens bool[R,N], and the untold noise time of
        each clip's given ones f32[R,S]."""
        fold = functools.partial(jax.random.fold_in, stream(seed, "denoise/mask", step))
        clip_key_RS, frames_RS = batch["clip_key"], batch["grid"][..., 0]
        frame_RN = batch["patch_position"][..., 0]
        if self.cfg.masks.headless > 0.0:
            gone_RS = draw_heads(self.cfg.masks, fold(3), clip_key_RS, frames_RS)
            kept_RS = draw_references(self.cfg.masks, fold(4), clip_key_RS, frames_RS, gone_RS)
            batch = drop_heads(batch, gone_RS, kept_RS)
            frames_RS = frames_RS - gone_RS - kept_RS
            begin_RN = spread(jnp.minimum(gone_RS, 1), batch["patch_segment"])
            frame_RN = batch["patch_position"][..., 0] - begin_RN
        mask = draw_masks(self.cfg.masks, fold(0), clip_key_RS, frames_RS)
        segment_RN = batch["patch_segment"]
        condition_RN = condition_tokens(
            mask, fold(1), clip_key_RS, segment_RN, frame_RN, frames_RS
        )  # fmt: skip
        condition_RN |= (frame_RN < 0) & (segment_RN > 0)  # references
        batch = given_midstream(batch, condition_RN, mask.head, frame_RN)
        return batch, condition_RN, self.cfg.masks.noise * clip_uniform(fold(2), clip_key_RS)

    def _clip_losses(
        self,
        params: Params,
        batch: Batch,
        text: Text,
        t_RS: jax.Array,
        noise_key: jax.Array,
        condition_RN: jax.Array,
        given_noise_RS: jax.Array,
        weight_P: jax.Array | None = None,
        say_key: jax.Array | None = None,
    ) -> ClipLoss:
        """Noises the batch's patches, predicts them and collects the error of each clip."""
        segment_RN = batch["patch_segment"]
        real_RN = segment_RN > 0
        x_RNP = normalise(self.cfg.latent, batch["patches"]) * real_RN[..., None]
        t_RN = spread(t_RS, segment_RN)
        level_RN = jnp.where(condition_RN, spread(given_noise_RS, segment_RN), t_RN)
        x_t_RNP = self.flow.mix(x_RNP, batch_noise(noise_key, batch), level_RN)
        asked = params, batch, text, x_t_RNP, t_RS, condition_RN
        predicted_RNP = self.predict(*asked, estimate_RNP=self._first_say(say_key, *asked))
        error_RN = token_errors(predicted_RNP, x_RNP, weight_P) * velocity_weight(
            t_RN, self.cfg.time_floor
        )
        return clip_losses(error_RN, real_RN & ~condition_RN, segment_RN, t_RS.shape[1])

    def _first_say(
        self, key: jax.Array | None, params: Params, batch: Batch, text: Text,
        x_t_RNP: jax.Array, *rest: jax.Array,
    ) -> jax.Array | None:  # fmt: skip
        """In SAID_SHARE of the steps what the network says knowing nothing, else nothing (zeros),
        f32[R,N,P]; the key is the step's. Nothing is learnt from this first call."""
        if key is None or not self.cfg.dit.self_condition:
            return None
        params, text, x_t_RNP = jax.lax.stop_gradient((params, text, x_t_RNP))
        said_RNP: jax.Array = jax.lax.cond(
            jax.random.bernoulli(key, SAID_SHARE),
            lambda: self.predict(params, batch, text, x_t_RNP, *rest),
            lambda: jnp.zeros_like(x_t_RNP),
        )
        return said_RNP
