"""AdamW and Muon, chosen weight by weight from the logical axis names.

Muon (arXiv:2502.16982, on the momentum orthogonalisation of K. Jordan) takes the hidden matrices:
weights whose two axes are both hidden widths, stacked or not, and convolution kernels between
hidden channels, read as one matrix [taps x inputs, outputs]. Everything else goes to AdamW:
embeddings, tables, norms, biases, and the layers that face pixels, latents, patches, text or time.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from vidsim.core.errors import bad
from vidsim.core.trees import flatten, is_axes
from vidsim.train.muon import scale_by_muon

HIDDEN = frozenset({"embed", "caption", "mlp", "heads", "kv_heads"})
STACKED = frozenset({"layers"})
LOOKED_UP = frozenset({"vocab", "table"})
MUON_RMS = 0.2  # rms of a Muon update at rate 1, as AdamW has it (arXiv:2502.16982, section 2.2)

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate.

    name          "adamw" for every weight, or "muon" for hidden matrices and AdamW for the rest
    lr            peak learning rate of the named optimizer
    adam_lr       peak rate of the AdamW part under Muon; None = `lr` (Muon updates are scaled to
                  the rms of AdamW's, so one rate serves both)
    weight_decay  multiplied by the rate; on matrices and kernels only
    schedule      after the warm-up: "cosine" to `final_share`, "wsd" (constant, then linear to
                  `final_share` over the last `decay_share` of the steps), or "constant"
    clip_norm     largest global norm of a gradient; None = no clipping
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    adam_lr: float | None = None
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    muon_momentum: float = 0.95
    weight_decay: float = 0.0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: int = 100
    decay_share: float = 0.2
    final_share: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        choices = {"name": ("adamw", "muon"), "schedule": ("cosine", "wsd", "constant")}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise bad(f"optim.{field}", f"{getattr(self, field)!r}", f"one of {allowed}")
        if self.name == "adamw" and self.adam_lr is not None:
            raise bad("optim.adam_lr", f"{self.adam_lr} with adamw", "for muon", "set optim.lr")
        ranges = {
            "lr": (0, math.inf), "eps": (0, math.inf), "b1": (0, 1), "b2": (0, 1),
            "muon_momentum": (0, 1), "weight_decay": (0, math.inf), "warmup_steps": (0, math.inf),
            "decay_share": (0, 1), "final_share": (0, 1), "adam_lr": (0, math.inf),
            "clip_norm": (0, math.inf),
        }  # fmt: skip
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise bad(f"optim.{field}", f"{value}", f"from {low} to {high}")


class Assignment(NamedTuple):
    """How one weight is trained: optimizer, peak rate, weight decay, and Muon's matrix axes."""

    optimizer: str
    lr: float
    weight_decay: float
    dims: MuonDimensionNumbers | None


def rate_share(cfg: OptimConfig, steps: int, step: int) -> float:
    """Share of the peak learning rate at update `step` (0 = first) of a run of `steps` updates."""
    warmup = min(cfg.warmup_steps, steps)
    rise = min((step + 1) / max(warmup, 1), 1.0)
    if cfg.schedule == "constant":
        return rise
    if cfg.schedule == "wsd":
        fall = min((steps - step) / max(round(cfg.decay_share * steps), 1), 1.0)
    else:
        done = (step - warmup) / max(steps - warmup, 1)
        fall = 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
    return rise * (cfg.final_share + (1.0 - cfg.final_share) * max(fall, 0.0))


def assign(cfg: OptimConfig, axes: Any) -> dict[str, Assignment]:
    """How each weight is trained, by slash path.

    axes  tree of tuples of logical axis names, one name (or None) for each axis of the weight
    """
    return {path: _assign_one(cfg, names) for path, names in flatten(axes).items()}


