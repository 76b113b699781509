"""Slow drawing of the shapes world: every pixel is the mean of many points tested by geometry.

Written from the definitions (a polygon's corners, a disc's radius), not from the renderer.
"""

import math

import numpy as np

POINTS = 12  # sample points along each side of a pixel


def polygon(shape, e):
    """Corners (x right, y down) of a shape of half extent e around its centre of area."""
    if shape == "square":
        return [(-e, -e), (e, -e), (e, e), (-e, e)]
    if shape == "diamond":
        return [(0, -e), (e, 0), (0, e), (-e, 0)]
    if shape == "triangle":  # equilateral; the centre of area lies at a third of the height
        height = math.sqrt(3) * e
        return [(0, -2 * height / 3), (e, height / 3), (-e, height / 3)]
    if shape == "cross":
        a = 0.36 * e
        return [
            (-a, -e), (a, -e), (a, -a), (e, -a), (e, a), (a, a),
            (a, e), (-a, e), (-a, a), (-e, a), (-e, -a), (-a, -a),
        ]  # fmt: skip
    if shape == "star":
        outer = e / math.sin(math.radians(72))
        corners = []
        for k in range(10):
            radius = outer if k % 2 == 0 else 0.46 * outer
            angle = math.radians(36 * k)
            corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
        return corners
    raise KeyError(shape)


def inside(shape, e, x, y):
    """Whether each point lies in the shape: even-odd rule over a polygon's edges, or radii."""
    if shape in ("circle", "ring"):
        square = x**2 + y**2
        return (square <= e**2) & (square >= ((0.5 * e) ** 2 if shape == "ring" else 0))
    odd = np.zeros(np.broadcast(x, y).shape, bool)
    corners = polygon(shape, e)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        spans = (y0 > y) != (y1 > y)
        odd ^= spans & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return odd


def coverage(shape, e, centre, height, width):
    """float64 [height, width]: share of each pixel inside a shape centred at (y, x)."""
    fine = (np.arange(POINTS) + 0.5) / POINTS
    y = (np.arange(height)[:, None] + fine).reshape(-1, 1) - centre[0]
    x = (np.arange(width)[:, None] + fine).reshape(1, -1) - centre[1]
    hit = inside(shape, e, x, y)
    return hit.reshape(height, POINTS, width, POINTS).mean((1, 3))


def simulate(start, velocity, wall, num_frames):
    """[num_frames, 2]: a point that flies straight and is reflected by the walls, in tiny steps."""
    place, pace = [float(p) for p in start], [float(p) for p in velocity]
    path, steps = [list(place)], 400
    for _ in range(num_frames - 1):
        for _ in range(steps):
            for axis in (0, 1):
                place[axis] += pace[axis] / steps
                if wall is None:
                    continue
                low, high = wall[2 * axis], wall[2 * axis + 1]
                if place[axis] > high:
                    place[axis], pace[axis] = 2 * high - place[axis], -pace[axis]
                elif place[axis] < low:
                    place[axis], pace[axis] = 2 * low - place[axis], -pace[axis]
        path.append(list(place))
    return np.array(path)
