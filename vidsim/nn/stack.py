"""A stack of equal blocks: weights stacked on a leading axis "layers", one loop, a remat policy."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vidsim.core.errors import bad, nearest
from vidsim.core.trees import is_axes
from vidsim.nn.attention import SAVED
from vidsim.nn.init import init_params, param_axes

REMAT = ("none", "full", "save_attention")
LOOPS = ("scan", "unroll")


def init_stack(block: nn.Module, layers: int, key: jax.Array, *args: Any) -> dict[str, Any]:
    """Weights of `layers` independent blocks, each leaf [L, ...]."""
    return jax.jit(jax.vmap(lambda k: init_params(block, k, *args)))(jax.random.split(key, layers))


def stack_axes(block: nn.Module, *args: Any) -> dict[str, Any]:
    """Logical axes of the stacked weights: those of one block behind "layers"."""
    return jax.tree.map(lambda axes: ("layers", *axes), param_axes(block, *args), is_leaf=is_axes)


def run_stack(
    block: Callable[..., jax.Array],
    params: dict[str, Any],
    x: jax.Array,
    *context: Any,
    remat: str,
    loop: str,
) -> jax.Array:
    """x after all blocks.

    block    (params of one block, x, *context) -> x
    params   every leaf [L, ...]
    context  passed unchanged to every block
    remat    what the backward recomputes: "none" nothing, "full" each block, "save_attention" each
             block but its attention, whose results are kept
    loop     "scan" compiles one block; "unroll" compiles all of them and saves the copies into and
             out of the loop (6 blocks on CPU: equal time a step, twice the time to compile)
    Raises   BadInput for another remat or loop
    """
    check_policies(remat, loop)
    body = lambda p, x: block(p, x, *context)  # noqa: E731
    if remat == "full":
        body = jax.checkpoint(body, prevent_cse=loop == "unroll")
    elif remat == "save_attention":
        keep = jax.checkpoint_policies.save_only_these_names(SAVED)
        body = jax.checkpoint(body, prevent_cse=loop == "unroll", policy=keep)
    if loop == "scan":
        return jax.lax.scan(lambda x, p: (body(p, x), None), x, params)[0]
    for layer in range(jax.tree.leaves(params)[0].shape[0]):
        x = body(jax.tree.map(lambda leaf, i=layer: leaf[i], params), x)
    return x


def check_policies(remat: str, loop: str) -> None:
    """Raises BadInput unless both are names this module knows."""
    if remat not in REMAT:
        raise bad("remat", f"policy {remat!r}", nearest(remat, REMAT))
    if loop not in LOOPS:
        raise bad("loop", f"kind {loop!r}", nearest(loop, LOOPS))
