"""The rates that the README quotes: a row a case, clips over processor time."""

import pytest

from vidsim.worlds import bench


def test_rows_name_their_cases_and_rates_agree():
    rows = bench.bench_worlds(seconds=0.02)
    assert [(row["frames"], (row["height"], row["width"])) for row in rows[:-1]] == list(
        bench.CASES
    )
    for row in rows[:-1]:
        pixels = row["frames"] * row["height"] * row["width"]
        assert row["megapixels_per_s"] == pytest.approx(row["clips_per_s"] * pixels / 1e6)


def test_a_rate_is_calls_over_processor_time_without_the_first(monkeypatch):
    clock, calls = [10.0], []

    def draw(i):
        calls.append(i)
        clock[0] += 3.0 if len(calls) == 1 else 0.25  # the first one warms up

    monkeypatch.setattr(bench.time, "process_time", lambda: clock[0])
    assert bench._rate(draw, 2.0) == 4.0
    assert calls == [0, *range(1, 9)]
