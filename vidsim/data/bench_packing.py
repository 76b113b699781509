"""`vidsim bench packing`: the planner on four distributions, against best fit decreasing."""

import bisect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from vidsim.data.geometry import GeometryConfig, GeometryReport, make_pieces
from vidsim.data.packing import RowLimits, lower_bound
from vidsim.data.plan import Plan, PlanConfig
from vidsim.data.plan_report import PlanReport, plan_report, recommend_row_length

SUGGESTED = 153_600
COMPARED = (131_072, 153_600, 163_840, 262_144)
SWEEP = tuple(range(65_536, 262_145, 16_384))


def _clips(rng: np.random.Generator, n: int, sizes: np.ndarray, frames: np.ndarray,
           fps: np.ndarray, caption: tuple[float, float, int, int]) -> Any:  # fmt: skip
    median, sigma, low, high = caption
    text = np.clip(np.exp(np.log(median) + sigma * rng.standard_normal(n)), low, high)
    return SimpleNamespace(
        clip_id=range(n), height=sizes[:, 0], width=sizes[:, 1], num_frames=frames, fps=fps,
        text=text.round().astype(np.int32),
    )  # fmt: skip


def _pick(rng: np.random.Generator, n: int, table: dict[tuple[int, int], float]) -> np.ndarray:
    share = np.array(list(table.values()))
    return np.array(list(table))[rng.choice(len(table), n, p=share / share.sum())]


def _seconds(rng: np.random.Generator, n: int, median: float, sigma: float, low: float,
             high: float) -> np.ndarray:  # fmt: skip
    return np.clip(np.exp(np.log(median) + sigma * rng.standard_normal(n)), low, high)


def _free_sizes(rng: np.random.Generator, short: np.ndarray, spread: float) -> np.ndarray:
    """(height, width) with log-normal aspect ratio, at most 3:1."""
    aspect = np.exp(np.clip(spread * rng.standard_normal(len(short)), -np.log(3), np.log(3)))
    sizes = np.stack([short * np.maximum(1, 1 / aspect), short * np.maximum(1, aspect)], 1)
    return sizes.round().astype(np.int64)


def mixed(n: int, seed: int = 0) -> Any:
    """Images and studio video: a quarter images, videos of 1-60 s in eight sizes."""
    rng = np.random.default_rng(seed)
    image = rng.random(n) < 0.25
    images = _pick(rng, n, {(1024, 1024): 30, (1024, 1536): 25, (1536, 1024): 20,
                            (2048, 2048): 10, (600, 800): 15})  # fmt: skip
    videos = _pick(rng, n, {(1080, 1920): 35, (720, 1280): 25, (1920, 1080): 15, (1280, 720): 5,
                            (480, 854): 8, (480, 640): 5, (1080, 1080): 4,
                            (1080, 2560): 3})  # fmt: skip
    fps = rng.choice([24, 30, 60], n, p=[0.30, 0.55, 0.15])
    frames = np.maximum(1, np.round(fps * _seconds(rng, n, 8, 0.7, 1, 60))).astype(np.int64)
    sizes = np.where(image[:, None], images, videos)
    return _clips(rng, n, sizes, np.where(image, 1, frames), fps, (120, 0.6, 8, 512))


