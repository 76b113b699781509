"""Training crops: pure in the step, taken from the clips, on a few static shapes."""

import grain
import numpy as np
import pytest
from PIL import Image

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.core.host_random import clip_key
from vidsim.data import crops as crops_module
from vidsim.data.bench_data import bench_data
from vidsim.data.crops import CropConfig, CropPlan, crop_batches, whole_clips
from vidsim.data.index import ClipIndex, build_index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Videos of three sizes and two images, every pixel different."""
    root = tmp_path_factory.mktemp("crops")
    for name, shape in (
        ("a", (9, 64, 80)),
        ("b", (20, 48, 48)),
        ("c", (5, 96, 64)),
        ("d", (12, 32, 32)),
    ):
        media.write_video(root / f"{name}.mkv", media.noise(*shape), "ffv1", "bgr0")
    for name, shape in (("e", (1, 64, 64)), ("f", (1, 48, 100))):
        Image.fromarray(media.noise(*shape)[0]).save(root / f"{name}.png")
    build_index(str(root), root / "index.parquet")
    return ClipIndex.open(root / "index.parquet")


MIXED = CropConfig(((5, 48, 48), (9, 32, 32), (1, 48, 64)), 3, image_batch_size=5, image_share=0.3)


def test_every_crop_is_a_part_of_its_clip(index):
    plan, wholes = CropPlan(index, MIXED, seed=1), dict(whole_clips(index))
    corners = set()
    for step in range(30):
        (frames, height, width), crops = plan.crops(step)
        batch = plan.batch(step)
        assert batch["video"].shape == (5 if frames == 1 else 3, frames, height, width, 3)
        for video, (row, first, top, left) in zip(batch["video"], crops, strict=True):
            part = wholes[row][first : first + frames, top : top + height, left : left + width]
            np.testing.assert_array_equal(video, part)
            corners.add((row, first, top, left))
    assert len(corners) > 60


def test_steps_are_random_access_and_depend_on_the_seed(index):
    batches = crop_batches(index, MIXED, seed=1)
    again = crop_batches(index, MIXED, seed=1)
    for step in (1_000_000_007, 3, 0):
        for key in ("video", "clip_key"):
            np.testing.assert_array_equal(batches[step][key], again[step][key])
    other = CropPlan(index, MIXED, seed=2)
    same = [CropPlan(index, MIXED, 1).crops(s) == other.crops(s) for s in range(20)]
    assert sum(same) == 0


def test_threads_and_memory_change_nothing(index):
    plan = CropPlan(index, MIXED, seed=4)
    expected = [plan.batch(step) for step in range(8)]
    kept = CropConfig(**(vars(MIXED) | {"cache_bytes": 1 << 22}))
    for config in (MIXED, kept):
        for threads in (1, 3):
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
            found = crop_batches(index, config, 4)[:8].to_iter_dataset(options)
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_array_equal(a["video"], b["video"])
                np.testing.assert_array_equal(a["clip_key"], b["clip_key"])


@pytest.mark.slow
def test_worker_processes_change_nothing(index):
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    plan = CropPlan(index, MIXED, seed=4)
    for workers in (1, 2):
        options = grain.MultiprocessingOptions(num_workers=workers)
        found = crop_batches(index, MIXED, 4)[:5].to_iter_dataset().mp_prefetch(options)
        for step, batch in enumerate(found):
            np.testing.assert_array_equal(batch["video"], plan.batch(step)["video"])
        assert step == 4


def test_the_share_of_image_steps(index):
    plan, steps = CropPlan(index, MIXED, seed=0), 4000
    canvases = [plan.canvas(step) for step in range(steps)]
    images = np.mean([canvas[0] == 1 for canvas in canvases])
    assert abs(images - 0.3) < 5 * np.sqrt(0.3 * 0.7 / steps)
    videos = [canvas for canvas in canvases if canvas[0] > 1]
    assert abs(np.mean([c == (5, 48, 48) for c in videos]) - 0.5) < 5 * np.sqrt(0.25 / len(videos))


def test_only_clips_that_fit_and_each_equally(index):
    plan = CropPlan(index, MIXED, seed=0)
    names = {canvas: [index.clip_id[row] for row in rows] for canvas, rows in plan.pools.items()}
    assert names == {
        (5, 48, 48): ["a.mkv", "b.mkv", "c.mkv"],
        (9, 32, 32): ["a.mkv", "b.mkv", "d.mkv"],
        (1, 48, 64): ["e.png", "f.png"],
    }
    assert plan.unused == 0
    assert CropPlan(index, CropConfig(((5, 48, 48),), 1), 0).unused == 3
    frames = CropPlan(index, CropConfig(((1, 48, 48),), 1, frames_as_images=True), 0)
    assert len(frames.pools[1, 48, 48]) == 5
    one = CropPlan(index, CropConfig(((5, 48, 48),), 1), 0)
    drawn = np.bincount([one.crops(step)[1][0][0] for step in range(3000)], minlength=6)
    assert (np.abs(drawn[:3] - 1000) < 5 * np.sqrt(3000 * 2 / 9)).all()


def test_clips_repeat_only_when_there_are_too_few(index):
    plan = CropPlan(index, CropConfig(((5, 48, 48),), 7), 0)
    for step in range(10):
        rows = [row for row, *_ in plan.crops(step)[1]]
        assert sorted(np.bincount(rows)) == [2, 2, 3]
        batch = plan.batch(step)
        expected = [
            clip_key(index.clip_id[row], 0, rows[:b].count(row)) for b, row in enumerate(rows)
        ]
        assert batch["clip_key"].tolist() == expected
        assert len(set(expected)) == 7


def test_a_canvas_that_nothing_fills_is_named(index):
    with pytest.raises(
        BadInput, match=r"crops: no clip fills canvas \(21, 32, 32\); .* up to 20, "
    ):
        crop_batches(index, CropConfig(((21, 32, 32),), 1), 0)
    with pytest.raises(BadInput, match=r"no clip fills canvas \(1, 96, 64\); .*; or set frames_as"):
        crop_batches(index, CropConfig(((1, 96, 64),), 1), 0)
    for wrong in (
        {"canvases": ()}, {"canvases": ((0, 8, 8),)}, {"batch_size": 0}, {"image_share": 1.5},
        {"image_share": 1.0}, {"cache_bytes": -1},
    ):  # fmt: skip
        with pytest.raises(BadInput, match="CropConfig"):
            CropConfig(**({"canvases": ((5, 8, 8),), "batch_size": 1} | wrong))


def test_the_memory_of_decoded_clips_is_bounded(index):
    cache = crops_module._ClipCache()
    size = 3 * 20 * 48 * 48
    for _ in range(3):
        for row in range(len(index)):
            cache.get(index, row, 5 * size)
            assert cache._bytes == sum(v.nbytes for v in cache._clips.values()) <= 5 * size
    assert cache.get(index, 1, 3 * size) is None  # over a quarter of the memory


def test_whole_clips_in_order_and_cut(index):
    found = list(whole_clips(index))
    assert [row for row, _ in found] == list(range(6))
    assert [len(video) for _, video in found] == index.num_frames.tolist()
    for row, video in whole_clips(index, rows=[4, 1], max_frames=6):
        np.testing.assert_array_equal(video, found[row][1][:6])


def test_bench_counts_what_was_read(index):
    rates = bench_data(index, MIXED, threads=(1, 2), seconds=0.1)
    assert [(rate.work, rate.threads) for rate in rates] == [
        ("whole clips", 1), ("whole clips", 2), ("crops", 1), ("crops", 2)
    ]  # fmt: skip
    assert all(rate.frames_s >= rate.clips_s > 0 and rate.megapixels_s > 0 for rate in rates)
