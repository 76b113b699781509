"""Keys and values in a ring over `context`: each clip gives what it gives alone in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.parallel.compiled import gathered, results
from tests.reference.attention_numpy import attend_packed
from vidsim.nn.attention import RING, attend, plan_attention
from vidsim.parallel.mesh import MeshConfig, build_mesh

R, N, A, E = 2, 488, 4, 8  # shards of 61 or 244 tokens are no multiple of the blocks
# float32 against float64 at logits of order 1: roundings of sums over hundreds of terms
TOLERANCE = 1e-5
# Clips lie across the borders of shards, one over all of them; one row has a padding tail.
SEGMENTS = np.stack(
    [np.repeat([1, 2, 3, 4], [100, 200, 1, 187]), np.repeat([1, 2, 0], [3, 456, 29])]
).astype(np.int32)
SPLIT = P(("data", "fsdp"), "context", "tensor")
ROWS = P(("data", "fsdp"))
MESHES = {"2,2,2": MeshConfig(data=2, context=2, tensor=2), "1,8,1": MeshConfig(1, context=8)}


@functools.cache
def arrays():
    return np.random.default_rng(0).normal(size=(4, R, N, A, E)).astype(np.float32)


@functools.cache
def program(sizes, dtype=jnp.float32):
    """(placing, executable) of (q, k, v, d_out, segment) -> out, dq, dk, dv over a mesh."""

    def run(q, k, v, d_out, segment):
        within = lambda *qkv: attend(*qkv, segment, segment, implementation="ring_blocks")  # noqa: E731
        out, pull = jax.vjp(within, q, k, v)
        return out, *pull(d_out)

    mesh = build_mesh(MESHES[sizes])
    places = [jax.NamedSharding(mesh, spec) for spec in (*[SPLIT] * 4, ROWS)]
    shapes = [jax.ShapeDtypeStruct((R, N, A, E), dtype, sharding=s) for s in places[:4]]
    ids = jax.ShapeDtypeStruct((R, N), np.int32, sharding=places[4])
    with jax.set_mesh(mesh):
        jitted = jax.jit(run, out_shardings=(places[0],) * 4)
        return places, jitted.lower(*shapes, ids).compile()


def results_of(sizes, four, segment, dtype=jnp.float32):
    places, executable = program(sizes, dtype)
    cast = [*(jnp.asarray(x, dtype) for x in four), segment]
    got = executable(*map(jax.device_put, cast, places))
    return [np.asarray(x.astype(jnp.float32)) for x in got]


@pytest.mark.parametrize("sizes", MESHES)
def test_values_and_gradients_are_those_of_each_clip_alone(sizes):
    got = results_of(sizes, arrays(), SEGMENTS)
    for r in range(R):
        for ours, exact in zip(
            got, attend_packed(*arrays()[:, r], *[SEGMENTS[r]] * 2), strict=True
        ):
            np.testing.assert_allclose(ours[r], exact, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype, poison", [(jnp.float32, 1e6), (jnp.bfloat16, 1e3)])
def test_neighbours_of_any_size_change_nothing(dtype, poison):
    signs = np.sign(np.random.default_rng(1).normal(size=arrays().shape)) * poison
    own = (SEGMENTS == 2)[..., None, None]
    calm = results_of("1,8,1", arrays(), SEGMENTS, dtype)
    wild = results_of("1,8,1", np.where(own, arrays(), signs), SEGMENTS, dtype)
    for before, after in zip(calm, wild, strict=True):
        assert np.any(after[SEGMENTS == 2] != 0)
        np.testing.assert_array_equal(after[SEGMENTS == 2], before[SEGMENTS == 2])


def test_shards_that_share_no_clip_are_not_multiplied():
    """A NaN passes through any product with zero, so it shows every pair of blocks that is met."""
    segment = np.repeat([[1, 2]], [N // 8, N - N // 8], axis=1).repeat(R, 0).astype(np.int32)
    first = (segment == 1)[..., None, None]
    calm = results_of("1,8,1", arrays(), segment)
    sick = results_of("1,8,1", np.where(first, arrays(), np.nan), segment)
    for before, after in zip(calm, sick, strict=True):
        np.testing.assert_array_equal(after[segment == 1], before[segment == 1])
        assert np.isnan(after[segment == 2]).all()


@pytest.mark.parametrize("sizes", MESHES)
def test_the_program_passes_shards_on_and_gathers_nothing(sizes):
    text = program(sizes)[1].as_text()
    assert {r.kind for r in gathered(text)} == {"collective-permute"}
    sizes = MESHES[sizes]
    shard = math.ceil(N / sizes.context / 64) * 64  # in blocks of 64 tokens
    most = R // sizes.data * shard * (A // sizes.tensor) * E
    assert max(r.size for r in results(text) if r.dims[-1:] == (E,)) == most


def test_the_plan_names_the_ring_and_text_stays_whole():
    ids = jnp.asarray(SEGMENTS)
    with jax.set_mesh(build_mesh(MESHES["1,8,1"])):
        plan = plan_attention(ids, ids, implementation="ring_blocks")
        across = plan_attention(ids, ids, implementation="ring_blocks", k_axis=None)
    assert plan.exchange == RING and across.exchange != RING
