"""A prototype beside its full size: the measure by hand, and pairs that are kept together."""

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.generate import bench_prototype
from vidsim.generate.bench_prototype import measure
from vidsim.generate.sample import SamplerConfig, Video


def test_pairs_are_seeds_of_one_prompt_and_the_gap_is_that_of_block_means(monkeypatch):
    seen = []

    def picture(request):
        """A ramp whose level is the seed's: the same from afar at every size."""
        rows = np.linspace(0, 63, request.height // 8).repeat(8)
        level = rows[:, None, None] + 10 * request.seed
        shape = (1, request.height, request.width, 3)
        return np.broadcast_to(level[None], shape).round().astype(np.uint8)

    def fake(model, requests, config, progress=None):
        seen.extend(requests)
        return [Video(picture(r), 8.0, r) for r in requests]

    monkeypatch.setattr(bench_prototype, "sample", fake)
    made = measure(None, ["a", "b", "c"], SamplerConfig("euler", 1), (16, 24), 2)
    assert [r.prompt for r in seen] == ["a", "b", "c"] * 3
    assert [r.seed for r in seen] == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert {(r.height, r.width) for r in seen[3:]} == {(32, 48)}
    # by hand: rows of the small one are 0 and 63, of the large one averaged down 10.5 and 52.5
    np.testing.assert_allclose(made.same, np.full(3, 10.5), atol=0.6)
    # the other seed's full size is 30 brighter everywhere
    np.testing.assert_allclose(made.other, np.full(3, 30.0), atol=0.6)


def test_one_size_is_no_prototype():
    with pytest.raises(BadInput, match="factor 1"):
        measure(None, ["a"], SamplerConfig("euler", 1), (16, 16), 1)
