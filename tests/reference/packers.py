"""Packing one clip at a time, over all rows ever opened: quadratic, and plainly right."""

import numpy as np


def best_fit_decreasing(size, other, capacity, other_capacity, segments):
    """Rows that best fit decreasing by `size` needs, under the second capacity and a clip limit."""
    rows = []  # (free size, free other size, free slots)
    for i in np.argsort(-np.asarray(size), kind="stable"):
        fitting = [r for r, (f, o, n) in enumerate(rows)
                   if f >= size[i] and o >= other[i] and n > 0]  # fmt: skip
        if fitting:
            best = min(fitting, key=lambda r: rows[r][0])
        else:
            rows.append((capacity, other_capacity, segments))
            best = len(rows) - 1
        free, spare, slots = rows[best]
        rows[best] = (free - size[i], spare - other[i], slots - 1)
    return len(rows)


def fewest_rows(size, capacity):
    """The least number of rows for a handful of clips, by trying every assignment."""
    size = sorted(map(int, size), reverse=True)
    best = len(size)

    def place(i, free):
        nonlocal best
        if len(free) >= best:
            return
        if i == len(size):
            best = len(free)
            return
        for r, f in enumerate(free):
            if f >= size[i] and f not in free[:r]:
                place(i + 1, [*free[:r], f - size[i], *free[r + 1 :]])
        place(i + 1, [*free, capacity - size[i]])

    place(0, [])
    return best
