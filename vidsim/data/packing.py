"""Packs one window of clips into rows: best fit under three capacities, vectorised over rows.

A *round* gives every open row one clip: the largest remaining one that fits it. Rows and clips
are sorted, so a round is one binary search and one running minimum, whatever the number of rows.
How many rows are open together decides between two habits: few rows at a time take the largest
clips first (first fit decreasing), many at once spread the small clips over all. Which wins depends
on how the clip lengths divide the row, so a window is packed several times and the fewest rows are
kept. Whole numbers decide, so every machine packs alike.
"""

from dataclasses import dataclass

import numpy as np

from vidsim.core.errors import bad

_SHIFT = 32


@dataclass(frozen=True)
class RowLimits:
    """Capacities of a row: patch tokens, text tokens, segments."""

    tokens: int
    text: int
    segments: int

    def check(self, tokens: np.ndarray, text: np.ndarray, where: str) -> None:
        """Raises BadInput when a clip fits in no row, naming the longest."""
        for name, value, limit, change in (
            ("patch tokens", tokens, self.tokens, "raise row_tokens or lower max_tokens"),
            ("text tokens", text, self.text, "raise row_text or shorten captions"),
        ):
            if len(value) and value.max() > limit:
                count = int((value > limit).sum())
                raise bad(where, f"{count} clips exceed a row, the longest: {value.max()} {name}",
                          f"at most {limit}", change)  # fmt: skip
            if len(value) and value.min() < 1:
                raise bad(where, f"a clip has {value.min()} {name}", "at least 1")


# Share of a window's rows that are open together: each pays on some distribution (chosen on 42
# pairs of distribution and row length; together within 0.4% of the best of 28 shares on each).
OPEN_SHARES = (0.8, 0.6, 0.2, 0.1, 0.03)
# Only where patch and text tokens are about equally scarce, clips are also ranked by the sum of
# both: ranking by one ends with rows full of the other.
OPEN_SHARE_OF_SUM = 0.6
_LEAST_OPEN = 32
_ENOUGH = 1.003  # of the rows that the volume alone needs: no further attempt


def pack_window(tokens: np.ndarray, text: np.ndarray, limits: RowLimits) -> tuple[np.ndarray, int]:
    """Packs clips into as few rows as the attempts find.

    tokens, text  i64[n] patch and text tokens of each clip, none above its capacity
    Returns       i64[n] row of each clip, and the number of rows
    """
    load_tokens, load_text = tokens.sum() / limits.tokens, text.sum() / limits.text
    # The scarcer capacity leads the search, the other one is checked.
    if load_text > load_tokens:
        pair = Pair(text, limits.text, tokens, limits.tokens)
    else:
        pair = Pair(tokens, limits.tokens, text, limits.text)
    attempts = [(share, False) for share in OPEN_SHARES]
    if 2 * min(load_text, load_tokens) > max(load_text, load_tokens):
        attempts.insert(0, (OPEN_SHARE_OF_SUM, True))
    enough = int(max(load_tokens, load_text) * _ENOUGH) + 1
    best, best_rows = np.zeros(len(tokens), np.int64), len(tokens) + 1
    for share, by_sum in attempts:
        row, rows = pack_once(pair, limits.segments, share, by_sum)
        if rows < best_rows:
            best, best_rows = row, rows
        if best_rows <= enough:
            break
    return best, best_rows


