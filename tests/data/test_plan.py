"""The epoch plan: a permutation of the pieces, within capacities, the same from everywhere."""

import dataclasses
import pickle
import tracemalloc

import numpy as np
import pytest

from tests.reference import packers
from vidsim.core.errors import BadInput
from vidsim.data import plan as planning
from vidsim.data.packing import OPEN_SHARES, Pair, RowLimits, lower_bound, pack_once, pack_window
from vidsim.data.plan import Plan, PlanConfig, row_cost, shuffled
from vidsim.data.plan_report import busy_fraction, plan_report, recommend_row_length

SMALL = PlanConfig(row_tokens=4096, row_text=256, row_segments=12, rows_per_step=12, group_rows=4,
                   pool_rows=48, window_clips=300, cost_width=64)  # fmt: skip


def clips(n, seed=0, kind="spread"):
    """(patch tokens, text tokens) of n clips; every kind fits SMALL's rows."""
    rng = np.random.default_rng(seed)
    tokens = {
        "spread": lambda: np.exp(rng.uniform(0, np.log(4096), n)),
        "half full": lambda: np.full(n, 2049),
        "two lengths": lambda: rng.choice([2040, 17], n),
        "one length": lambda: np.full(n, 64),
        "tiny": lambda: rng.integers(1, 4, n),
        "large": lambda: rng.integers(3000, 4097, n),
    }[kind]().astype(np.int64)
    text = np.clip(rng.lognormal(3, 1, n), 1, 256).astype(np.int64)
    return np.clip(tokens, 1, 4096), text


KINDS = ("spread", "half full", "two lengths", "one length", "tiny", "large")


def plan_of(n, seed=0, kind="spread", config=SMALL, **kw):
    return Plan(*clips(n, seed, kind), config, seed, **kw)


def all_rows(plan, epoch):
    first = sum(plan.num_steps(e) for e in range(epoch))
    return [plan.step(first + i) for i in range(plan.num_steps(epoch))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 7, 299, 1500])
def test_every_epoch_is_a_permutation_of_the_pieces_within_the_capacities(kind, n):
    plan = plan_of(n, kind=kind)
    for epoch in (0, 1):
        steps = all_rows(plan, epoch)
        pieces = np.concatenate([s.rows.piece for s in steps])
        assert np.array_equal(np.sort(pieces), np.arange(n))
        for step in steps:
            assert (step.epoch, len(step.rows)) == (epoch, SMALL.rows_per_step)
            for r in range(len(step.rows)):
                row = step.rows[r]
                assert plan.tokens[row].sum() <= SMALL.row_tokens
                assert plan.text_tokens(epoch, row).sum() <= SMALL.row_text
                assert len(row) <= SMALL.row_segments
            assert step.num_clips == len(step.rows.piece)
            assert step.num_tokens == plan.tokens[step.rows.piece].sum()
        filled = sum(int((np.diff(s.rows.offset) > 0).sum()) for s in steps)
        assert filled == plan.num_rows(epoch)
        # Only the last step may hold empty rows.
        assert all((np.diff(s.rows.offset) > 0).all() for s in steps[:-1])


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        return np.concatenate([s.rows.piece for s in all_rows(plan_of(700, seed=seed), epoch)])

    assert np.array_equal(order(0, 1), order(0, 1))
    assert not np.array_equal(order(0, 0), order(0, 1))
    assert not np.array_equal(order(0, 0), order(1, 0))


def test_any_step_alone_equals_the_sequence():
    steps = [s for epoch in range(3) for s in all_rows(plan_of(1000), epoch)]
    for number in np.random.default_rng(1).permutation(len(steps))[:8]:
        alone = plan_of(1000).step(int(number))
        assert (alone.epoch, alone.step) == (steps[number].epoch, steps[number].step)
        assert np.array_equal(alone.rows.piece, steps[number].rows.piece)
        assert np.array_equal(alone.rows.offset, steps[number].rows.offset)


def test_a_plan_sent_to_a_worker_gives_the_same_steps():
    plan = plan_of(1000)
    plan.step(3)
    copy = pickle.loads(pickle.dumps(plan))
    for number in (0, 3, 40):
        assert np.array_equal(copy.step(number).rows.piece, plan.step(number).rows.piece)


def test_rows_of_hosts_are_the_rows_of_one():
    whole = plan_of(900).step(5)
    for hosts in (2, 3, 6):
        parts = [plan_of(900).step(5).rows.take(np.arange(h, 12, hosts)) for h in range(hosts)]
        for h, part in enumerate(parts):
            for r in range(len(part)):
                assert np.array_equal(part[r], whole.rows[h + r * hosts])


