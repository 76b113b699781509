"""Which number format where: weights float32, matmuls in the compute dtype, reductions float32."""

import jax.numpy as jnp

from vidsim.core.errors import bad

COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str, where: str = "dtype") -> jnp.dtype:
    """The dtype of matmul operands by name. Raises BadInput for any other name."""
    if name not in COMPUTE:
        raise bad(where, f"compute dtype {name!r}", f"one of {', '.join(COMPUTE)}")
    return jnp.dtype(COMPUTE[name])
