"""The GPU kernel under Pallas interpretation, against each clip alone in float64; lowered to Triton
for a GPU that is not here."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference.attention_numpy import attend_packed
from vidsim.nn.attention import attend
from vidsim.nn.attention_gpu import BLOCK

N, M, A, E = 200, 90, 2, 8
# float32 against float64 at logits of order 1; sums of up to 200 terms
TOLERANCE = 1e-5


def value_and_gradients(implementation, platform, q, k, v, d_out, q_segment, k_segment):
    how = dict(implementation=implementation, platform=platform)
    out, pull = jax.vjp(lambda *qkv: attend(*qkv, q_segment, k_segment, **how), q, k, v)
    return out, *pull(d_out)


@functools.cache
def kernel():
    return jax.jit(functools.partial(value_and_gradients, "gpu_flash_interpreted", "cpu"))


def batch(rng, across, lengths, words):
    """One row: q, k, v, d_out, q_segment, k_segment; tails are padding."""
    ids = lambda n, parts: np.repeat(  # noqa: E731
        [*range(1, len(parts) + 1), 0], [*parts, n - sum(parts)]
    ).astype(np.int32)[None]
    q_segment = ids(N, lengths)
    k_segment = ids(M, words) if across else q_segment
    q, d_out = rng.normal(size=(2, 1, N, A, E)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, k_segment.shape[1], A, E)).astype(np.float32)
    return q, k, v, d_out, q_segment, k_segment


PACKINGS = [
    ([N], [M]), ([1, 1, 63, 64, 65], [1, 30, 2, 20, 37]), ([100, 3], [1, 80]), ([], []),
    ([199, 1], [89, 1]), ([7, 120, 1, 50], [20, 1, 40, 9]),
]  # fmt: skip


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_packings_give_each_clip_what_it_gives_alone(across):
    rng = np.random.default_rng(across)
    for lengths, words in PACKINGS:
        row = batch(rng, across, lengths, words)
        exact = attend_packed(*(x[0] for x in row))
        for ours, theirs in zip(kernel()(*row), exact, strict=True):
            np.testing.assert_allclose(ours[0], theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_neighbours_and_padding_of_any_size_change_nothing(across):
    rng = np.random.default_rng(2)
    *floats, q_segment, k_segment = batch(rng, across, [50, 70, 60], [20, 30, 25])
    calm = kernel()(*floats, q_segment, k_segment)
    sides = (q_segment, k_segment, k_segment, q_segment)
    wild = []
    for x, ids in zip(floats, sides, strict=True):
        signs = np.where(rng.random(x.shape) < 0.5, -1e6, 1e6).astype(np.float32)
        wild.append(np.where((ids == 2)[..., None, None], x, signs))
    stirred = kernel()(*wild, q_segment, k_segment)
    sides = (q_segment, q_segment, k_segment, k_segment)
    for before, after, ids in zip(calm, stirred, sides, strict=True):
        np.testing.assert_array_equal(np.asarray(after)[ids == 2], np.asarray(before)[ids == 2])
        assert np.all(np.asarray(after)[ids == 0] == 0.0)


def one_gpu():
    """A mesh of one GPU that is not there; jax 0.11 lowers kernels for a named one only."""
    device = jax.sharding.AbstractDevice(
        device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu"
    )
    kind = (jax.sharding.AxisType.Auto,)
    return jax.sharding.AbstractMesh((1,), ("one",), axis_types=kind, abstract_device=device)


def test_lowers_to_three_triton_kernels_without_a_gpu():
    tokens, text = 1000, 300
    struct = lambda n, *more, dtype: jax.ShapeDtypeStruct((2, n, *more), dtype)  # noqa: E731
    for dtype in (jnp.bfloat16, jnp.float32):
        q, k = (struct(n, 4, 72, dtype=dtype) for n in (tokens, text))
        ids = [struct(n, dtype=jnp.int32) for n in (tokens, text)]
        run = jax.jit(functools.partial(value_and_gradients, "auto", "cuda"))
        with jax.sharding.use_abstract_mesh(one_gpu()):
            lowered = run.trace(q, k, k, q, *ids).lower(lowering_platforms=("cuda",))
        program = lowered.as_text()
        assert program.count("custom_call @__gpu$xla.gpu.triton") == 3
        blocks = [int(n) for n in re.findall(r"grid_z = (\d+) : i32", program)]
        assert blocks == [-(-tokens // BLOCK), -(-tokens // BLOCK), -(-text // BLOCK)]