def build_optimizer(cfg: OptimConfig, axes: Any) -> optax.GradientTransformationExtraArgs:
    """The optax chain: clip, AdamW or Muon by weight, share of the peak rate.

    axes     tree of tuples of logical axis names, like the weights
    Returns  a transformation whose `update(grads, state, params, share=...)` takes the share of the
             peak rate f32[]. It comes from `rate_share` and the run's own step, not from a count
             in the state, so that one compiled step serves a run of any length.
    """
    plan = assign(cfg, axes)
    labels = _tree_of(axes, lambda a: a.optimizer, plan)
    decayed = _tree_of(axes, lambda a: a.weight_decay > 0, plan)
    dims = _tree_of(axes, lambda a: a.dims or optax.MaskedNode(), plan)
    names = jax.tree.map(
        lambda names, d: names if isinstance(d, MuonDimensionNumbers) else d, axes, dims,
        is_leaf=is_axes,
    )  # fmt: skip
    adam_lr = cfg.lr if cfg.adam_lr is None else cfg.adam_lr
    adamw = optax.chain(
        optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, decayed),
        optax.scale(-adam_lr),
    )
    muon = optax.chain(
        scale_by_muon(cfg.muon_momentum, names, dims),
        _scale_to_rms(dims),
        optax.add_decayed_weights(cfg.weight_decay, decayed),
        optax.scale(-cfg.lr),
    )
    clip = optax.identity() if cfg.clip_norm is None else optax.clip_by_global_norm(cfg.clip_norm)
    both = optax.partition({"adamw": adamw, "muon": muon}, labels)
    return optax.chain(clip, both, _scale_by_share())


def describe(cfg: OptimConfig, params: Any, axes: Any) -> list[dict[str, Any]]:
    """One row for each weight, for `vidsim inspect`: path, shape, optimizer, lr, weight_decay."""
    plan, flat = assign(cfg, axes), flatten(params)
    return [
        {
            "path": path, "shape": tuple(flat[path].shape), "optimizer": a.optimizer, "lr": a.lr,
            "weight_decay": a.weight_decay,
        }
        for path, a in plan.items()
    ]  # fmt: skip


def _assign_one(cfg: OptimConfig, names: Axes) -> Assignment:
    inner = [i for i, name in enumerate(names) if name not in STACKED]
    kinds = [names[i] for i in inner]
    decay = cfg.weight_decay if len(inner) >= 2 and not LOOKED_UP & set(kinds) else 0.0
    dims = None
    if cfg.name == "muon":
        if len(inner) == 2 and set(kinds) <= HIDDEN:
            dims = MuonDimensionNumbers((inner[0],), (inner[1],))
        elif kinds[-2:] == ["conv_in", "conv_out"]:
            dims = MuonDimensionNumbers(tuple(inner[:-1]), (inner[-1],))
    adam_lr = cfg.lr if cfg.adam_lr is None else cfg.adam_lr
    if dims is None:
        return Assignment("adamw", adam_lr, decay, None)
    return Assignment("muon", cfg.lr, decay, dims)


def _tree_of(axes: Any, value: Callable[[Assignment], Any], plan: dict[str, Assignment]) -> Any:
    def leaf(path: Any, _: Axes) -> Any:
        return value(plan["/".join(str(p.key) for p in path)])

    return jax.tree_util.tree_map_with_path(leaf, axes, is_leaf=is_axes)


def _scale_to_rms(dims: Any) -> optax.GradientTransformation:
    """Gives orthogonal updates the rms MUON_RMS: an orthogonal [m, n] has rms 1/sqrt(max(m, n))."""

    def scale(update: jax.Array, d: MuonDimensionNumbers) -> jax.Array:
        sizes = [math.prod(update.shape[i] for i in group) for group in d]  # type: ignore[union-attr]
        return update * (MUON_RMS * math.sqrt(max(sizes)))

    return optax.stateless(
        lambda updates, params: jax.tree.map(
            scale, updates, dims, is_leaf=lambda x: isinstance(x, MuonDimensionNumbers)
        )
    )


def _scale_by_share() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, *, share: jax.Array, **_: Any) -> Any:
        return jax.tree.map(lambda u: u * share, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
