"""Rotary positions: relative, axis by axis, and equal to complex multiplication."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.nn.rope import axis_widths, pair_order, rotate, rotation

E, HEADS = 20, 3
# float32 angles up to 100 radians carry 4e-6; products of order 1
TOLERANCE = 2e-5


def turned(x_NAE, position_N3, theta=10_000.0):
    turn = rotation(jnp.asarray(position_N3)[None], axis_widths(E), theta)
    return np.asarray(rotate(jnp.asarray(x_NAE)[None], turn)[0])


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, HEADS, E)).astype(np.float32)


def test_scores_depend_on_differences_of_positions_alone():
    rng = np.random.default_rng(1)
    q, k = vectors(9, 2), vectors(9, 3)
    at_q, at_k = rng.integers(0, 30, (2, 9, 3))
    shift = np.array([7, -4, 11])
    here = np.einsum("nae,mae->anm", turned(q, at_q), turned(k, at_k))
    there = np.einsum("nae,mae->anm", turned(q, at_q + shift), turned(k, at_k + shift))
    np.testing.assert_allclose(there, here, atol=10 * TOLERANCE)
    assert np.abs(np.einsum("nae,mae->anm", q, k) - here).max() > 0.5


def test_equals_complex_multiplication_of_neighbouring_pairs_after_reordering():
    """The published convention: numbers 2i and 2i+1 are one complex number (arXiv:2104.09864)."""
    position_N3 = np.random.default_rng(4).integers(0, 50, (6, 3)).astype(np.float64)
    x = vectors(6)
    angles = []
    for axis, width in enumerate(axis_widths(E)):
        rates = 10_000.0 ** (-2.0 * np.arange(width // 2) / width)
        angles.append(position_N3[:, axis, None] * rates)
    spin = np.exp(1j * np.concatenate(angles, -1))[:, None]
    complex_out = (x[..., 0::2] + 1j * x[..., 1::2]) * spin
    theirs = np.stack([complex_out.real, complex_out.imag], -1).reshape(x.shape)
    flat = lambda z: z.reshape(6, -1)[:, pair_order(E, HEADS)].reshape(z.shape)  # noqa: E731
    np.testing.assert_allclose(turned(flat(x), position_N3), flat(theirs), atol=TOLERANCE)


def test_position_zero_is_the_identity_and_lengths_are_kept():
    x = vectors(5)
    np.testing.assert_array_equal(turned(x, np.zeros((5, 3), np.int32)), x)
    moved = turned(x, np.arange(15).reshape(5, 3))
    np.testing.assert_allclose((moved**2).sum(-1), (x**2).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_each_axis_turns_its_own_pairs_only(axis):
    x, position = np.ones((1, 1, E), np.float32), np.zeros((1, 3), np.int32)
    position[0, axis] = 3
    changed = turned(x, position)[0, 0] != 1.0
    widths = axis_widths(E)
    start, half = sum(widths[:axis]) // 2, widths[axis] // 2
    expected = np.zeros(E, bool)
    expected[start : start + half] = expected[E // 2 + start : E // 2 + start + half] = True
    np.testing.assert_array_equal(changed, expected)


def test_fractions_and_another_base_of_the_rates():
    """A slower rate is a smaller position: halving a coordinate halves the first axis's angle."""
    x = np.zeros((1, 1, E), np.float32)
    x[..., 0] = 1.0
    (halfway,) = turned(x, np.array([[0.5, 0, 0]]))
    np.testing.assert_allclose(halfway[0, [0, E // 2]], [np.cos(0.5), np.sin(0.5)], atol=1e-6)
    x = np.zeros((1, 1, E), np.float32)
    x[..., 1] = 1.0  # second pair of t: rate theta^(-2/8)
    (turned_once,) = turned(x, np.array([[1, 0, 0]]), theta=16.0)
    np.testing.assert_allclose(turned_once[0, 1], np.cos(0.5), atol=1e-6)


def test_widths_are_even_and_fill_the_head():
    for width in range(6, 257, 2):
        t, y, x = axis_widths(width)
        assert t + y + x == width and t % 2 == y % 2 == 0 and y == x > 0 and t > 0
    assert axis_widths(128) == (44, 42, 42)  # Wan 2.1
    with pytest.raises(BadInput, match="head width 7"):
        axis_widths(7)
