"""The benchmark of packed sampling: both ways make the same clips, packs with fewer calls."""

import dataclasses
import math

import pytest

from tests.generate.tiny_generator import make_model
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.generate import sample as sampling
from vidsim.generate.bench_sample import Throughput, example_model, mixed_requests, run
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, lay_out

CONFIG = SamplerConfig("heun", 3, GuidanceConfig(2.0), max_rows=2)
ROUNDING = 2e-4  # as in test_sample


@pytest.mark.slow
def test_packs_make_the_same_clips_with_fewer_calls(monkeypatch):
    requests = [Request("a", 8 * (1 + i % 3), 16, 1 + 2 * (i % 2), seed=i) for i in range(12)]
    calls, real = [], sampling._denoise
    monkeypatch.setattr(sampling, "_denoise", lambda *a: (calls.append(1), real(*a))[1])
    made = run(make_model(), requests, CONFIG, runs=3)
    assert made.gap < ROUNDING and made.clips == 12
    assert made.rows == len(lay_out(make_model(), requests).rows) < 12
    batches = -(-made.rows // CONFIG.max_rows)
    assert len(calls) == 4 * (12 + batches) * 5  # 5 calls of Heun's 3 steps; 1 + 3 runs each way
    assert f"{made.ratio:.2f} times" in made.table()


def test_ratio_is_of_medians():
    assert Throughput(4, 2, 100, packed_s=2.0, alone_s=5.0, gap=0.0).ratio == 2.5


def test_the_example_holds_mixed_sizes_in_rows_of_the_quickstart():
    model, requests = example_model(), mixed_requests(24)
    layout = lay_out(model, requests)
    assert len({dataclasses.replace(r, prompt="", seed=0) for r in requests}) == 6
    assert 1 < len(layout.rows) < 24 and layout.limits.tokens <= 576
    tokens = sum(math.prod(grid) for grid in layout.grids)
    assert tokens > 0.8 * layout.limits.tokens * len(layout.rows), "little is left empty"
