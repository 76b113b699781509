"""A row's tokens split over devices: attention equals that of whole rows on one device."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vidsim.core.errors import BadInput
from vidsim.nn.attention import attend, plan_attention
from vidsim.parallel.mesh import MeshConfig, build_mesh

R, N, M, A, E = 2, 512, 48, 8, 8
# The same sums in another order of heads, not of tokens: a rounding or two.
TOLERANCE = 2e-6
# Clips lie across the borders of shards (128 or 256 tokens); one row has a padding tail.
SEGMENTS = np.stack(
    [np.repeat([1, 2, 3, 4], [100, 200, 1, 211]), np.repeat([1, 2, 0], [3, 480, 29])]
)
WORDS = np.stack([np.repeat([1, 2, 3, 4], [10, 20, 1, 17]), np.repeat([1, 2, 0], [1, 40, 7])])


def arrays(across):
    """q, k, v, d_out, q_segment, k_segment."""
    rng = np.random.default_rng(0)
    m = M if across else N
    q, d_out = rng.normal(size=(2, R, N, A, E)).astype(np.float32)
    k, v = rng.normal(size=(2, R, m, A, E)).astype(np.float32)
    segment = SEGMENTS.astype(np.int32)
    return q, k, v, d_out, segment, WORDS.astype(np.int32) if across else segment


def value_and_gradients(implementation, across, q, k, v, d_out, q_segment, k_segment):
    how = dict(implementation=implementation, k_axis=None if across else "tokens")
    run = lambda *qkv: attend(*qkv, q_segment, k_segment, **how)  # noqa: E731
    out, pull = jax.vjp(run, q, k, v)
    return out, *pull(d_out)


@functools.cache
def on_one_device(across):
    run = functools.partial(value_and_gradients, "cpu_blocks", across)
    return jax.tree.map(np.asarray, jax.jit(run)(*arrays(across)))


def on_mesh(mesh, implementation, across):
    """Results and the compiled text of one program over the mesh."""
    split, rows = P(("data", "fsdp"), "context", "tensor"), P(("data", "fsdp"))
    k_spec = P(("data", "fsdp"), None, "tensor") if across else split
    specs = (split, k_spec, k_spec, split, rows, rows)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, s) for x, s in zip(arrays(across), specs, strict=True)]
        run = functools.partial(value_and_gradients, implementation, across)
        compiled = (
            jax.jit(run, out_shardings=(split, split, k_spec, k_spec)).lower(*placed).compile()
        )
        return compiled(*placed), compiled.as_text()


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 4, 2), (1, 8, 1)], ids=str)
def test_tokens_over_context_give_what_one_device_gives(sizes, across):
    mesh = build_mesh(MeshConfig(data=sizes[0], context=sizes[1], tensor=sizes[2]))
    got, program = on_mesh(mesh, "cpu_blocks", across)
    for ours, whole in zip(got, on_one_device(across), strict=True):
        np.testing.assert_allclose(ours, whole, atol=TOLERANCE, rtol=0)
    # self: tokens change for heads and back; text keys: nothing moves but the sum of dk and dv
    assert ("all-to-all" in program) == (not across)
    assert "all-gather" not in program


@pytest.mark.slow
@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_the_tpu_kernel_over_context_gives_what_one_device_gives(across):
    mesh = build_mesh(MeshConfig(data=2, context=4))
    got, _ = on_mesh(mesh, "tpu_splash_interpreted", across)
    for ours, whole in zip(got, on_one_device(across), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-5, rtol=0)


def test_what_does_not_divide_is_refused_by_name():
    q, k, v, _, ids, _ = arrays(False)
    attend_here = functools.partial(attend, implementation="cpu_blocks")
    with jax.set_mesh(build_mesh(MeshConfig(data=1, context=8))):
        named = "4 heads over tensor x context = 8 devices.*'ring_blocks'"
        with pytest.raises(BadInput, match=named):
            jax.jit(attend_here)(q[:, :, :4], k[:, :, :4], v[:, :, :4], ids, ids)
        with pytest.raises(BadInput, match="'tokens' of size 500 over 8 devices"):
            short = [x[:, :500] for x in (q, k, v, ids, ids)]
            jax.jit(attend_here)(*short)
        with pytest.raises(BadInput, match="keys are split over tokens and queries are not"):
            plan_attention(ids, ids, implementation="cpu_blocks", q_axis=None)