def test_captions_of_the_epoch_are_what_is_packed():
    tokens, _ = clips(800)
    seen = []

    def text(epoch, pieces):
        seen.append((epoch, len(pieces)))
        return 1 + (pieces * 7 + epoch * 13) % 100

    plan = Plan(tokens, text, SMALL, seed=0)
    for epoch in (0, 1):
        for step in all_rows(plan, epoch):
            for r in range(len(step.rows)):
                assert (1 + (step.rows[r] * 7 + epoch * 13) % 100).sum() <= SMALL.row_text
    # Asked a window at a time, never for the whole index.
    assert {e for e, _ in seen} == {0, 1} and max(n for _, n in seen) <= 1.5 * SMALL.window_clips


def test_stored_table_is_used_checked_and_keyed(tmp_path):
    plan = plan_of(1200, table_dir=tmp_path)
    table = plan.table(0)
    (path,) = tmp_path.iterdir()
    again = plan_of(1200, table_dir=tmp_path)
    again.window = None  # a stored table needs no packing
    assert np.array_equal(again.table(0), table) and again.digest(0) == plan.digest(0)
    path.write_bytes(path.read_bytes()[:-9])
    repaired = plan_of(1200, table_dir=tmp_path)
    assert np.array_equal(repaired.table(0), table)
    other = Plan(*clips(1200), SMALL, seed=1, table_dir=tmp_path)
    assert other.hash != plan.hash and other.digest(0) != plan.digest(0)
    assert Plan(*clips(1200), SMALL, 0, content_hash="else").hash != plan.hash


def test_groups_have_equal_cost_and_steps_are_drawn_at_random():
    config = PlanConfig(row_tokens=4096, row_text=4096, row_segments=64, rows_per_step=32,
                        group_rows=8, pool_rows=512, window_clips=4096, cost_width=64)  # fmt: skip
    plan = plan_of(20_000, config=config)
    report = plan_report(plan, hosts=4)
    assert report.busy > 0.97 and report.busy > report.busy_plain
    means = []
    for number in range(plan.num_steps(0) - 1):
        rows = plan.step(number).rows
        cost = rows.sums(row_cost(plan.tokens[rows.piece], config.cost_width))
        means.append(cost.reshape(4, 8).mean(1))
    means = np.array(means)
    # Groups of a step are independent draws: their costs are uncorrelated (3 sigma of 1/sqrt(n)).
    correlation = np.corrcoef(means[:, 0], means[:, 1])[0, 1]
    assert abs(correlation) < 3 / np.sqrt(len(means))


def test_report_agrees_with_direct_counting():
    plan = plan_of(1000)
    report = plan_report(plan, hosts=2)
    steps = all_rows(plan, 0)
    volume = len(steps) * SMALL.rows_per_step
    assert report.fill == pytest.approx(plan.tokens.sum() / (volume * SMALL.row_tokens))
    assert report.rows == plan.num_rows(0) and report.steps == len(steps)
    counts = [s.num_clips for s in steps]
    assert report.clips_cv == pytest.approx(np.std(counts) / np.mean(counts))
    busy = []
    for step in steps:
        cost = [sum(24 * 64**2 * int(t) + 4 * 64 * int(t) ** 2 for t in plan.tokens[step.rows[r]])
                for r in range(len(step.rows))]  # fmt: skip
        busy += [np.mean(g) / max(g) for g in np.reshape(cost, (-1, 4)) if max(g)]
    assert report.busy == pytest.approx(np.mean(busy))
    assert busy_fraction(np.array([[2, 1], [0, 0]])) == 0.75


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 65_536, 65_537, 200_000])
def test_shuffled_is_a_permutation(n):
    values = shuffled(np.arange(n), n, 3, "epoch", 0)
    assert np.array_equal(np.sort(values), np.arange(n))
    some = np.random.default_rng(0).integers(0, n, 50)
    assert np.array_equal(shuffled(some, n, 3, "epoch", 0), values[some])


