"""The epoch plan: which pieces share a row and which rows share a step, from numbers alone.

Two stages, both pure functions of (pieces, config, seed, epoch):

windows  a keyed permutation of the pieces is cut into windows; each is packed alone into rows
pools    the epoch's rows, in window order, are cut into pools; the rows of a pool are sorted by
         cost and cut into groups of rows of nearly equal cost; groups drawn at random make a step

So the devices that work on one group wait little for each other, and step s needs only the windows
under its pool. Hosts and workers appear nowhere: each takes its share of a step's rows.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import generator, hash_u64, stable_hash
from vidsim.data.packing import RowLimits, pack_window

_KEPT = 64  # windows, and pools, held in memory
TextTokens = np.ndarray | Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PlanConfig:
    """How rows and steps are made.

    row_tokens, row_text, row_segments   capacities of a row: patch tokens, text tokens, clips
    rows_per_step   rows of an optimiser step
    group_rows      rows of equal cost: the devices that wait for each other; divides rows_per_step
    pool_rows       rows from which groups are made, at least; more = more equal groups
    window_clips    pieces packed together
    cost_width      d of the cost 24 d^2 s + 4 d s^2 of a clip of s tokens (FLOPs of a block)
    """

    row_tokens: int = 153_600
    row_text: int = 4_096
    row_segments: int = 64
    rows_per_step: int = 128
    group_rows: int = 32
    pool_rows: int = 2_048
    window_clips: int = 32_768
    cost_width: int = 3_072

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise bad("plan", f"{name} {value}", "at least 1")
        if self.rows_per_step % self.group_rows:
            raise bad(
                "plan",
                f"group_rows {self.group_rows} does not divide rows_per_step {self.rows_per_step}",
                "a divisor of rows_per_step, usually the number of devices",
            )

    @property
    def limits(self) -> RowLimits:
        """The three capacities of a row."""
        return RowLimits(self.row_tokens, self.row_text, self.row_segments)

    @property
    def groups_per_step(self) -> int:
        """K groups of `group_rows` rows make a step."""
        return self.rows_per_step // self.group_rows


@dataclass(frozen=True)
class Rows:
    """Rows as lists of pieces: row r holds piece[offset[r]:offset[r + 1]], in segment order."""

    offset: np.ndarray
    piece: np.ndarray

    def __len__(self) -> int:
        return len(self.offset) - 1

    def __getitem__(self, r: int) -> np.ndarray:
        return self.piece[self.offset[r] : self.offset[r + 1]]

    def take(self, rows: np.ndarray) -> "Rows":
        """The rows at these indices, in that order; index -1 gives an empty row."""
        start = np.where(rows >= 0, self.offset[rows], 0)
        count = np.where(rows >= 0, self.offset[rows + 1] - start, 0)
        offset = np.concatenate([[0], np.cumsum(count)])
        inside = np.arange(offset[-1]) - np.repeat(offset[:-1], count)
        return Rows(offset, self.piece[np.repeat(start, count) + inside])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over each row of `values`, one value a piece in the order of `piece`."""
        total = np.concatenate([[0], np.cumsum(values)])
        return total[self.offset[1:]] - total[self.offset[:-1]]


@dataclass(frozen=True)
class StepRows:
    """The rows of one optimiser step, group after group.

    epoch, step        epoch and step inside it
    rows               `rows_per_step` rows; trailing ones of an epoch's last step may be empty
    num_clips          pieces in all rows of the step
    num_tokens         patch tokens in all rows of the step
    """

    epoch: int
    step: int
    rows: Rows
    num_clips: int
    num_tokens: int


def row_cost(tokens: np.ndarray, width: int) -> np.ndarray:
    """Cost of clips in units of 4 d FLOPs per block: 6 d s + s^2 (from 24 d^2 s + 4 d s^2)."""
    tokens = tokens.astype(np.int64)
    return 6 * width * tokens + tokens * tokens


