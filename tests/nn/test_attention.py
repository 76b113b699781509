"""Packed attention against each clip alone in float64, its cost, its indifference to neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.reference.attention_numpy import attend_packed
from vidsim.core.errors import BadInput
from vidsim.nn import attention
from vidsim.nn.attention_cpu import attend_blocks, live_pairs

R, N, M, A, E, BLOCK = 2, 24, 20, 2, 4, 8
# float32 against float64 at logits of order 1: a few roundings of sums over tens of terms
TOLERANCE = 3e-6


def blocks_of_8(q, k, v, q_segment, k_segment):
    """The blockwise implementation with several blocks in rows this short."""
    return attend_blocks(q, k, v, live_pairs(q_segment, k_segment, BLOCK, BLOCK))


IMPLEMENTATIONS = {
    "dense": functools.partial(attention.attend, implementation="dense"),
    "cpu_blocks": blocks_of_8,
}


@functools.cache
def value_and_gradients(name, dtype=jnp.float32):
    """jit of (q, k, v, d_out, segments) -> out, dq, dk, dv."""

    def run(q, k, v, d_out, q_segment, k_segment):
        attend = lambda *qkv: IMPLEMENTATIONS[name](*qkv, q_segment, k_segment)  # noqa: E731
        out, pull = jax.vjp(attend, q.astype(dtype), k.astype(dtype), v.astype(dtype))
        return out, *pull(d_out.astype(dtype))

    return jax.jit(run)


def random_segments(rng, capacities, count):
    """Lengths for each of the capacities, `count` segments at most, in row order, padding last."""
    rows = [np.zeros(c, np.int32) for c in capacities]
    used = [0] * len(capacities)
    for s in range(1, count + 1):
        lengths = [int(rng.integers(1, max(2, c // 2))) for c in capacities]
        if any(u + n > c for u, n, c in zip(used, lengths, capacities, strict=True)):
            break
        for i, n in enumerate(lengths):
            rows[i][used[i] : used[i] + n] = s
            used[i] += n
    return rows


def random_row(rng, across):
    q_segment, k_segment = random_segments(rng, (N, M), int(rng.integers(0, 7)))
    if not across:
        k_segment = q_segment
    q, d_out = rng.normal(size=(2, N, A, E)).astype(np.float32)
    k, v = rng.normal(size=(2, len(k_segment), A, E)).astype(np.float32)
    return q, k, v, d_out, q_segment, k_segment


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_200_packings_give_each_clip_what_it_gives_alone(name, across):
    rng = np.random.default_rng(7 + across)
    for _ in range(100):
        rows = [random_row(rng, across) for _ in range(R)]
        got = value_and_gradients(name)(*(np.stack(x) for x in zip(*rows, strict=True)))
        for r, row in enumerate(rows):
            for ours, exact in zip(got, attend_packed(*row), strict=True):
                np.testing.assert_allclose(ours[r], exact, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_padding_gives_zeros_and_takes_no_gradient(name):
    rng = np.random.default_rng(0)
    rows = [random_row(rng, True) for _ in range(R)]
    q, k, v, d_out, q_segment, k_segment = (np.stack(x) for x in zip(*rows, strict=True))
    q_segment[1], k_segment[1] = 0, 0  # a row without a clip
    out, dq, dk, dv = value_and_gradients(name)(q, k, v, d_out, q_segment, k_segment)
    for array, ids in ((out, q_segment), (dq, q_segment), (dk, k_segment), (dv, k_segment)):
        assert np.all(np.asarray(array)[ids == 0] == 0.0)
        assert np.any(np.asarray(array)[ids > 0] != 0.0)


@pytest.mark.parametrize("dtype, poison", [(jnp.float32, 1e6), (jnp.bfloat16, 1e3)])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_neighbours_and_padding_of_any_size_change_nothing(name, dtype, poison):
    q_segment = np.repeat([1, 2, 3, 0], [7, 6, 8, 3])[None].astype(np.int32)
    k_segment = np.repeat([1, 2, 3, 0], [5, 4, 9, 2])[None].astype(np.int32)
    rng = np.random.default_rng(1)
    q, d_out = rng.normal(size=(2, 1, N, A, E)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, M, A, E)).astype(np.float32)
    run = value_and_gradients(name, dtype)
    calm = run(q, k, v, d_out, q_segment, k_segment)
    wild = []
    for x, ids in ((q, q_segment), (k, k_segment), (v, k_segment), (d_out, q_segment)):
        signs = np.where(rng.random(x.shape) < 0.5, -poison, poison).astype(np.float32)
        wild.append(np.where((ids == 2)[..., None, None], x, signs))
    stirred = run(*wild, q_segment, k_segment)
    for before, after, ids in zip(
        calm, stirred, (q_segment, q_segment, k_segment, k_segment), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(after)[ids == 2], np.asarray(before)[ids == 2])


def test_bfloat16_blocks_stay_close_to_float32():
    rng = np.random.default_rng(2)
    rows = [random_row(rng, True) for _ in range(R)]
    batch = [np.stack(x) for x in zip(*rows, strict=True)]
    exact = value_and_gradients("cpu_blocks")(*batch)
    rounded = value_and_gradients("cpu_blocks", jnp.bfloat16)(*batch)
    for a, b in zip(exact, rounded, strict=True):
        # operands carry 8 bits: 2^-8 relative to the largest of a few terms
        np.testing.assert_allclose(np.float32(b), a, atol=0.03 * float(jnp.abs(a).max()), rtol=0)


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_visits_few_tiles_beyond_those_that_share_a_segment(across):
    rng = np.random.default_rng(3)
    n, m, visited, live = 512, 384 if across else 512, {"k": 0, "q": 0}, 0
    for _ in range(50):
        q_ids, k_ids = random_segments(rng, (n // 4, m // 4), 30)
        q_ids, k_ids = np.repeat(q_ids, 4)[:n], np.repeat(k_ids, 4)[:m]
        k_ids = k_ids if across else q_ids
        pairs = live_pairs(jnp.asarray(q_ids)[None], jnp.asarray(k_ids)[None], 32, 32)
        visited["k"] += int(np.diff(pairs.k_range).sum())
        visited["q"] += int(np.diff(pairs.q_range).sum())
        same = (q_ids[:, None] == k_ids[None]) & (q_ids > 0)[:, None]
        live += int(same.reshape(n // 32, 32, m // 32, 32).any((1, 3)).sum())
    assert live <= visited["k"] <= 1.3 * live  # forward
    assert live <= visited["q"] <= 1.3 * live  # backward


def test_ids_out_of_order_are_exact_too():
    rng = np.random.default_rng(4)
    q, k, v, d_out, q_segment, k_segment = random_row(rng, True)
    q_segment = rng.permutation(np.repeat([0, 1, 2, 3], 6)).astype(np.int32)
    k_segment = rng.permutation(np.repeat([0, 1, 2, 3], 5)).astype(np.int32)
    row = (q, k, v, d_out, q_segment, k_segment)
    got = value_and_gradients("cpu_blocks")(*(x[None] for x in row))
    for ours, exact in zip(got, attend_packed(*row), strict=True):
        np.testing.assert_allclose(ours[0], exact, atol=TOLERANCE, rtol=0)


def test_memory_of_blocks_grows_with_tokens_not_with_their_square():
    def temporary(name, n):
        x = jax.ShapeDtypeStruct((1, n, 1, 8), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, n), jnp.int32)
        attend = functools.partial(attention.attend, implementation=name)
        run = jax.jit(jax.grad(lambda q, k, v, s: attend(q, k, v, s, s).sum(), argnums=(0, 1, 2)))
        return run.lower(x, x, x, ids).compile().memory_analysis().temp_size_in_bytes

    assert temporary("cpu_blocks", 32768) < 4.5 * temporary("cpu_blocks", 8192)
    assert temporary("dense", 8192) > 10 * temporary("cpu_blocks", 8192)


def test_auto_is_named_by_platform_and_shape():
    assert attention.implementation_for("cpu") == "cpu_blocks"
    assert attention.implementation_for("cpu", 64, 64) == "dense"
    assert attention.current_platform() == "cpu"
    assert attention.implementation_for("tpu", 64, 64) == "tpu_splash"
    assert attention.implementation_for("cuda", 64, 64) == "gpu_flash"
    with pytest.raises(BadInput, match="attention: no implementation for platform 'quantum'"):
        attention.implementation_for("quantum")
    ids = jnp.ones((1, 4), jnp.int32)
    assert attention.plan_attention(ids, ids, platform="tpu").implementation == "tpu_splash"
    with pytest.raises(BadInput, match="'tpu_splash' on platform 'cpu'; tpu_splash runs on tpu"):
        attention.plan_attention(ids, ids, implementation="tpu_splash")
    assert attention.plan_attention(ids, ids).implementation == "dense"
    with pytest.raises(BadInput, match="attention: implementation 'cpu_block'.*cpu_blocks"):
        attention.plan_attention(ids, ids, implementation="cpu_block")


@pytest.mark.parametrize(
    "row, longest, message",
    [
        ([1, 1, 3, 0], None, "id 3 follows 1 in row 1 at token 2"),
        ([1, 0, 2, 0], None, "id 2 follows 0 in row 1 at token 2"),
        ([1, 2, 1, 0], None, "id 1 follows 2 in row 1 at token 2"),
        ([2, 2, 0, 0], None, "id 2 follows 0 in row 1 at token 0"),
        ([1, 2, 2, 2], 2, "a clip of 3 tokens in row 1; at most 2"),
    ],
)
def test_rows_that_kernels_would_get_wrong_are_refused_on_the_host(row, longest, message):
    fine = [1, 1, 2, 0]
    attention.refuse_bad_rows(np.array([fine, [0, 0, 0, 0], [1, 2, 3, 4]]), 2)
    with pytest.raises(BadInput, match=message):
        attention.refuse_bad_rows(np.array([fine, row]), longest)


def mesh_of_eight():
    shape, names = (2, 2, 1, 2), ("data", "fsdp", "context", "tensor")
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 4)


def test_a_mesh_changes_nothing_and_gathers_no_rows():
    rng = np.random.default_rng(5)
    rows = [random_row(rng, False) for _ in range(4)]
    q, k, v, d_out, segment, _ = (np.stack(x) for x in zip(*rows, strict=True))
    alone = value_and_gradients("cpu_blocks")(q, k, v, d_out, segment, segment)

    def run(q, k, v, d_out, segment):
        attend = functools.partial(attention.attend, implementation="cpu_blocks")
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, segment, segment), q, k, v)
        return out, *pull(d_out)

    with jax.set_mesh(mesh_of_eight()):
        spread = jax.P(("data", "fsdp"), None, "tensor")
        place = lambda x: jax.device_put(x, spread)  # noqa: E731
        ids = jax.device_put(segment, jax.P(("data", "fsdp")))
        compiled = jax.jit(run).lower(*map(place, (q, k, v, d_out)), ids).compile()
        together = compiled(*map(place, (q, k, v, d_out)), ids)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=0)
    assert "all-gather" not in compiled.as_text()


def test_rows_that_the_mesh_does_not_divide_are_refused():
    x, ids = jnp.zeros((3, N, A, E)), jnp.ones((3, N), jnp.int32)
    with jax.set_mesh(mesh_of_eight()), pytest.raises(BadInput, match="'rows' of size 3 over 4"):
        jax.jit(functools.partial(attention.attend, implementation="cpu_blocks"))(x, x, x, ids, ids)
