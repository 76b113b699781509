"""How much memory a program will need, from shapes alone: nothing is compiled and nothing runs.

Walks the program that tracing gives, adds up what is alive at each operation and keeps the largest
sum. A compiler does better where it fuses operations and worse where it lays out copies; the
estimate is checked against compiled programs in the tests.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import numpy as np

# Read by their one consumer as they are computed, so never stored: what every XLA backend fuses.
_FUSED = frozenset({
    "add", "sub", "mul", "div", "neg", "max", "min", "exp", "log", "log1p", "expm1", "tanh", "erf",
    "logistic", "rsqrt", "sqrt", "square", "integer_pow", "pow", "abs", "sign", "floor", "and",
    "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "select_n", "clamp", "convert_element_type",
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "cos", "sin", "round",
    "stop_gradient", "copy", "slice", "pad", "rem", "transpose", "sharding_constraint",
})  # fmt: skip


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Bytes alive at once while the function runs, its results included, its arguments not.

    args  arrays or `jax.ShapeDtypeStruct`s
    """
    return _peak(jax.make_jaxpr(function)(*args).jaxpr)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(aval: Any) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    width = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize
    return int(np.prod(shape, dtype=np.int64)) * width


def _peak(jaxpr: Any) -> int:
    """Largest sum of what the program itself allocates."""
    uses: dict[Any, int] = {}
    for equation in jaxpr.eqns:
        for var in _variables(equation.invars):
            uses[var] = uses.get(var, 0) + 1
    kept = set(_variables(jaxpr.outvars))
    # A fused value stands for the stored ones that it is computed from.
    behind: dict[Any, set[Any]] = {}
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        stored = {s for v in _variables(equation.invars) for s in behind.get(v, {v})}
        for var in stored:
            last[var] = number
        if _fuses(equation, uses, kept):
            behind[equation.outvars[0]] = stored
    size: dict[Any, int] = {}
    alive = peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        inner = sum(map(_peak, _programs(equation)))
        made = [v for v in _variables(equation.outvars) if v not in behind]
        total = sum(_size(v.aval) for v in made)
        peak = max(peak, alive + max(inner, total) + (total if _loops(equation) else 0))
        for var in made:
            if var in last or var in kept:
                size[var] = _size(var.aval)
                alive += size[var]
        for var in [v for v in size if last.get(v, -1) <= number and v not in kept]:
            alive -= size.pop(var)
    return peak


def _fuses(equation: Any, uses: dict[Any, int], kept: set[Any]) -> bool:
    if equation.primitive.name not in _FUSED or len(equation.outvars) != 1:
        return False
    out = equation.outvars[0]
    return uses.get(out, 0) <= 1 and out not in kept


def _loops(equation: Any) -> bool:
    """Loops hold what they carry beside what they make of it."""
    return equation.primitive.name in ("while", "scan")


def _variables(found: Any) -> list[Any]:
    return [v for v in found if not isinstance(v, jax.extend.core.Literal) and hasattr(v, "aval")]


def _programs(equation: Any) -> Iterator[Any]:
    """Programs inside an operation; of the branches of a condition the largest."""
    if equation.primitive.name == "cond":
        yield max((b.jaxpr for b in equation.params["branches"]), key=_peak)
        return
    for value in equation.params.values():
        if hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value
