"""The TPU kernel under Pallas interpretation, against each clip alone in float64; compiled ahead of
time for TPUs that are not here."""

import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference.attention_numpy import attend_packed
from vidsim.core.errors import BadInput
from vidsim.nn import attention
from vidsim.nn.attention_tpu import attend_splash, block_for, grid_steps, splash_tables

R, N, M, A, E, BLOCK, LONGEST = 2, 500, 230, 2, 16, 128, 250
# float32 against float64 at logits of order 1; sums of up to 250 terms
TOLERANCE = 1e-5


@functools.cache
def kernel(across, dtype=jnp.float32):
    """jit of (q, k, v, d_out, segments) -> out, dq, dk, dv through the interpreted kernel."""

    def run(q, k, v, d_out, q_segment, k_segment):
        tables = splash_tables(q_segment, k_segment, None if across else LONGEST, BLOCK)
        attend = lambda *qkv: attend_splash(*qkv, tables, interpret=True)  # noqa: E731
        out, pull = jax.vjp(attend, q.astype(dtype), k.astype(dtype), v.astype(dtype))
        return out, *pull(d_out.astype(dtype))

    return jax.jit(run)


def random_segments(rng, across, n=N, m=M, longest=LONGEST):
    """Clips of 1 token to the longest, in row order; with `across` text of 1 to 80 tokens each."""
    q_segment, k_segment, at, text_at = np.zeros(n, np.int32), np.zeros(m, np.int32), 0, 0
    clips = rng.integers(0, 9)
    for s in range(1, clips + 1):
        length = int(rng.choice([1, longest, rng.integers(1, longest + 1), rng.integers(1, 20)]))
        words = int(rng.integers(1, 80)) if across else 0
        if at + length > n or text_at + words > m:
            break
        q_segment[at : at + length], k_segment[text_at : text_at + words] = s, s
        at, text_at = at + length, text_at + words
    return q_segment, k_segment if across else q_segment


def random_batch(rng, across):
    """q, k, v, d_out, q_segment, k_segment of R rows."""
    segments = [random_segments(rng, across) for _ in range(R)]
    q_segment, k_segment = (np.stack(x) for x in zip(*segments, strict=True))
    q, d_out = rng.normal(size=(2, R, N, A, E)).astype(np.float32)
    k, v = rng.normal(size=(2, R, k_segment.shape[1], A, E)).astype(np.float32)
    return q, k, v, d_out, q_segment, k_segment


