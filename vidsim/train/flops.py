"""Floating-point operations of a denoising step, from the lengths of its segments; and of a step
of the autoencoder, from its traced program.

Matrix products only, a multiply-add counted as two. "Live" counts tokens that exist and pairs that
attend (the sum of squared segment lengths); "padded" counts whole rows, as a dense attention would
compute them. Training costs three forwards: the backward of a product is two products of its size.
What rematerialisation computes again is not counted: it is the model's work, not the machine's. A
network that reads what it said before (`self_condition`) speaks once more in a share of the steps,
which is counted on average.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vidsim.core.flop_count import jaxpr_flops
from vidsim.data.plan import Plan
from vidsim.models.dit import DiTConfig
from vidsim.models.dit_config import matmul_flops
from vidsim.models.text import ByteEncoderConfig
from vidsim.tasks.autoencoding import Autoencoding
from vidsim.tasks.denoising import SAID_SHARE, DenoisingConfig

TRAINING = 3.0

Work = Callable[[Any], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Operations of one optimizer step (forward and backward), split as the module says."""

    linear_live: float
    linear_padded: float
    attention_live: float
    attention_padded: float

    @property
    def live(self) -> float:
        """What the clips need: the numerator of a useful utilisation."""
        return self.linear_live + self.attention_live

    @property
    def padded(self) -> float:
        """What whole rows with dense attention would take."""
        return self.linear_padded + self.attention_padded


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a packed batch holds. A pair is a query and a key that attend.

    patches, texts   tokens
    clips, levels    segments, and noise levels that the time MLP runs on
    self_pairs, cross_pairs, text_pairs   patch-patch, patch-text and text-text pairs
    """

    patches: int
    texts: int
    clips: int
    levels: int
    self_pairs: int
    cross_pairs: int
    text_pairs: int


def step_flops(cfg: DenoisingConfig, batch: Any) -> StepFlops:
    """Operations of training on a packed batch (host arrays of core/batch.py)."""
    live, padded = live_counts(batch), padded_counts(batch)
    linear, attention = zip(*(step_parts(cfg, counts) for counts in (live, padded)), strict=True)
    return StepFlops(*linear, *attention)


def packed_work(cfg: DenoisingConfig) -> Work:
    """What `train` records of each packed batch: tokens, clips, FLOPs live and padded."""

    def work(batch: Any) -> dict[str, float]:
        flops = step_flops(cfg, batch)
        return {
            "tokens": float(batch["num_tokens"]),
            "clips": float(batch["num_clips"]),
            "flops": flops.live,
            "padded_flops": flops.padded,
        }

    return work


def crop_work(task: Autoencoding) -> Work:
    """What `train` records of each step of crops: clips of the step, and FLOPs of the autoencoder
    over them. A critic and a perceptual network are not counted.
    """
    shapes = jax.eval_shape(task.vae.init, jax.random.key(0))

    def there_and_back(params: Any, video: jax.Array) -> jax.Array:
        return task.vae.decode(params, task.vae.encode(params, video)[0])

    @functools.cache
    def each(T: int, H: int, W: int) -> float:
        video = jax.ShapeDtypeStruct((1, T, H, W, 3), "float32")
        return TRAINING * jaxpr_flops(there_and_back, shapes, video)

    def work(batch: Any) -> dict[str, float]:
        clips = float(batch["num_clips"])
        return {"clips": clips, "flops": clips * each(*batch["video"].shape[1:4])}

    return work


def planned_work(cfg: DenoisingConfig, plan: Plan) -> Callable[[int], dict[str, float]]:
    """`packed_work` by step number, from the plan alone: for processes that read a part of it."""
    rows, n = plan.config.rows_per_step, plan.config.row_tokens
    m, slots = plan.config.row_text, plan.config.row_segments
    padded = Counts(
        patches=rows * n, texts=rows * m, clips=rows * slots, levels=rows * (slots + 1),
        self_pairs=rows * n * n, cross_pairs=rows * n * m, text_pairs=rows * m * m,
    )  # fmt: skip

    def work(step: int) -> dict[str, float]:
        chosen = plan.step(step)
        pieces = chosen.rows.piece
        tokens = plan.tokens[pieces].astype(np.int64)
        texts = plan.text_tokens(chosen.epoch, pieces)
        filled = int((np.diff(chosen.rows.offset) > 0).sum())
        live = Counts(
            patches=int(tokens.sum()), texts=int(texts.sum()), clips=len(pieces),
            levels=len(pieces) + filled, self_pairs=int((tokens**2).sum()),
            cross_pairs=int((tokens * texts).sum()), text_pairs=int((texts**2).sum()),
        )  # fmt: skip
        return {
            "tokens": float(chosen.num_tokens),
            "clips": float(chosen.num_clips),
            "flops": sum(step_parts(cfg, live)),
            "padded_flops": sum(step_parts(cfg, padded)),
        }

    return work


def live_counts(batch: Any) -> Counts:
    """Tokens, clips and pairs that exist."""
    slots = np.asarray(batch["clip_key"]).shape[1]
    patches_RS = _lengths(np.asarray(batch["patch_segment"]), slots)
    texts_RS = _lengths(np.asarray(batch["text_segment"]), slots)
    clips = int((patches_RS > 0).sum())
    rows = int((patches_RS > 0).any(1).sum())
    return Counts(
        patches=int(patches_RS.sum()),
        texts=int(texts_RS.sum()),
        clips=clips,
        levels=clips + rows,  # one for each clip, and one a row for what is given
        self_pairs=int((patches_RS**2).sum()),
        cross_pairs=int((patches_RS * texts_RS).sum()),
        text_pairs=int((texts_RS**2).sum()),
    )


def padded_counts(batch: Any) -> Counts:
    """Tokens, slots and pairs of whole rows."""
    rows, n = np.shape(batch["patch_segment"])
    m, slots = np.shape(batch["text_segment"])[1], np.shape(batch["clip_key"])[1]
    return Counts(
        patches=rows * n,
        texts=rows * m,
        clips=rows * slots,
        levels=rows * (slots + 1),
        self_pairs=rows * n * n,
        cross_pairs=rows * n * m,
        text_pairs=rows * m * m,
    )


def step_parts(cfg: DenoisingConfig, counts: Counts) -> tuple[float, float]:
    """Operations of forward and backward, split as `forward_flops`."""
    linear, attention = (TRAINING * x for x in forward_flops(cfg, counts))
    if not cfg.dit.self_condition:
        return linear, attention
    first = forward_flops(dataclasses.replace(cfg, text=None), counts)
    return linear + SAID_SHARE * first[0], attention + SAID_SHARE * first[1]


def forward_flops(cfg: DenoisingConfig, counts: Counts) -> tuple[float, float]:
    """Operations of one forward: (weights with tokens, tokens with tokens)."""
    each = matmul_flops(cfg.dit)
    linear = (
        each.patch_token * counts.patches
        + each.text_token * counts.texts
        + each.level * counts.levels
        + _clip_embedding(cfg.dit) * counts.clips
    )
    attention = each.self_pair * counts.self_pairs + each.cross_pair * counts.cross_pairs
    if cfg.text is not None:
        token, pair = _text_encoder(cfg.text)
        linear += token * counts.texts
        attention += pair * counts.text_pairs
    return linear, attention


def _clip_embedding(cfg: DiTConfig) -> float:
    """Operations for each clip: frame rate and size, and its pooled caption."""
    d = cfg.width
    size = 2.0 * (3 * cfg.freq_width * d + d * d) if cfg.clip_embedding else 0.0
    return size + (2.0 * (cfg.text_width * d + d * d) if cfg.pooled_text else 0.0)


def _text_encoder(cfg: ByteEncoderConfig) -> tuple[float, float]:
    """Operations for each byte and for each pair of bytes of a caption."""
    e, f = cfg.width, cfg.mlp_width
    return 2.0 * cfg.layers * (4 * e * e + 2 * e * f), 4.0 * e * cfg.layers


def _lengths(segment_RN: np.ndarray, slots: int) -> np.ndarray:
    """i64[R, S] tokens of each segment."""
    return np.stack(
        [np.bincount(row, minlength=slots + 1)[1:] for row in segment_RN.astype(np.int64)]
    )
