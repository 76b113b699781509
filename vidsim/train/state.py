"""What training carries from step to step: one plain pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidsim.core.trees import flatten, map_named
from vidsim.parallel.rules import Rules, shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of a run; the data's state is `step` alone.

    step             i32[] optimizer steps done; the next batch has this number
    params           float32 weights
    opt_state        state of the optax chain
    ema              float32 average of the weights, used for sampling and evaluation
    skipped          i32[] updates left out so far because a gradient was not finite
    skipped_in_a_row i32[] how many of them were the last ones
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def init_state(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts at the weights."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
    return TrainState(zero, params, tx.init(params), ema, zero + 0, zero + 0)


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """Decay of the average at update `step` (0 = first): min(decay, (1 + step) / (10 + step))."""
    s = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + s) / (10.0 + s))


def items(state: TrainState) -> dict[str, Any]:
    """The state as named trees for the checkpoint store: params, ema, opt_state, counters."""
    counters = {
        "step": state.step,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
    }
    weights = {"params": state.params, "ema": state.ema}
    return {**weights, "opt_state": state.opt_state, "counters": counters}


def from_items(trees: dict[str, Any]) -> TrainState:
    """The inverse of `items`."""
    return TrainState(
        params=trees["params"],
        ema=trees["ema"],
        opt_state=trees["opt_state"],
        **trees["counters"],
    )


def state_shardings(abstract: TrainState, axes: Any, mesh: Mesh, rules: Rules) -> TrainState:
    """Where each array of the state lives.

    Weights and their average follow the rules; optimizer arrays that mirror a weight (same path at
    the end, same shape) lie where the weight lies; everything else is copied to all devices.
    """
    weights = shardings(rules, mesh, axes, abstract.params)
    copy = NamedSharding(mesh, PartitionSpec())
    places = flatten(weights)
    shapes = {path: x.shape for path, x in flatten(abstract.params).items()}
    suffixes = sorted(places, key=len, reverse=True)

    def place(path: str, leaf: Any) -> NamedSharding:
        for name in suffixes:
            if (path == name or path.endswith(f"/{name}")) and shapes[name] == leaf.shape:
                return places[name]
        return copy

    places_of: dict[str, Any] = {
        "params": weights,
        "ema": weights,
        "opt_state": map_named(place, abstract.opt_state),
    }
    counters: dict[str, Any] = dict.fromkeys(("step", "skipped", "skipped_in_a_row"), copy)
    return TrainState(**places_of, **counters)