@pytest.mark.parametrize("n", [50_000, 100_000])
def test_shuffled_looks_random(n):
    values = shuffled(np.arange(n), n, 3, "epoch", 1)
    # Rank correlation with the identity and with the next epoch, within 4 sigma of 1/sqrt(n).
    others = np.arange(n), shuffled(np.arange(n), n, 3, "epoch", 2), np.roll(values, 1)
    for other in others:
        assert abs(np.corrcoef(values, other)[0, 1]) < 4 / np.sqrt(n)
    # Values that start in one window spread over all windows: chi-square within 5 sigma.
    counts = np.histogram(values[: n // 10], bins=50, range=(0, n))[0]
    expected = n / 500
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 49 + 5 * np.sqrt(98)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_sum", [False, True])
@pytest.mark.parametrize("share", OPEN_SHARES)
def test_each_attempt_packs_legally(kind, share, by_sum):
    tokens, text = clips(400, seed=1, kind=kind)
    row, rows = pack_once(Pair(tokens, 4096, text, 256), 12, share, by_sum)
    assert row.min() == 0 and set(row) == set(range(rows))
    assert np.bincount(row, tokens).max() <= 4096 and np.bincount(row, text).max() <= 256
    assert np.bincount(row).max() <= 12


@pytest.mark.parametrize("seed", range(12))
def test_window_needs_no_more_rows_than_slow_best_fit_decreasing(seed):
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    tokens, text = clips(int(rng.integers(30, 400)), seed, kind)
    limits = RowLimits(4096, int(rng.choice([256, 4000])), int(rng.choice([5, 64])))
    rows = pack_window(tokens, text, limits)[1]
    by_tokens = tokens, text, limits.tokens, limits.text, limits.segments
    by_text = text, tokens, limits.text, limits.tokens, limits.segments
    slow = min(packers.best_fit_decreasing(*by_tokens), packers.best_fit_decreasing(*by_text))
    # Two per cent, and a row for the last one that cannot be shared.
    assert rows <= 1.02 * slow + 1


@pytest.mark.parametrize("seed", range(40))
def test_lower_bound_never_exceeds_the_optimum(seed):
    rng = np.random.default_rng(seed)
    capacity = 100
    size = rng.integers(1, 101, int(rng.integers(1, 11)))
    optimum = packers.fewest_rows(size, capacity)
    bound = lower_bound(size, np.ones_like(size), RowLimits(capacity, 10**6, 64))
    assert bound <= optimum <= pack_window(size, np.ones_like(size), RowLimits(100, 10**6, 64))[1]


def test_lower_bound_sees_clips_that_cannot_share():
    limits = RowLimits(100, 10**6, 64)
    size = np.array([51] * 10 + [49] * 3)
    assert lower_bound(size, np.ones_like(size), limits) == 10
    assert lower_bound(np.full(10, 51), np.ones(10, int), limits) == 10
    assert lower_bound(np.ones(130, int), np.ones(130, int), limits) == 3


def test_memory_does_not_grow_with_the_clips(monkeypatch):
    monkeypatch.setattr(planning, "_KEPT", 4)
    config = PlanConfig(row_tokens=4096, row_text=4096, rows_per_step=32, group_rows=8,
                        pool_rows=64, window_clips=8192, cost_width=64)  # fmt: skip

    def peak(n):
        tokens, text = clips(n)
        tracemalloc.start()
        plan = Plan(tokens, text, config, seed=0)
        for number in range(0, plan.num_steps(0), 50):
            plan.step(number)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    small, large = peak(70_000), peak(170_000)
    # The table takes 8 bytes a window; the rest is a fixed number of windows and pools.
    assert large - small < 1.0 * 100_000, "more than a byte for each further clip"


def test_recommended_row_length_suits_the_clips():
    tokens = np.full(3000, 1000)
    best, tried = recommend_row_length(tokens, np.ones(3000, int), unit=128, largest=4200)
    assert best.fill == max(t.fill for t in tried) or best.fill > 0.98
    assert best.row_tokens % 128 == 0 and best.row_tokens >= 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows_per_step": 10}, "divisor of rows_per_step"),
        ({"row_tokens": 0}, "row_tokens 0; at least 1"),
        ({"row_tokens": 4000}, "patch tokens; at most 4000"),
        ({"row_text": 200}, "text tokens; at most 200"),
    ],
)
def test_refuses_by_message(change, words):
    tokens, text = np.array([4096, 5]), np.array([256, 1])
    with pytest.raises(BadInput) as caught:
        Plan(tokens, text, dataclasses.replace(SMALL, **change), 0).step(0)
    assert str(caught.value).startswith("plan: ") and words in str(caught.value)


def test_refuses_no_pieces_and_negative_steps():
    with pytest.raises(BadInput, match="plan: no pieces"):
        Plan(np.zeros(0, int), np.zeros(0, int), SMALL, 0)
    with pytest.raises(BadInput, match="step -1"):
        plan_of(10).step(-1)