def shuffled(position: np.ndarray, n: int, seed: int, *names: object) -> np.ndarray:
    """Values of a keyed permutation of 0..n-1 at some positions, in memory of their number only.

    Above 65,536 entries a six-round Feistel network over the next even power of two, walked along
    its cycles until the value is below n (Black and Rogaway 2002); below, a sort of hashes.
    """
    if n <= 1 << 16:
        draw = hash_u64(seed, f"order {names}", np.arange(n))
        return np.argsort(draw, kind="stable")[position]
    half = np.uint64(((n - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = np.asarray(position).astype(np.uint64)
    outside = np.ones(len(value), bool)
    while outside.any():
        part = value[outside]
        left, right = part >> half, part & mask
        for turn in range(6):
            left, right = right, left ^ (hash_u64(seed, f"order {names} {turn}", right) & mask)
        value[outside] = left << half | right
        outside = value >= n
    return value.astype(np.int64)


class Plan:
    """Rows and steps of every epoch; any step is random access.

    tokens        i64[n] patch tokens of each piece
    text_tokens   i32[n], or a function (epoch, piece ids) -> i32 of their number, since an epoch
                  may draw another caption
    content_hash  names the pieces (and captions); with config and seed it keys the stored table
    table_dir     where row counts per window are kept; None keeps them in memory
    Raises        BadInput when a piece fits in no row
    """

    def __init__(
        self,
        tokens: np.ndarray,
        text_tokens: TextTokens,
        config: PlanConfig,
        seed: int,
        content_hash: str = "",
        table_dir: str | Path | None = None,
    ) -> None:
        if len(tokens) == 0:
            raise bad("plan", "no pieces", "at least one")
        self.tokens, self.config, self.seed = tokens, config, int(seed)
        self.text, self._table_dir = text_tokens, table_dir and Path(table_dir)
        key = stable_hash("plan", len(tokens), content_hash, sorted(asdict(config).items()), seed)
        self.hash = f"{key:016x}"
        self._bounds = _cut(len(tokens), config.window_clips)
        config.limits.check(tokens, np.ones(0, np.int64), "plan")
        self._tables: dict[int, np.ndarray] = {}
        self._forget()

    def _forget(self) -> None:
        self._windows: OrderedDict[tuple[int, int], Rows] = OrderedDict()
        self._pools: OrderedDict[tuple[int, int], Rows] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_windows", "_pools", "_lock"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def text_tokens(self, epoch: int, pieces: np.ndarray) -> np.ndarray:
        """i64 text tokens of some pieces in an epoch."""
        counts = self.text(epoch, pieces) if callable(self.text) else self.text[pieces]
        return np.asarray(counts, np.int64)

    def window(self, epoch: int, number: int) -> Rows:
        """The rows of one window, packed."""
        with self._lock:
            if (epoch, number) not in self._windows:
                _remember(self._windows, (epoch, number), self._pack(epoch, number))
            return self._windows[epoch, number]

    def _pack(self, epoch: int, number: int) -> Rows:
        position = np.arange(self._bounds[number], self._bounds[number + 1])
        piece = shuffled(position, len(self.tokens), self.seed, "epoch", epoch)
        tokens, text = self.tokens[piece].astype(np.int64), self.text_tokens(epoch, piece)
        self.config.limits.check(tokens, text, "plan")
        row, rows = pack_window(tokens, text, self.config.limits)
        count = np.bincount(row, minlength=rows)
        order = np.argsort(row, kind="stable")
        return Rows(np.concatenate([[0], np.cumsum(count)]), piece[order].astype(np.int32))

    def table(self, epoch: int) -> np.ndarray:
        """i64[windows + 1]: first row of each window of an epoch; the last entry is their number.

        Packs every window once, unless a stored table has the answer.
        """
        with self._lock:
            if epoch not in self._tables:
                path = self._table_dir and self._table_dir / f"plan-{self.hash}-epoch{epoch}.npy"
                stored = _load_table(path, len(self._bounds)) if path else None
                if stored is None:
                    counts = [len(self.window(epoch, i)) for i in range(len(self._bounds) - 1)]
                    stored = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
                    if path:
                        _store_table(path, stored)
                self._tables[epoch] = stored
            return self._tables[epoch]

    def digest(self, epoch: int) -> str:
        """16 hex digits over the plan's inputs and an epoch's table; equal on every process."""
        return f"{stable_hash(self.hash, epoch, self.table(epoch).tobytes()):016x}"

    def num_rows(self, epoch: int) -> int:
        """Rows of an epoch, without the empty ones that complete its last step."""
        return int(self.table(epoch)[-1])

    def num_steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.num_rows(epoch) // self.config.rows_per_step)

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside it) of a global step."""
        if step < 0:
            raise bad("plan", f"step {step}", "0 or more")
        epoch = 0
        while step >= self.num_steps(epoch):
            step -= self.num_steps(epoch)
            epoch += 1
        return epoch, step

    def step(self, step: int) -> StepRows:
        """The rows of a global step."""
        epoch, inside = self.locate(step)
        size = self.config.rows_per_step
        bounds = self._pool_bounds(epoch)
        pool = int(np.searchsorted(bounds, inside * size, "right")) - 1
        first = inside * size - int(bounds[pool])
        rows = self.pool(epoch, pool).take(np.arange(first, first + size))
        return StepRows(epoch, inside, rows, len(rows.piece), int(self.tokens[rows.piece].sum()))

    def pool(self, epoch: int, number: int) -> Rows:
        """The rows of one pool in step order, completed to whole steps with empty rows."""
        with self._lock:
            if (epoch, number) not in self._pools:
                low, high = (int(b) for b in self._pool_bounds(epoch)[number : number + 2])
                rows = self._rows(epoch, low, high)
                cost = rows.sums(row_cost(self.tokens[rows.piece], self.config.cost_width))
                order = _steps(cost, self.config, generator(self.seed, "steps", epoch, number))
                _remember(self._pools, (epoch, number), rows.take(order))
            return self._pools[epoch, number]

    def _pool_bounds(self, epoch: int) -> np.ndarray:
        """First row of each pool: whole steps, the last pool takes what is left."""
        size = self.config.rows_per_step
        pool = -(-self.config.pool_rows // size) * size
        rows = self.num_rows(epoch)
        return np.append(np.arange(max(1, rows // pool)) * pool, rows)

    def _rows(self, epoch: int, low: int, high: int) -> Rows:
        """Rows low..high of an epoch in window order."""
        table = self.table(epoch)
        first = int(np.searchsorted(table, low, "right")) - 1
        last = int(np.searchsorted(table, high, "left"))
        parts = []
        for number in range(first, last):
            span = np.arange(max(low, table[number]), min(high, table[number + 1]))
            parts.append(self.window(epoch, number).take(span - table[number]))
        count = np.concatenate([np.diff(part.offset) for part in parts])
        offset = np.concatenate([[0], np.cumsum(count)])
        return Rows(offset, np.concatenate([part.piece for part in parts]))


def _steps(cost: np.ndarray, config: PlanConfig, rng: np.random.Generator) -> np.ndarray:
    """Order of a pool's rows: groups of equal cost, drawn at random; -1 is an empty row.

    The last step of an incomplete pool holds the group of the cheapest rows, which is completed
    with empty ones, and then groups that are wholly empty.
    """
    size, per_step = config.group_rows, config.groups_per_step
    groups = -(-len(cost) // size)
    order = np.full(-(-groups // per_step) * per_step * size, -1, np.int64)
    order[: len(cost)] = np.argsort(-cost, kind="stable")
    grid = order.reshape(-1, size)
    whole = groups - (1 if len(cost) % size else 0)
    grid[:whole] = grid[:whole][np.argsort(rng.random(whole), kind="stable")]
    # Every other group in rising order, so that a host's sum over a step is even as well.
    grid[1:whole:2] = grid[1:whole:2, ::-1]
    return grid.ravel()


def _cut(n: int, size: int) -> np.ndarray:
    """Bounds of the nearest number of equal parts of about `size`."""
    parts = max(1, round(n / size))
    return np.arange(parts + 1) * n // parts


def _remember(cache: OrderedDict, key: tuple[int, int], value: Rows) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        cache.popitem(last=False)


def _load_table(path: Path, length: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    whole = table.shape == (length,) and table.dtype == np.int64 and (np.diff(table) > 0).all()
    return table if whole else None


def _store_table(path: Path, table: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with part.open("wb") as file:
        np.save(file, table)
    part.replace(path)
