"""`vidsim bench attention`: does cost follow the clips of a row or the row?

One row is cut into 1 to 64 clips of random lengths that meet no tile border. Forward and backward,
self and cross, run in turns, so that a busy machine slows all alike. The law that blocks can reach:
the area of the clips plus the tiles that the staircase of their borders cuts.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.nn.attention import attend_planned, current_platform, plan_attention

CLIPS = (1, 2, 4, 8, 16, 32, 64)
TEXT_SHARE = 16  # patch tokens a text token
AT_16, LAW_FACTOR = 0.15, 1.5  # targets


@dataclasses.dataclass(frozen=True)
class Row:
    """One packing. Times are medians of forward and backward together.

    kind       "self" or "cross"
    clips      how many; "uneven" packings have one clip of half the row
    median_ms  wall clock
    cpu_ms     processor time of all threads
    ratio      to one clip: of processor time on CPU, where other programs share the clock, else of
               wall clock
    law        sum of n m over N M, plus the tiles cut by borders
    gflops     12 A E sum(n m) a second of wall clock; recomputation is not counted
    """

    kind: str
    clips: str
    median_ms: float
    cpu_ms: float
    ratio: float
    law: float
    gflops: float


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured, and on what."""

    rows: list[Row]
    tokens: int
    text: int
    heads: int
    width: int
    dtype: str
    runs: int
    platform: str
    implementations: dict[str, str]

    @property
    def met(self) -> bool:
        """Both targets, for self and cross."""
        return all(
            row.ratio <= LAW_FACTOR * row.law and (row.clips != "16" or row.ratio <= AT_16)
            for row in self.rows
            if row.kind == "self" and row.clips != "1"
        ) and all(row.ratio <= LAW_FACTOR * row.law for row in self.rows if row.kind == "cross")


def run(
    tokens: int = 16_384, runs: int = 10, dtype: str = "float32", heads: int = 0, width: int = 0
) -> Result:
    """Times every packing.

    tokens        of the row; the text row has a sixteenth
    runs          timed runs of each, after one that compiles
    heads, width  0: 2 heads of 64 on CPU, 8 of 128 elsewhere
    Raises        BadInput when the row is shorter than its clips
    """
    platform = current_platform()
    heads, width = heads or (2 if platform == "cpu" else 8), width or (64, 128)[platform != "cpu"]
    if tokens < 64 * TEXT_SHARE:
        raise bad("--tokens", f"{tokens}", f"at least {64 * TEXT_SHARE}")
    text, rng = tokens // TEXT_SHARE, np.random.default_rng(0)
    packings = {str(k): even_lengths(rng, tokens, text, k) for k in CLIPS}
    packings["uneven 33"] = uneven_lengths(rng, tokens, text, 33)
    rows, names = [], {}
    for kind in ("self", "cross"):
        step, names[kind], tiles = _step(kind, tokens, text, heads, width, dtype)
        works = {
            name: functools.partial(step, _ids(n), _ids(n if kind == "self" else m))
            for name, (n, m) in packings.items()
        }
        rows += _rows(kind, packings, works, tiles, (heads, width), runs, platform)
    return Result(rows, tokens, text, heads, width, dtype, runs, platform, names)