def check_against_clips_alone(across, packings, seed):
    rng = np.random.default_rng(seed)
    for _ in range(packings // R):
        batch = random_batch(rng, across)
        got = kernel(across)(*batch)
        for r in range(R):
            exact = attend_packed(*(x[r] for x in batch))
            for ours, theirs in zip(got, exact, strict=True):
                np.testing.assert_allclose(ours[r], theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_packings_give_each_clip_what_it_gives_alone(across):
    check_against_clips_alone(across, 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_200_packings_give_each_clip_what_it_gives_alone(across):
    check_against_clips_alone(across, 200, 2)


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_neighbours_and_padding_of_any_size_change_nothing(across):
    rng = np.random.default_rng(3)
    q, k, v, d_out, *_ = random_batch(rng, across)
    rows = lambda lengths, n: np.repeat(range(4), [n - sum(lengths), *lengths])  # noqa: E731
    order = lambda ids: np.concatenate([ids[ids > 0], ids[ids == 0]])  # noqa: E731
    q_segment = np.stack([order(rows(x, N)) for x in ([120, 129, 201], [1, 140, 249])])
    k_segment = q_segment
    if across:
        k_segment = np.stack([order(rows(x, M)) for x in ([60, 70, 80], [1, 2, 220])])
    q_segment, k_segment = q_segment.astype(np.int32), k_segment.astype(np.int32)
    calm = kernel(across)(q, k, v, d_out, q_segment, k_segment)
    wild = []
    for x, ids in ((q, q_segment), (k, k_segment), (v, k_segment), (d_out, q_segment)):
        signs = np.where(rng.random(x.shape) < 0.5, -1e6, 1e6).astype(np.float32)
        wild.append(np.where((ids == 2)[..., None, None], x, signs))
    stirred = kernel(across)(*wild, q_segment, k_segment)
    sides = (q_segment, q_segment, k_segment, k_segment)
    for before, after, ids in zip(calm, stirred, sides, strict=True):
        np.testing.assert_array_equal(np.asarray(after)[ids == 2], np.asarray(before)[ids == 2])
        assert np.all(np.asarray(after)[ids == 0] == 0.0)


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_computes_few_tiles_beyond_those_that_share_a_segment(across, capsys):
    """Rows of 8,192 tokens in tiles of 512; lengths are random and meet no border."""
    n, m, block, longest = 8192, 2048, 512, 3000
    rng, fewest, done = np.random.default_rng(4), 0, dict.fromkeys(("forward", "dq", "dkv"), 0)
    for _ in range(8):
        q_ids, k_ids = random_segments(rng, across, n, m, longest)
        limit = None if across else longest
        tables = splash_tables(jnp.asarray(q_ids)[None], jnp.asarray(k_ids)[None], limit, block)
        same = (q_ids[:, None] == k_ids[None]) & (q_ids > 0)[:, None]
        fewest += int(same.reshape(n // block, block, -1, block).any((1, 3)).sum())
        for part, (tiles, _) in grid_steps(tables).items():
            done[part] += tiles
        # every block of queries runs once at least, so that its softmax is not empty
        done["forward"] -= int((~same.reshape(n // block, block, -1).any((1, 2))).sum())
    with capsys.disabled():
        print(
            f"\n{'cross' if across else 'self'}: tiles that share a segment {fewest}, computed",
            done,
        )
    assert fewest > 0
    assert all(fewest <= tiles <= 1.3 * fewest for tiles in done.values())


def test_a_table_is_as_wide_as_the_longest_clip_can_reach():
    """One clip of the stated length at the worst place: its last block still lies in the table."""
    for longest in (1, 129, 250):
        for start in (0, 127):
            ids = np.repeat([1, 2, 3], [start, longest, 1200 - start - longest])
            ids[ids == 3] += np.arange((ids == 3).sum())  # clips of one token
            ids = jnp.asarray(ids[None], jnp.int32)
            narrow, wide = (splash_tables(ids, ids, x, BLOCK) for x in (longest, None))
            assert grid_steps(narrow)["dq"][0] == grid_steps(wide)["dq"][0]
            assert grid_steps(narrow)["dkv"][0] == grid_steps(wide)["dkv"][0]
            assert narrow.k_next.shape[2] < wide.k_next.shape[2]


def test_a_clip_longer_than_the_tables_were_told_gives_no_numbers():
    """On the host `refuse_bad_rows` says so in words; on the device the row cannot go unnoticed."""
    ids = jnp.asarray(np.repeat([[1] * 512, range(1, 513)], 1, axis=0), jnp.int32)
    x = jnp.ones((2, 512, 1, 8))
    tables = splash_tables(ids, ids, 2, BLOCK)
    out = attend_splash(x, x, x, tables, interpret=True)
    assert np.all(np.isnan(out[0])) and np.all(np.asarray(out[1]) == 1.0)


def test_blocks_are_whole_lanes_and_pad_little():
    assert [block_for(n) for n in (1, 128, 1000, 1024, 1100, 8192)] == [
        128, 128, 1024, 1024, 640, 1024,
    ]  # fmt: skip
    assert all(-n % block_for(n) < 128 * -(-n // 1024) for n in range(1, 9000, 37))


def test_tables_beyond_scalar_memory_are_refused_before_compiling():
    x = jax.ShapeDtypeStruct((1, 2**20, 1, 128), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, 2**20), jnp.int32)

    def run(longest):
        how = dict(implementation="tpu_splash", platform="tpu", longest=longest)
        return jax.eval_shape(lambda x, s: attention.attend(x, x, x, s, s, **how), x, ids)

    assert run(16384).shape == x.shape
    with pytest.raises(BadInput, match="tpu_splash: a table of 1,048,576 tiles.*context"):
        run(None)


AHEAD = """
import sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P
from vidsim.nn.attention import attend_planned, plan_attention
from vidsim.parallel.mesh import MeshConfig, build_mesh

name, tokens, text = sys.argv[1], int(sys.argv[2]), 4096
devices = topologies.get_topology_desc(topology_name=name, platform="tpu").devices
mesh = build_mesh(MeshConfig(), devices)

def step(q, k, v, d_out, text_k, text_v, segment, text_segment):
    within = plan_attention(segment, segment, longest=min(tokens, 16384))
    across = plan_attention(segment, text_segment)
    assert {within.implementation, across.implementation} == {"tpu_splash"}, within.implementation
    attend = lambda q, k, v, c, d: attend_planned(attend_planned(q, k, v, within), c, d, across)
    return jax.vjp(attend, q, k, v, text_k, text_v)[1](d_out)

def struct(*shape, dtype=jnp.bfloat16):
    place = NamedSharding(mesh, P(("data", "fsdp")))
    return jax.ShapeDtypeStruct((len(devices), *shape), dtype, sharding=place)

x, y = struct(tokens, 8, 128), struct(text, 8, 128)
ids = struct(tokens, dtype=jnp.int32), struct(text, dtype=jnp.int32)
with jax.set_mesh(mesh):
    text = jax.jit(step).lower(x, x, x, x, y, y, *ids).compile().as_text()
print("kernels", text.count('custom_call_target="tpu_custom_call"'))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [8192, 32768, 131072])
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_ahead_of_time_for_chips_that_are_not_here(name, tokens):
    """Forward and backward, self and cross: three kernels each."""
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        pytest.skip("libtpu is not installed (extra: tpu)")
    env = dict(
        os.environ, JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", AHEAD, name, str(tokens)],
        capture_output=True, text=True, timeout=1200, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["kernels", "6"]