def lower_bound(tokens: np.ndarray, text: np.ndarray, limits: RowLimits) -> int:
    """Rows that no packing can beat: volumes, segments, and clips too long to share a row.

    The last is L2 of Martello and Toth (1990) on patch tokens and on text tokens.
    """
    bounds = [-(-len(tokens) // limits.segments)]
    for size, capacity in ((tokens, limits.tokens), (text, limits.text)):
        bounds += [-(-int(size.sum()) // capacity), _martello_toth(size, capacity)]
    return max(bounds)


def _martello_toth(size: np.ndarray, capacity: int) -> int:
    size = np.sort(size.astype(np.int64))
    total = np.concatenate([[0], np.cumsum(size)])
    half = np.searchsorted(size, capacity // 2, "right")
    k = np.unique(np.concatenate([[0], size[:half]]))
    below = np.searchsorted(size, k, "left")
    alone = np.searchsorted(size, capacity - k, "right")
    large = len(size) - half
    # Clips above capacity - k are alone; those above half a row leave room for the middle ones.
    room = (alone - half) * capacity - (total[alone] - total[half])
    middle = total[half] - total[below]
    return int((large + np.maximum(0, -(-(middle - room) // capacity))).max())


@dataclass(frozen=True)
class Pair:
    """The leading size of each clip and the other one (i64[n]), with their capacities."""

    size: np.ndarray
    capacity: int
    other: np.ndarray
    other_capacity: int


class _Clips:
    """Clips not yet placed, in rising order of their rank."""

    def __init__(self, pair: Pair, by_sum: bool) -> None:
        # A rank is linear in the two sizes: by the first and then the second, or by their sum as
        # shares of a row. The largest rank a row can take follows from its free space alike.
        self.weights = (pair.other_capacity, pair.capacity) if by_sum else (1 << _SHIFT, 1)
        rank = self.rank(pair.size, pair.other)
        self.index = np.argsort(rank, kind="stable")
        self.at, self.size, self.other = (a[self.index] for a in (rank, pair.size, pair.other))
        self.by_sum = by_sum

    def __len__(self) -> int:
        return len(self.at)

    def rank(self, size: np.ndarray, other: np.ndarray) -> np.ndarray:
        """i64: what clips are sorted by."""
        return size * self.weights[0] + other * self.weights[1]

    def below(self, refused: np.ndarray, spare: np.ndarray) -> np.ndarray:
        """Largest rank worth trying for rows that the clips `refused` did not fit."""
        if self.by_sum:
            return self.at[refused] - self.at[refused] // 10 - 1
        return self.rank(self.size[refused], spare)

    def remove(self, places: np.ndarray) -> None:
        """Takes placed clips out."""
        keep = np.ones(len(self), bool)
        keep[places] = False
        self.at, self.size, self.other, self.index = (
            a[keep] for a in (self.at, self.size, self.other, self.index)
        )


def pack_once(
    pair: Pair, segments: int, share: float, by_sum: bool = False
) -> tuple[np.ndarray, int]:
    """Packs clips with this share of the rows open together.

    by_sum   ranks clips by the sum of both sizes as shares of a row
    Returns  i64[n] row of each clip, and the number of rows
    """
    clips = _Clips(pair, by_sum)
    row_of, rows, together = np.full(len(pair.size), -1, np.int64), 0, 0
    while len(clips):
        needed = max(
            -(-int(clips.size.sum()) // pair.capacity),
            -(-int(clips.other.sum()) // pair.other_capacity),
            -(-len(clips) // segments),
        )
        together = together or max(_LEAST_OPEN, int(needed * share))
        opened = min(together, needed, len(clips))
        _fill(clips, row_of, rows, opened, pair, segments)
        rows += opened
    return row_of, rows


def _fill(
    clips: _Clips, row_of: np.ndarray, base: int, rows: int, pair: Pair, segments: int
) -> None:
    """Opens rows base.. and fills them by rounds until no remaining clip fits any of them.

    A row's `bound` is the largest rank it may take: what its free space would be worth. A row
    whose clip does not fit, for the other capacity or a shape of free space, lowers its bound.
    """
    row = base + np.arange(rows)
    free = np.full(rows, pair.capacity, np.int64)
    spare = np.full(rows, pair.other_capacity, np.int64)
    slots = np.full(rows, segments, np.int64)
    bound = clips.rank(free, spare)
    while len(row) and len(clips):
        order = np.argsort(bound, kind="stable")
        row, free, spare, slots, bound = (a[order] for a in (row, free, spare, slots, bound))
        last = np.searchsorted(clips.at, bound, "right") - 1
        place = np.arange(len(row))
        # Largest bound first, each row takes the largest clip not taken by a row after it.
        taken = np.minimum.accumulate((last - place)[::-1])[::-1] + place
        to = np.flatnonzero(taken >= 0)
        clip = taken[to]
        fits = (clips.size[clip] <= free[to]) & (clips.other[clip] <= spare[to])
        bound[to[~fits]] = clips.below(clip[~fits], spare[to[~fits]])
        to, clip = to[fits], clip[fits]
        row_of[clips.index[clip]] = row[to]
        free[to] -= clips.size[clip]
        spare[to] -= clips.other[clip]
        slots[to] -= 1
        bound[to] = clips.rank(free[to], spare[to])
        clips.remove(clip)
        if len(clips):
            live = (slots > 0) & (bound >= clips.at[0])
            row, free, spare, slots, bound = (a[live] for a in (row, free, spare, slots, bound))