def even_lengths(
    rng: np.random.Generator, tokens: int, text: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths within 30% of equal that fill both rows: patch tokens, text tokens."""
    return _fill(rng.uniform(0.7, 1.3, count), tokens), _fill(rng.uniform(0.7, 1.3, count), text)


def uneven_lengths(
    rng: np.random.Generator, tokens: int, text: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """One clip of about half the row, the others of random lengths."""
    weights = rng.exponential(1.0, count - 1) + 0.05
    weights = np.insert(weights, count // 3, weights.sum())
    return _fill(weights, tokens), _fill(rng.uniform(0.5, 1.5, count), text)


def _fill(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers of at least 1 in these proportions that add up to `total`."""
    ends = np.round(np.cumsum(weights) / weights.sum() * (total - len(weights))).astype(int)
    return np.diff(ends, prepend=0) + 1


def _ids(lengths: np.ndarray) -> jax.Array:
    return jnp.asarray(np.repeat(np.arange(1, len(lengths) + 1), lengths)[None], jnp.int32)


def law(n: np.ndarray, m: np.ndarray, tile_n: int, tile_m: int) -> float:
    """Share of the N x M plane in tiles that hold a partner, on average over where borders fall.

    The area of the clips, and one tile for each block that the staircase of borders passes.
    """
    whole_n, whole_m = n.sum(), m.sum()
    area = (n * m).sum() / (whole_n * whole_m)
    return min(1.0, float(area + tile_n / whole_n + tile_m / whole_m))


def _step(
    kind: str, tokens: int, text: int, heads: int, width: int, dtype: str
) -> tuple[Callable[..., Any], str, tuple[int, int]]:
    """Compiled forward and backward of (q ids, k ids), the implementation's name, its tiles."""
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (tokens, tokens if kind == "self" else text)
    shape = lambda n: (1, n, heads, width)  # noqa: E731
    q, d_out = (jax.random.normal(k, shape(sizes[0]), jnp.dtype(dtype)) for k in keys[:2])
    k, v = (jax.random.normal(k, shape(sizes[1]), jnp.dtype(dtype)) for k in keys[2:])

    def step(q_ids: jax.Array, k_ids: jax.Array) -> Any:
        plan = plan_attention(q_ids, k_ids)
        out, pull = jax.vjp(lambda q, k, v: attend_planned(q, k, v, plan), q, k, v)
        return out, pull(d_out)

    ids = [jax.ShapeDtypeStruct((1, n), jnp.int32) for n in sizes]
    plan = jax.eval_shape(plan_attention, *ids)
    tiles = tuple(
        getattr(plan.arrays, side).shape[2]
        for side in (("q_segment", "k_segment") if hasattr(plan.arrays, "q_segment")
                     else ("q_ids", "k_ids"))
    )  # fmt: skip
    return jax.jit(step), plan.implementation, tiles


def _rows(
    kind: str, packings: dict[str, Any], works: dict[str, Callable[[], Any]],
    tiles: tuple[int, int], shape: tuple[int, int], runs: int, platform: str,
) -> list[Row]:  # fmt: skip
    for work in works.values():
        jax.block_until_ready(work())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(work())
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: np.median(times[name], axis=0) for name in works}
    clock = 1 if platform == "cpu" else 0
    rows = []
    for name, (n, m) in packings.items():
        m = n if kind == "self" else m
        wall, cpu = (float(x) for x in medians[name])
        flops = 12.0 * shape[0] * shape[1] * float((n * m).sum())
        ratio = float(medians[name][clock] / medians["1"][clock])
        rows.append(
            Row(kind, name, 1e3 * wall, 1e3 * cpu, ratio, law(n, m, *tiles), flops / wall / 1e9)
        )
    return rows


def table(result: Result) -> str:
    """The rows as text, with targets."""
    lines = [
        f"attention forward and backward on {result.platform}, {result.dtype}: one row of "
        f"{result.tokens:,} tokens ({result.text:,} of text), {result.heads} heads of "
        f"{result.width}; medians of {result.runs} interleaved runs",
        f"{'kind':6s} {'clips':>10s} {'wall ms':>10s} {'cpu ms':>10s} {'ratio':>7s} {'law':>7s} "
        f"{'ratio/law':>10s} {'GFLOP/s':>9s}",
    ]
    lines += [
        f"{r.kind:6s} {r.clips:>10s} {r.median_ms:10.1f} {r.cpu_ms:10.1f} {r.ratio:7.3f} "
        f"{r.law:7.3f} {r.ratio / r.law:10.2f} {r.gflops:9.1f}"
        for r in result.rows
    ]
    names = ", ".join(f"{kind} {name}" for kind, name in result.implementations.items())
    clock = "processor time" if result.platform == "cpu" else "wall clock"
    lines.append(
        f"{names}; ratio to one clip by {clock}; targets: 16 clips of self {AT_16} or less, every "
        f"packing {LAW_FACTOR} of the law or less: {'met' if result.met else 'MISSED'}"
    )
    return "\n".join(lines)