def phone(n: int, seed: int = 0) -> Any:
    """Phone videos (70%), GIFs of any size (20%) and photographs (10%)."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    video = _pick(rng, n, {(1920, 1080): 40, (1080, 1920): 25, (3840, 2160): 10, (1280, 720): 10,
                           (480, 848): 5, (1080, 1080): 10})  # fmt: skip
    photo = _pick(rng, n, {(4032, 3024): 50, (3024, 4032): 30, (1350, 1080): 20})
    gif = _free_sizes(rng, rng.uniform(100, 480, n), 0.3)
    sizes = np.choose(kind[:, None], [video, gif, photo])
    fps = np.choose(kind, [rng.choice([24, 30, 60], n, p=[0.1, 0.7, 0.2]),
                           rng.integers(8, 26, n), 1])  # fmt: skip
    seconds = np.where(kind == 0, _seconds(rng, n, 12, 0.9, 0.5, 180),
                       _seconds(rng, n, 2.5, 0.6, 0.3, 10))  # fmt: skip
    frames = np.where(kind == 2, 1, np.maximum(1, np.round(fps * seconds))).astype(np.int64)
    return _clips(rng, n, sizes, frames, fps, (60, 0.6, 4, 256))


def images(n: int, seed: int = 0) -> Any:
    """Images only, of any size from 128 pixels and any aspect ratio up to 3:1."""
    rng = np.random.default_rng(seed)
    sizes = _free_sizes(rng, np.clip(900 * np.exp(0.5 * rng.standard_normal(n)), 128, 4096), 0.35)
    ones = np.ones(n, np.int64)
    return _clips(rng, n, sizes, ones, ones, (120, 0.6, 8, 512))


def even(n: int, seed: int = 0) -> Any:
    """Short videos of any size, a quarter images: no tenth of the clips shares a length."""
    rng = np.random.default_rng(seed)
    image = rng.random(n) < 0.25
    sizes = _free_sizes(rng, rng.uniform(240, 1080, n), 0.4)
    fps = rng.choice([24, 30, 60], n, p=[0.30, 0.55, 0.15])
    frames = np.maximum(1, np.round(fps * _seconds(rng, n, 1.8, 0.8, 0.3, 20))).astype(np.int64)
    return _clips(rng, n, sizes, np.where(image, 1, frames), fps, (120, 0.6, 8, 512))


DISTRIBUTIONS = {"mixed": mixed, "phone": phone, "images": images, "even": even}


def best_fit_decreasing(tokens: np.ndarray, text: np.ndarray, limits: RowLimits) -> int:
    """Rows that best fit decreasing over the whole pool needs, in plain Python: the yardstick.

    Clips in falling order of the scarcer capacity go to the row with the least free space where
    all three capacities hold.
    """
    (size, capacity), (other, spare_capacity) = (tokens, limits.tokens), (text, limits.text)
    if text.sum() * limits.tokens > tokens.sum() * limits.text:
        size, capacity, other, spare_capacity = other, spare_capacity, size, capacity
    order = np.argsort(-size, kind="stable")
    smallest, least = int(size.min()), int(other.min())
    free: list[int] = []  # distinct free sizes, rising
    rows_with: dict[int, list[tuple[int, int]]] = {}  # free size -> (spare other size, slots)
    rows = 0
    for s, o in zip(size[order].tolist(), other[order].tolist(), strict=True):
        at, spare, slots, left = bisect.bisect_left(free, s), spare_capacity, limits.segments, -1
        while at < len(free) and left < 0:
            bucket = rows_with[free[at]]
            found = next((i for i, row in enumerate(bucket) if row[0] >= o), -1)
            if found >= 0:
                left = free[at] - s
                spare, slots = bucket.pop(found)
                if not bucket:
                    del rows_with[free.pop(at)]
            at += 1
        if left < 0:
            left, rows = capacity - s, rows + 1
        spare, slots = spare - o, slots - 1
        if left >= smallest and spare >= least and slots:
            if left not in rows_with:
                bisect.insort(free, left)
                rows_with[left] = []
            rows_with[left].append((spare, slots))
    return rows


@dataclass(frozen=True)
class Comparison:
    """Rows used on one distribution at one row length."""

    distribution: str
    row_tokens: int
    rows: int
    best_fit_decreasing: int
    lower_bound: int
    fill: float

    @property
    def ratio(self) -> float:
        """Rows used over those of best fit decreasing."""
        return self.rows / self.best_fit_decreasing


@dataclass(frozen=True)
class Result:
    """Everything `vidsim bench packing` prints. `checks`: (claim, measured, target, met)."""

    clips: int
    long: str
    row_tokens: int
    recommended: int
    geometry: GeometryReport
    plan: PlanReport
    small_plan: PlanReport
    clips_per_s: float
    largest_share: float
    compared: list[Comparison]
    sweep: list[tuple[str, int, float]]
    checks: list[tuple[str, float, str, bool]]

    def data(self) -> dict[str, Any]:
        """Plain data for --json."""
        return asdict(self)

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        return all(ok for *_, ok in self.checks)


def run(
    n_clips: int = 200_000,
    row_tokens: int = 0,
    sweep: bool = False,
    long: str = "truncate",
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> Result:
    """Measures the planner.

    n_clips     clips of each distribution
    row_tokens  row length of the report on the mixed distribution; 0 = 153,600 for truncated
                clips, the recommended length for split ones
    sweep       also fill for rows of 64K to 256K tokens, on the mixed and the even distribution
    long        clips over the frame limit: "truncate" or "split"
    progress    told what is measured next
    """
    progress("mixed distribution")
    source = mixed(n_clips, seed)
    pieces, geometry = make_pieces(source, GeometryConfig(max_tokens=SUGGESTED, long=long))
    tokens, text = pieces.tokens, source.text[pieces.clip]
    best = recommend_row_length(tokens, text, largest=max(SWEEP))[0].row_tokens
    suits = row_tokens == 0
    row_tokens = row_tokens or (SUGGESTED if long == "truncate" else best)
    if row_tokens < tokens.max():
        pieces, geometry = make_pieces(source, GeometryConfig(max_tokens=row_tokens, long=long))
        tokens, text = pieces.tokens, source.text[pieces.clip]
    started = time.process_time()
    plan = Plan(tokens, text, PlanConfig(row_tokens=row_tokens), seed)
    for number in range(plan.num_steps(0)):
        plan.step(number)
    rate = len(pieces) / (time.process_time() - started)
    wide = plan_report(plan, hosts=8)
    small = PlanConfig(row_tokens=row_tokens, rows_per_step=32, group_rows=8)
    narrow = plan_report(Plan(tokens, text, small, seed), hosts=8)
    args = n_clips, long, seed
    compared = []
    for name in DISTRIBUTIONS:
        for length in COMPARED:
            progress(f"{name}, rows of {length}")
            compared.append(_compare(name, length, *args))
    swept = []
    for name in ("mixed", "even") if sweep else ():
        progress(f"{name}, sweep")
        swept += [(name, length, _fill(name, length, *args)) for length in SWEEP]
    alike = np.bincount(_pieces("even", SUGGESTED, *args)[0])
    share = float(alike.max() / alike.sum())
    checks = _checks(geometry, wide, narrow, rate, compared, share, suits)
    return Result(n_clips, long, row_tokens, best, geometry, wide, narrow, rate, share, compared,
                  swept, checks)  # fmt: skip


def _checks(
    geometry: GeometryReport, wide: PlanReport, narrow: PlanReport, rate: float,
    compared: list[Comparison], share: float, suits: bool,
) -> list[tuple[str, float, str, bool]]:  # fmt: skip
    """(claim, measured, target, met); the fill is only promised where the row length suits."""
    worst = max(c.ratio for c in compared)
    dropped = geometry.clips - geometry.kept_clips
    checks = [
        ("clips dropped", float(dropped), "0", dropped == 0),
        ("planning, clips/s on one core", rate, ">= 300000", rate >= 300_000),
        ("busy, 32 devices x 4 groups", wide.busy, ">= 0.985", wide.busy >= 0.985),
        ("clips a step, cv", wide.clips_cv, "<= 0.65", wide.clips_cv <= 0.65),
        ("busy, 8 hosts x 4 rows", narrow.busy_hosts, ">= 0.97", narrow.busy_hosts >= 0.97),
        ("rows over best fit decreasing, worst", worst, "<= 1.02", worst <= 1.02),
        ("largest share of one length, even", share, "<= 0.10", share <= 0.1),
    ]
    if suits:
        checks.insert(1, ("fill", wide.fill, ">= 0.985", wide.fill >= 0.985))
    return checks


def _pieces(
    name: str, row_tokens: int, n_clips: int, long: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    source = DISTRIBUTIONS[name](n_clips, seed)
    pieces, _ = make_pieces(source, GeometryConfig(max_tokens=row_tokens, long=long))
    return pieces.tokens, source.text[pieces.clip].astype(np.int64)


def _compare(name: str, row_tokens: int, n_clips: int, long: str, seed: int) -> Comparison:
    tokens, text = _pieces(name, row_tokens, n_clips, long, seed)
    config = PlanConfig(row_tokens=row_tokens)
    rows = Plan(tokens, text, config, seed).num_rows(0)
    return Comparison(
        distribution=name,
        row_tokens=row_tokens,
        rows=rows,
        best_fit_decreasing=best_fit_decreasing(tokens, text, config.limits),
        lower_bound=lower_bound(tokens, text, config.limits),
        fill=float(tokens.sum() / (rows * row_tokens)),
    )


def _fill(name: str, row_tokens: int, n_clips: int, long: str, seed: int) -> float:
    tokens, text = _pieces(name, row_tokens, n_clips, long, seed)
    rows = Plan(tokens, text, PlanConfig(row_tokens=row_tokens), seed).num_rows(0)
    return float(tokens.sum() / (rows * row_tokens))


def table(result: Result) -> str:
    """The result as text."""
    lines = [
        f"mixed distribution, {result.clips} clips, long clips: {result.long}; rows of "
        f"{result.row_tokens} tokens (recommended for these clips: {result.recommended})"
    ]
    lines += result.geometry.lines() + result.plan.lines()
    lines += ["", f"{'rows by distribution':<22}{'row':>8}{'rows':>9}{'best fit':>9}{'ratio':>8}"
              f"{'bound':>9}{'fill':>8}"]  # fmt: skip
    for c in result.compared:
        lines.append(f"{c.distribution:<22}{c.row_tokens:>8}{c.rows:>9}{c.best_fit_decreasing:>9}"
                     f"{c.ratio:>8.4f}{c.lower_bound:>9}{c.fill:>8.4f}")  # fmt: skip
    if result.sweep:
        lines += ["", f"{'fill by row length':<22}{'row':>8}{'fill':>9}"]
        lines += [f"{name:<22}{row:>8}{fill:>9.4f}" for name, row, fill in result.sweep]
    lines += ["", f"{'target':<40}{'measured':>12}  {'wanted':<12}met"]
    for claim, value, target, ok in result.checks:
        shown = f"{value:,.0f}" if value > 100 else f"{value:.4f}"
        lines.append(f"{claim:<40}{shown:>12}  {target:<12}{'yes' if ok else 'NO'}")
    return "\n".join(lines)
