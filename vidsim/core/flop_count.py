"""Operations of any traced function: its matrix products and convolutions, counted from the jaxpr.

For programs without a closed form. A multiply-add is two operations, as in train/flops.py; loops
count as often as they run; recomputation under `jax.checkpoint` is there once for each time that it
is traced, so a differentiated function counts the work of the machine, not of the model.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def jaxpr_flops(function: Callable[..., Any], *args: Any) -> float:
    """Operations of one call with these (abstract) arguments.

    Loops whose length only the data tell (`while`) count one turn.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot(eqn)
        elif name == "conv_general_dilated":
            total += _conv(eqn)
        else:
            times = eqn.params.get("length", 1) if name == "scan" else 1
            inner = [_count(sub) for sub in _inner(eqn.params)]
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _inner(params: Any) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _conv(eqn: Any) -> float:
    """Every output number sums over the kernel, less what stride and dilation of inputs skip."""
    kernel = eqn.invars[1].aval.shape
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    each = math.prod(kernel) / kernel[out_axis]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * each / math.prod(eqn.params["lhs_dilation"])
