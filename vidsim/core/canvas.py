"""A few canvases for many sizes: every compiled shape costs seconds, every padded cell costs work.

A canvas is a shape (frames, height, width) that holds every clip assigned to it. Models that take a
validity mask give the same numbers on a canvas as on the bare clip.
"""

import numpy as np

from vidsim.core.errors import bad


def choose_canvases(shapes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Covers shapes with at most `limit` canvases, joining the two whose union wastes least.

    shapes   int[n, k], one row for each clip (rows may repeat)
    limit    largest number of canvases, at least 1
    Returns  int[m, k] canvases, m <= limit, and int[n] the canvas of each row
    """
    if limit < 1 or len(shapes) == 0:
        raise bad("canvases", f"limit {limit} for {len(shapes)} shapes", "at least one of each")
    unique, member, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    boxes = unique.astype(np.int64)
    weight = counts.astype(np.int64)
    owner = np.arange(len(boxes))
    while len(boxes) > limit:
        union = np.maximum(boxes[:, None], boxes[None]).prod(-1)
        volume = boxes.prod(-1)
        waste = (union - volume[:, None]) * weight[:, None] + (union - volume[None]) * weight[None]
        waste[np.tril_indices(len(boxes))] = np.iinfo(np.int64).max
        a, b = np.unravel_index(waste.argmin(), waste.shape)
        boxes[a] = np.maximum(boxes[a], boxes[b])
        weight[a] += weight[b]
        owner[owner == b] = a
        owner[owner > b] -= 1
        boxes, weight = np.delete(boxes, b, 0), np.delete(weight, b)
    return boxes, owner[member.reshape(-1)]


def assign_canvases(shapes: np.ndarray, canvases: np.ndarray) -> np.ndarray:
    """int[n]: for each shape (int[n, k]) the smallest of the canvases (int[m, k]) that holds it.

    Raises  BadInput for a shape that none of them holds
    """
    shapes, canvases = np.asarray(shapes), np.asarray(canvases)
    holds_nm: np.ndarray = np.all(shapes[:, None] <= canvases[None], axis=-1)
    if not holds_nm.any(1).all():
        odd = shapes[~holds_nm.any(1)][0].tolist()
        raise bad("canvases", f"shape {odd}", f"at most one of {canvases.tolist()}")
    volume_m = canvases.astype(np.int64).prod(-1)
    return np.where(holds_nm, volume_m[None], np.iinfo(np.int64).max).argmin(1)
