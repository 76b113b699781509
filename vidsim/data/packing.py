"""Packs one window of clips into rows: best fit under three capacities, vectorised over rows.

A *round* gives every open row one clip: the largest remaining one that fits it. Rows and clips
are sorted, so a round is one binary search and one running minimum, whatever the number of rows.
A *recipe* says how many rows are open together: few rows of the largest clips (first fit
decreasing) or many at once (small clips spread over all). Which wins depends on how the clip
lengths divide the row, so a window is packed by several recipes and the fewest rows are kept.
Only integers decide, so every machine packs alike.
"""

from dataclasses import dataclass

import numpy as np

from vidsim.core.errors import bad

_SHIFT = np.int64(32)


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


@dataclass(frozen=True)
class Recipe:
    """How many rows to open together.

    near    clips within this share of the largest open rows together
    stack   at most this many of the largest clips are meant for one row
    least   share of the rows still needed that are opened at least
    """

    near: float
    stack: int
    least: float


RECIPES = (
    Recipe(0.0, 99, 0.0),
    Recipe(0.03, 2, 0.02),
    Recipe(0.1, 2, 0.3),
    Recipe(0.0, 1, 0.6),
    Recipe(0.3, 99, 1.0),
)


def pack_window(
    tokens: np.ndarray, text: np.ndarray, limits: RowLimits, recipes: tuple[Recipe, ...] = RECIPES
) -> tuple[np.ndarray, int]:
    """Packs clips into as few rows as the recipes find.

    tokens, text  i64[n] patch and text tokens of each clip, none above its capacity
    Returns       i64[n] row of each clip, and the number of rows
    """
    load_tokens = tokens.sum() / limits.tokens
    load_text = text.sum() / limits.text
    best, best_rows = np.zeros(len(tokens), np.int64), len(tokens) + 1
    # The scarcer capacity leads the search, the other one is checked.
    if load_text > load_tokens:
        first, second = (text, limits.text), (tokens, limits.tokens)
    else:
        first, second = (tokens, limits.tokens), (text, limits.text)
    for recipe in recipes:
        row, rows = _pack(*first, *second, limits.segments, recipe)
        if rows < best_rows:
            best, best_rows = row, rows
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


def _pack(
    size: np.ndarray, capacity: int, other: np.ndarray, other_capacity: int, segments: int,
    recipe: Recipe,
) -> tuple[np.ndarray, int]:  # fmt: skip
    key = size.astype(np.int64) << _SHIFT | other
    order = np.argsort(key, kind="stable")
    clips = _Clips(key[order], order)
    row_of, rows = np.full(len(size), -1, np.int64), 0
    while len(clips.key):
        sizes = clips.key >> _SHIFT
        largest = int(sizes[-1])
        count = len(sizes) - int(np.searchsorted(sizes, int(largest * (1 - recipe.near))))
        needed = max(
            -(-int(sizes.sum()) // capacity),
            -(-int((clips.key - (sizes << _SHIFT)).sum()) // other_capacity),
            -(-len(sizes) // segments),
        )
        per_row = max(1, min(recipe.stack, capacity // largest))
        opened = max(-(-count // per_row), 32, int(needed * recipe.least))
        opened = min(opened, needed, len(sizes))
        _fill(clips, row_of, rows, opened, capacity, other_capacity, segments)
        rows += opened
    return row_of, rows


class _Clips:
    """Clips not yet placed, ascending by key = size << 32 | other size."""

    def __init__(self, key: np.ndarray, index: np.ndarray) -> None:
        self.key, self.index = key, index

    def remove(self, at: np.ndarray) -> None:
        keep = np.ones(len(self.key), bool)
        keep[at] = False
        self.key, self.index = self.key[keep], self.index[keep]


def _fill(
    clips: _Clips, row_of: np.ndarray, base: int, rows: int, capacity: int, other_capacity: int,
    segments: int,
) -> None:  # fmt: skip
    """Opens rows base.. and fills them by rounds until no remaining clip fits any of them.

    A row's `bound` is the largest key it may take: its free size, and for clips of exactly that
    size its free other size. A row whose clip fails on the other capacity lowers its bound.
    """
    row = base + np.arange(rows)
    free = np.full(rows, capacity, np.int64)
    spare = np.full(rows, other_capacity, np.int64)
    slots = np.full(rows, segments, np.int64)
    bound = (free << _SHIFT) | spare
    while len(row) and len(clips.key):
        order = np.argsort(bound, kind="stable")
        row, free, spare, slots, bound = (a[order] for a in (row, free, spare, slots, bound))
        last = np.searchsorted(clips.key, bound, "right") - 1
        place = np.arange(len(row))
        # Largest bound first, each row takes the largest clip not taken by a row after it.
        taken = np.minimum.accumulate((last - place)[::-1])[::-1] + place
        at = np.flatnonzero(taken >= 0)
        size = clips.key[taken[at]] >> _SHIFT
        other = clips.key[taken[at]] - (size << _SHIFT)
        fits = other <= spare[at]
        bound[at[~fits]] = size[~fits] << _SHIFT | spare[at[~fits]]
        at, size, other = at[fits], size[fits], other[fits]
        row_of[clips.index[taken[at]]] = row[at]
        free[at] -= size
        spare[at] -= other
        slots[at] -= 1
        bound[at] = free[at] << _SHIFT | spare[at]
        clips.remove(taken[at])
        if len(clips.key):
            live = (slots > 0) & (bound >= clips.key[0])
            row, free, spare, slots, bound = (a[live] for a in (row, free, spare, slots, bound))
