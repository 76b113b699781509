"""From linen modules to plain trees: weights, and the logical axes of each weight."""

from typing import Any

import flax.linen as nn
import jax

Tree = dict[str, Any]


def init_params(module: nn.Module, key: jax.Array, *args: Any, **kwargs: Any) -> Tree:
    """Plain float32 weights of `module`; of args (arrays or structs) only shapes matter."""
    variables = jax.jit(lambda k: module.init(k, *_zeros(args), **_zeros(kwargs)))(key)
    return nn.unbox(variables)["params"]


def abstract_params(module: nn.Module, *args: Any, **kwargs: Any) -> Tree:
    """ShapeDtypeStructs of the weights, without computing anything."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nn.unbox(_shapes(module, args, kwargs))
    )


def param_axes(module: nn.Module, *args: Any, **kwargs: Any) -> Tree:
    """Logical axis names of every weight: a tree whose leaves are tuples."""
    boxed = _shapes(module, args, kwargs)
    return jax.tree.map(
        lambda box: tuple(box.names), boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
    )


def _shapes(module: nn.Module, args: Any, kwargs: Any) -> Tree:
    make = lambda k: module.init(k, *_zeros(args), **_zeros(kwargs))  # noqa: E731
    return jax.eval_shape(make, jax.random.key(0))["params"]


def _zeros(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.numpy.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        tree,
    )
