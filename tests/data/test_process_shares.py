"""What one process reads: its rows, its tokens of them, and nothing that cannot be read."""

import copy

import numpy as np
import pytest

from tests.data.latents_in_memory import random_source
from vidsim.core.errors import BadInput, bad
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig

ROW = 96
CONFIG = PlanConfig(row_tokens=ROW, row_text=96, row_segments=8, rows_per_step=4, group_rows=2,
                    pool_rows=8, window_clips=30, cost_width=16)  # fmt: skip
BY_TOKEN = ("patches", "patch_segment", "patch_position", "action")


class Watched:
    """A source that notes which pieces are read, and refuses some."""

    def __init__(self, source, broken=()):
        self.source, self.broken, self.read = source, set(broken), []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def latents(self, pieces):
        self.read += list(pieces)
        if self.broken & set(pieces.tolist()):
            raise bad("cache", "cannot be read")
        return self.source.latents(pieces)


def batches(source, **settings):
    return packed_batches(source, make_plan(source, CONFIG, 3), 6, **settings)


@pytest.mark.parametrize("part", [slice(0, 24), slice(24, 72), slice(72, 96)], ids=str)
def test_a_part_of_the_tokens_is_that_part_of_the_whole_batch(part):
    source = Watched(random_source())
    whole, cut = batches(source)[2], batches(source, rows=np.array([1, 3]), tokens=part)[2]
    assert whole.keys() == cut.keys()
    for name, x in whole.items():
        mine = x if x.ndim == 0 else x[[1, 3]][:, part] if name in BY_TOKEN else x[[1, 3]]
        np.testing.assert_array_equal(cut[name], mine)


def test_only_clips_that_reach_into_the_part_are_read():
    source = Watched(random_source())
    plan = make_plan(source, CONFIG, 3)
    data = packed_batches(source, plan, 6, np.array([0, 2]), slice(48, 96))
    source.read.clear()
    data[1]
    wanted = []
    for row in (0, 2):
        start = 0
        for piece in plan.step(1).rows[row]:
            stop = start + int(source.grid[piece].prod())
            wanted += [piece] if stop > 48 else []
            start = stop
    assert sorted(source.read) == sorted(wanted) and wanted


def test_unreadable_clips_are_left_out_and_counted(capsys):
    """The rest of the row is what a row without them would be; totals stay the plan's."""
    good = random_source()
    plan = make_plan(good, CONFIG, 3)
    rows = plan.step(2).rows
    broken = [int(rows[0][0]), int(rows[3][-1])]
    batch = batches(Watched(good, broken), tolerant=True)[2]
    whole = batches(good)[2]
    assert batch["left_out"].tolist() == [1, 0, 0, 1]
    for name, x in whole.items():
        same = x if x.ndim == 0 else x[1:3]
        np.testing.assert_array_equal(batch[name] if x.ndim == 0 else batch[name][1:3], same)
    gone = int(good.grid[broken[0]].prod())
    np.testing.assert_array_equal(batch["patches"][0, : ROW - gone], whole["patches"][0, gone:])
    np.testing.assert_array_equal(batch["clip_key"][0, :-1], whole["clip_key"][0, 1:])
    moved = whole["patch_segment"][0, gone:]
    np.testing.assert_array_equal(batch["patch_segment"][0, : ROW - gone],
                                  np.maximum(moved - 1, 0))  # fmt: skip
    said = capsys.readouterr().err
    assert said.count("is left out: cache: cannot be read") == 2


def test_without_tolerance_an_unreadable_clip_is_an_error():
    good = random_source()
    piece = int(make_plan(good, CONFIG, 3).step(0).rows[0][0])
    with pytest.raises(BadInput, match="cannot be read"):
        batches(Watched(good, [piece]))[0]
    fine = batches(copy.copy(good), tolerant=True)[0]
    assert fine["left_out"].sum() == 0
    with pytest.raises(BadInput, match="where processes share a row"):
        batches(good, tokens=slice(0, 12), tolerant=True)
