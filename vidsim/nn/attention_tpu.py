"""Packed rows on TPU: block-sparse splash attention whose tables are built at run time.

The stock kernel takes from its tables which tile to load and whether to compute it; segment ids
alone make it compute every tile. Here the tables follow from the segment ids on the device, so that
forward, dq and dkv compute the tiles that share a segment and no others. Rows lie one after another
in one sequence of blocks; a table has a line a block and as many entries as a line can have live
tiles, so `longest` (the most tokens of a segment) keeps it narrow.

Proved under Pallas interpretation on CPU and compiled ahead of time for v5e, v5p and v6e
(`tests/nn/test_attention_tpu.py`); not yet timed on a chip.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vidsim.core.errors import bad
from vidsim.nn.attention_cpu import PAD_KEY, SAVED, live_pairs

BLOCK = 1024  # tokens of a tile's side; 512 loses a third of the speed (compiled for v5e to v6e)
COMPUTE = 512  # keys that are multiplied at once
LANES = 128  # blocks are multiples of it
# Scalar memory is 1 MiB; an entry takes 2 bytes for the tile and 1 for whether it is computed.
TABLE_ENTRIES = 300_000
MOST_BLOCKS = 2**15 - 1  # a tile's number has 16 bits


class SplashTables(NamedTuple):
    """What the kernel needs of the segments; n and m are blocks of queries and keys a row.

    q_ids, k_ids    i32[R, n, block] segment ids, padding replaced by an id that meets nothing
    q_met           bool[R, N] the query has a key
    cut             bool[R] the tables are too narrow for the row
    k_next          i32[R, n, W] key block to load in each step of a query block, inside the row
    k_live          i8[R, n, W] whether the step computes
    k_live_forward  the same with one tile for lines that have none, so that no softmax is empty
    q_next, q_live  i32 and i8[R, m, V] the other way round
    """

    q_ids: jax.Array
    k_ids: jax.Array
    q_met: jax.Array
    cut: jax.Array
    k_next: jax.Array
    k_live: jax.Array
    k_live_forward: jax.Array
    q_next: jax.Array
    q_live: jax.Array


def block_for(tokens: int, most: int = BLOCK) -> int:
    """Side of a tile: the fewest blocks of at most `most` tokens, cut evenly in whole lanes."""
    return LANES * math.ceil(tokens / math.ceil(tokens / most) / LANES)


def splash_tables(
    q_segment_RN: jax.Array,
    k_segment_RM: jax.Array,
    longest: int | None = None,
    most: int = BLOCK,
) -> SplashTables:
    """Tables of one step.

    q_segment_RN, k_segment_RM  ascending ids from 1 in row order, 0 only at the end
    longest                     most tokens of a segment, where queries and keys are the same
                                tokens; None: as many as the row has. A row with a longer one that
                                the tables cannot hold gives NaN: `attention.refuse_bad_rows` tells
                                before.
    most                        upper limit of a tile's side
    Raises                      BadInput when the tables exceed the scalar memory
    """
    rows, n = q_segment_RN.shape
    block_q, block_k = block_for(n, most), block_for(k_segment_RM.shape[1], most)
    pairs = live_pairs(q_segment_RN, k_segment_RM, block_q, block_k)
    q_count, k_count = pairs.q_segment.shape[1], pairs.k_segment.shape[1]
    wide, tall = (_width(count, block_q, longest) for count in (k_count, q_count))
    k_next, k_live = _line(pairs.k_range, wide)
    q_next, q_live = _line(pairs.q_range, tall)
    never = ~k_live.any(-1, keepdims=True) & (jnp.arange(wide) == 0)[None, None]
    bits = lambda x: x.astype(jnp.int8)  # noqa: E731
    reach = [(x[..., 1] - x[..., 0]).max(-1) for x in (pairs.k_range, pairs.q_range)]
    cut = (reach[0] > wide) | (reach[1] > tall)
    q_met = _met(q_segment_RN, k_segment_RM)
    tables = SplashTables(
        pairs.q_segment, pairs.k_segment, q_met, cut, k_next, bits(k_live),
        bits(k_live | never), q_next, bits(q_live),
    )  # fmt: skip
    return jax.lax.optimization_barrier(tables)  # fused with their use, libtpu 0.0.42 aborts on v5e


def _met(here_RN: jax.Array, there_RM: jax.Array) -> jax.Array:
    """Whether a token's segment occurs on the other side, whose ids ascend."""
    ids_RM = jnp.where(there_RM == 0, PAD_KEY, there_RM)
    at_RN = jax.vmap(jnp.searchsorted)(ids_RM, here_RN)
    found_RN = jnp.take_along_axis(ids_RM, jnp.minimum(at_RN, ids_RM.shape[1] - 1), 1)
    return (found_RN == here_RN) & (here_RN > 0)


