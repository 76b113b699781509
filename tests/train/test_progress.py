"""What progress shows: rates over the steps after compilation, time left, short numbers."""

import pytest

from vidsim.train import progress
from vidsim.train.progress import Progress, clock, short


@pytest.fixture
def now(monkeypatch):
    clock_s = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock_s[0])
    return clock_s


def test_rate_leaves_out_the_compiling_step_and_time_left_follows(now, capsys):
    bar = Progress("dit", 0, 100, interval_s=0.0)
    now[0] += 60.0  # the first step compiles
    bar.update(1, {"loss": 2.0}, 1000.0, "tokens")
    for step in range(2, 12):
        now[0] += 0.5
        bar.update(step, {"loss": 1.25}, 1000.0, "tokens")
    last = capsys.readouterr().out.splitlines()[-1]
    # 2 steps a second, 89 steps left
    assert last == "dit 11/100 loss 1.25  2 steps/s  2k tokens/s  0:44 left"


def test_use_of_the_machines_is_shown_where_it_is_known(now, capsys):
    bar = Progress("dit", 0, 9, interval_s=0.0)
    for step in (1, 2):
        now[0] += 0.5
        values = {"loss": 1.0, "mfu": 0.4125, "memory_peak_bytes": 3.5 * 2**30}
        bar.update(step, values, 10.0, "tokens")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("20 tokens/s  MFU 41.2%  3.5 GiB at most  0:04 left")


def test_plain_lines_come_every_few_seconds_and_at_the_end(now, capsys):
    bar = Progress("dit", 0, 40, interval_s=5.0)
    for step in range(1, 41):
        now[0] += 0.5
        bar.update(step, {"loss": 1.0}, 1.0, "clips")
    shown = [int(line.split()[1].split("/")[0]) for line in capsys.readouterr().out.splitlines()]
    assert shown == [1, 11, 21, 31, 40]


def test_clock_and_short():
    assert [clock(s) for s in (0.4, 65, 3723)] == ["0:00", "1:05", "1:02:03"]
    assert [short(n) for n in (0.5, 999, 1234567, 2.5e9)] == ["0.5", "999", "1.23M", "2.5G"]
