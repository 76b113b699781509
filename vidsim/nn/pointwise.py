"""Norms, modulation and activation with hand-written backward passes.

Autodiff would keep a full-size array for every broadcast gain, normalised value and tanh. These
keep their input and one number a token, and recompute the rest in the pass that needs it: less
memory, fewer trips through it. All is computed in float32 and returned in the dtype of the input.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from vidsim.nn.modulation import per_token, sum_per_row

F32 = jnp.float32


def _anew(saved: Any) -> Any:
    """Keeps the compiler from merging the backward's recomputation with the forward's arrays."""
    return jax.lax.optimization_barrier(saved)


def _row(g_D: jax.Array, ndim: int) -> jax.Array:
    return g_D.reshape((1,) * (ndim - 1) + (-1,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, g_D: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * g over the last axis. Source: arXiv:1910.07467 eq. 4."""
    return _rms_forward(x, g_D, eps)[0]


def _rms_forward(x: jax.Array, g_D: jax.Array, eps: float) -> tuple[jax.Array, Any]:
    z = x.astype(F32)
    inverse = jax.lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + eps)
    return (z * inverse * _row(g_D, x.ndim)).astype(x.dtype), (x, g_D, inverse)


def _rms_backward(eps: float, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, g_D, inverse = _anew(saved)
    z, dy = x.astype(F32), dy.astype(F32)
    pull = jnp.einsum("...d,d->...", dy * z, g_D, precision="highest")[..., None]
    dx = inverse * (dy * _row(g_D, x.ndim) - z * (inverse * inverse * pull / x.shape[-1]))
    dg = jnp.sum(dy * z * inverse, tuple(range(x.ndim - 1)))
    return dx.astype(x.dtype), dg


rms_norm.defvjp(_rms_forward, _rms_backward)


def _standardise(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """Mean and inverse standard deviation of the last axis."""
    z = x.astype(F32)
    mean = jnp.mean(z, -1, keepdims=True)
    return mean, jax.lax.rsqrt(jnp.mean(jnp.square(z - mean), -1, keepdims=True) + eps)


def _through_norm(unit: jax.Array, inverse: jax.Array, d_unit: jax.Array) -> jax.Array:
    """Gradient of (x - mean) * inverse from that of its result `unit`."""
    centre = jnp.mean(d_unit, -1, keepdims=True)
    pull = jnp.mean(d_unit * unit, -1, keepdims=True)
    return inverse * (d_unit - centre - unit * pull)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, g_D: jax.Array, b_D: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(var + eps) * g + b over the last axis. Source: arXiv:1607.06450."""
    return _layer_forward(x, g_D, b_D, eps)[0]


def _layer_forward(
    x: jax.Array, g_D: jax.Array, b_D: jax.Array, eps: float
) -> tuple[jax.Array, Any]:
    mean, inverse = _standardise(x, eps)
    y = (x.astype(F32) - mean) * inverse * _row(g_D, x.ndim) + _row(b_D, x.ndim)
    return y.astype(x.dtype), (x, g_D, mean, inverse)


def _layer_backward(eps: float, saved: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
    x, g_D, mean, inverse = _anew(saved)
    unit, dy = (x.astype(F32) - mean) * inverse, dy.astype(F32)
    tokens = tuple(range(x.ndim - 1))
    dx = _through_norm(unit, inverse, dy * _row(g_D, x.ndim))
    return dx.astype(x.dtype), jnp.sum(dy * unit, tokens), jnp.sum(dy, tokens)


layer_norm.defvjp(_layer_forward, _layer_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def modulated_norm(
    x_RND: jax.Array, shift_RKD: jax.Array, scale_RKD: jax.Array, index_RN: jax.Array, eps: float
) -> jax.Array:
    """Layer norm without weights, times 1 + scale, plus shift, both of each token's level."""
    return _modulated_forward(x_RND, shift_RKD, scale_RKD, index_RN, eps)[0]


def _modulated_forward(
    x_RND: jax.Array, shift_RKD: jax.Array, scale_RKD: jax.Array, index_RN: jax.Array, eps: float
) -> tuple[jax.Array, Any]:
    mean, inverse = _standardise(x_RND, eps)
    unit = (x_RND.astype(F32) - mean) * inverse
    y = unit * (1.0 + per_token(scale_RKD, index_RN)) + per_token(shift_RKD, index_RN)
    return y.astype(x_RND.dtype), (x_RND, scale_RKD, index_RN, mean, inverse)


def _modulated_backward(eps: float, saved: Any, dy_RND: jax.Array) -> tuple[Any, ...]:
    x_RND, scale_RKD, index_RN, mean, inverse = _anew(saved)
    unit, dy = (x_RND.astype(F32) - mean) * inverse, dy_RND.astype(F32)
    dx = _through_norm(unit, inverse, dy * (1.0 + per_token(scale_RKD, index_RN)))
    levels = scale_RKD.shape[1]
    d_shift, d_scale = (sum_per_row(d, index_RN, levels) for d in (dy, dy * unit))
    return dx.astype(x_RND.dtype), d_shift, d_scale, None


modulated_norm.defvjp(_modulated_forward, _modulated_backward)


@jax.custom_vjp
def gated_add(
    x_RND: jax.Array, h_RND: jax.Array, gate_RKD: jax.Array, index_RN: jax.Array
) -> jax.Array:
    """x + h * gate of each token's level."""
    sum_RND = x_RND.astype(F32) + h_RND.astype(F32) * per_token(gate_RKD, index_RN)
    return sum_RND.astype(x_RND.dtype)


def _gated_forward(
    x_RND: jax.Array, h_RND: jax.Array, gate_RKD: jax.Array, index_RN: jax.Array
) -> tuple[jax.Array, Any]:
    return gated_add(x_RND, h_RND, gate_RKD, index_RN), (h_RND, gate_RKD, index_RN)


def _gated_backward(saved: Any, dy_RND: jax.Array) -> tuple[Any, ...]:
    h_RND, gate_RKD, index_RN = _anew(saved)
    dy = dy_RND.astype(F32)
    dh = (dy * per_token(gate_RKD, index_RN)).astype(h_RND.dtype)
    d_gate = sum_per_row(dy * h_RND.astype(F32), index_RN, gate_RKD.shape[1])
    return dy_RND, dh, d_gate, None


gated_add.defvjp(_gated_forward, _gated_backward)

_SLOPE, _CUBE = math.sqrt(2.0 / math.pi), 0.044715


@jax.custom_vjp
def gelu(u: jax.Array) -> jax.Array:
    """u (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) / 2. Source: arXiv:1606.08415 sec. 2."""
    z = u.astype(F32)
    return (0.5 * z * (1.0 + jnp.tanh(_SLOPE * (z + _CUBE * z * z * z)))).astype(u.dtype)


def _gelu_backward(u: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    z = _anew(u).astype(F32)
    t = jnp.tanh(_SLOPE * (z + _CUBE * z * z * z))
    slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * _SLOPE * (1.0 + 3.0 * _CUBE * z * z)
    return ((dy.astype(F32) * slope).astype(u.dtype),)


gelu.defvjp(lambda u: (gelu(u), u), _gelu_backward)