def _width(count: int, block: int, longest: int | None) -> int:
    """Most of `count` blocks that one block can meet.

    A block meets what reaches from `longest` - 1 tokens before it to as many behind it.
    """
    if longest is None:
        return count
    return min(count, math.ceil((block + 2 * (longest - 1) - 1) / block) + 1)


def _line(span: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Spans [R, n, 2] as steps: index i32[R, n, width] and live bool[R, n, width].

    Steps behind the span point at its last block, which is loaded already.
    """
    first, end = span[..., :1], span[..., 1:]
    index = first + jnp.arange(width, dtype=jnp.int32)[None, None]
    return jnp.minimum(index, jnp.maximum(end - 1, first)), index < end


def grid_steps(tables: SplashTables) -> dict[str, tuple[int, int]]:
    """(tiles computed, steps of the grid) a head in forward, dq and dkv; for concrete tables."""
    parts = {"forward": tables.k_live_forward, "dq": tables.k_live, "dkv": tables.q_live}
    return {name: (int(live.sum()), live.size) for name, live in parts.items()}


def attend_splash(
    q_RNAE: jax.Array,
    k_RMAE: jax.Array,
    v_RMAE: jax.Array,
    tables: SplashTables,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k / sqrt(E)) v within segments; zeros where a query has no key, NaN where the
    tables are too narrow. Returns RNAE.

    interpret  runs the kernel's program in XLA instead of compiling it: for tests on other devices
    Raises     BadInput when the tables of this device's rows exceed the scalar memory
    """
    rows, n, heads, width = q_RNAE.shape
    scale = jnp.float32(width**-0.5)
    q_RNAE = (q_RNAE.astype(jnp.float32) * scale).astype(q_RNAE.dtype)
    q, k, v = (
        _lay(x, ids)
        for x, ids in ((q_RNAE, tables.q_ids), (k_RMAE, tables.k_ids), (v_RMAE, tables.k_ids))
    )
    out = _kernel(tables, interpret)(q, k, v, _segment_ids(tables))
    out = out.reshape(heads, rows, -1, width)[:, :, :n].transpose(1, 2, 0, 3)
    out = jnp.where(tables.q_met[..., None, None], out, 0)
    return jnp.where(tables.cut[:, None, None, None], jnp.nan, out)


def _lay(x_RNAE: jax.Array, ids: jax.Array) -> jax.Array:
    """[R, N, A, E] -> [A, R * blocks * block, E], zero padded."""
    rows, n, heads, width = x_RNAE.shape
    x = jnp.pad(x_RNAE, ((0, 0), (0, ids[0].size - n), (0, 0), (0, 0)))
    return x.transpose(2, 0, 1, 3).reshape(heads, -1, width)


def _segment_ids(tables: SplashTables) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    return splash.SegmentIds(tables.q_ids.reshape(-1), tables.k_ids.reshape(-1))


def _kernel(tables: SplashTables, interpret: bool) -> Any:
    """The stock kernel with these tables."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    block_q, block_k = tables.q_ids.shape[2], tables.k_ids.shape[2]
    compute = next(c for c in range(COMPUTE, 0, -LANES) if block_k % c == 0)
    sizes = splash.BlockSizes(
        block_q=block_q, block_kv=block_k, block_kv_compute=compute,
        block_q_dkv=block_q, block_kv_dkv=block_k, block_kv_dkv_compute=compute,
        block_q_dq=block_q, block_kv_dq=block_k,
    )  # fmt: skip
    count_q, count_k = tables.q_ids.shape[1], tables.k_ids.shape[1]
    forward = _mask(tables.k_next, tables.k_live_forward, count_k, by_key=False)
    dq = _mask(tables.k_next, tables.k_live, count_k, by_key=False)
    dkv = _mask(tables.q_next, tables.q_live, count_q, by_key=True)
    return splash.SplashAttentionKernel(
        forward, dq, dkv, block_sizes=sizes, is_mqa=False, save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE, attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED, mask_function=None, interpret=interpret,
    )  # fmt: skip


def _mask(next_block: jax.Array, live: jax.Array, count: int, by_key: bool) -> Any:
    """The kernel's form of a table: blocks counted over all rows of this device."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as info

    rows, blocks, _ = next_block.shape
    if next_block.size > TABLE_ENTRIES or rows * max(count, blocks) > MOST_BLOCKS:
        raise bad(
            "tpu_splash",
            f"a table of {next_block.size:,} tiles for {rows} rows on one device",
            f"at most {TABLE_ENTRIES:,} tiles and {MOST_BLOCKS:,} blocks",
            "split rows over more devices, state the longest clip, or split tokens over the mesh "
            "axis context and attend by 'ring_blocks'",
        )
    next_block = next_block + count * jnp.arange(rows, dtype=jnp.int32)[:, None, None]
    pair = [x.reshape(1, -1, x.shape[-1]) for x in (next_block.astype(jnp.int16), live)]
    if by_key:
        pair = [x.swapaxes(1, 2) for x in pair]
    return info.MaskInfo(pair[0], None, pair[1], None, None, True)
