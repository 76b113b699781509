"""What one process reads of a step, and how the parts of all processes become one batch.

A process needs the rows, and of these the tokens, that its devices hold. Both come from the
sharding of the batch, never from the number of the process: where `context` or `tensor` reaches
over several hosts, two processes read the same row.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidsim.core.errors import bad
from vidsim.parallel.place import batch_letters, batch_sharding, replicated


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every step that one process reads.

    rows        i64, ascending: rows of the step
    tokens      of each of these rows
    num_rows    rows of the whole step
    num_tokens  patch tokens of a whole row; 0 for batches without
    """

    rows: np.ndarray
    tokens: slice
    num_rows: int
    num_tokens: int

    @property
    def whole(self) -> bool:
        """True when the process reads everything."""
        return len(self.rows) == self.num_rows and self.all_tokens

    @property
    def all_tokens(self) -> bool:
        """True when the process reads all tokens of its rows."""
        return self.tokens == slice(0, self.num_tokens)


def share_of(
    mesh: Mesh,
    num_rows: int,
    num_tokens: int,
    micro_steps: int = 1,
    devices: Iterable[jax.Device] | None = None,
) -> Share:
    """What the holder of `devices` (by default those of this process) reads.

    num_rows, num_tokens, micro_steps   of an optimizer step
    Raises  BadInput when micro-steps or the mesh do not divide the rows or the tokens
    """
    if num_rows % micro_steps:
        raise bad("batch", f"{num_rows} rows in {micro_steps} micro-steps", "a multiple",
                  "change plan.rows_per_step or run.micro_steps")  # fmt: skip
    shape = (num_rows // micro_steps, max(num_tokens, 1), 1)
    if num_tokens:
        sharding = batch_sharding(mesh, "patches", shape)
    else:
        sharding = batch_sharding(mesh, "clip_key", shape)
    mine = set(jax.local_devices() if devices is None else devices)
    rows: set[int] = set()
    low, high = num_tokens, 0
    for device, index in sharding.devices_indices_map(shape).items():
        if device in mine:
            rows.update(range(*index[0].indices(shape[0])))
            start, stop, _ = index[1].indices(shape[1])
            low, high = min(low, start), max(high, stop)
    inside = np.array(sorted(rows), np.int64)
    each = np.arange(micro_steps)[:, None] * shape[0] + inside[None]
    return Share(each.reshape(-1), slice(low, high if num_tokens else 0), num_rows, num_tokens)


def place_share(
    batch: Mapping[str, Any], mesh: Mesh, share: Share, micro_steps: int
) -> dict[str, jax.Array]:
    """The batch of all processes on the mesh, micro-steps in front, from this process's part.

    batch  host arrays of `share`'s rows; patch arrays hold its tokens alone
    """
    return {
        name: _place(name, np.asarray(x), mesh, share, micro_steps) for name, x in batch.items()
    }


def _place(name: str, x: np.ndarray, mesh: Mesh, share: Share, micro_steps: int) -> jax.Array:
    if x.ndim == 0:
        return jax.make_array_from_callback((), replicated(mesh), lambda _: x)
    inside = len(share.rows) // micro_steps
    by_token = batch_letters(name).startswith("RN")
    width = share.tokens.stop - share.tokens.start
    if len(x) != len(share.rows) or (by_token and x.shape[1] != width):
        raise bad("batch", f"{name} of shape {x.shape}",
                  f"{len(share.rows)} rows of {width} tokens")  # fmt: skip
    rest = (share.num_tokens, *x.shape[2:]) if by_token else x.shape[1:]
    shape = (share.num_rows // micro_steps, *rest)
    spec = batch_sharding(mesh, name, shape).spec
    local = x.reshape(micro_steps, inside, *x.shape[1:])
    held = share.rows[:inside]

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[1].indices(shape[0])
        first = int(np.searchsorted(held, start))
        chosen: list[slice] = [index[0], slice(first, first + stop - start)]
        for axis, piece in enumerate(index[2:], 1):
            begin, end, _ = piece.indices(shape[axis])
            shift = share.tokens.start if by_token and axis == 1 else 0
            chosen.append(slice(begin - shift, end - shift))
        return local[tuple(chosen)]

    sharding = NamedSharding(mesh, PartitionSpec(None, *spec))
    return jax.make_array_from_callback((micro_steps, *shape), sharding, part)
