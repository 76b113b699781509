"""Reading in processes of their own changes nothing."""

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.worlds.base import make
from vidsim.worlds.reader import ENOUGH, read_clips

WORLD = make("shapes", split="heldout", seed=5)


def scenes(count):
    infos = [
        WORLD.scene_for(i, height=48, width=64, num_frames=1 + 4 * (i % 2)) for i in range(count)
    ]
    videos = [WORLD.render(info.truth) for info in infos]
    noise = np.random.default_rng(0)
    noisy = [np.clip(v + noise.normal(0, 25, v.shape), 0, 255).astype(np.uint8) for v in videos]
    return videos[::2] + noisy[1::2], [info.truth for info in infos[::2] + infos[1::2]]


def test_processes_read_what_one_parser_reads_in_the_order_of_the_clips():
    videos, truths = scenes(ENOUGH + 3)
    plain = [WORLD.compare(WORLD.parse(v), t) for v, t in zip(videos, truths, strict=True)]
    seen = []
    apart = read_clips(WORLD, videos, truths, lambda *at: seen.append(at), processes=3)
    assert apart == plain
    assert read_clips(WORLD, videos, truths, processes=1) == plain
    assert seen == [(k, len(videos)) for k in range(len(videos) + 1)]
    assert any(0.0 in row.values() for row in plain)  # some are misread, so that rows differ


@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_parser_refuses_is_raised(processes):
    videos, truths = scenes(4)
    videos[2] = videos[2].astype(np.float32)
    with pytest.raises(BadInput, match="parse: float32"):
        read_clips(WORLD, videos, truths, processes=processes)


def test_a_process_that_ends_is_an_error(monkeypatch):
    videos, truths = scenes(2)
    monkeypatch.setattr("sys.executable", "/bin/true")
    with pytest.raises(RuntimeError, match="ended with code 0"):
        read_clips(WORLD, videos, truths, processes=2)
