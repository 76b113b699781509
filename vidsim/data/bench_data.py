"""How fast clips come off the disk: `vidsim bench data`."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

from vidsim.core.errors import bad
from vidsim.data.crops import CropConfig, crop_batches
from vidsim.data.index import ClipIndex


@dataclasses.dataclass(frozen=True)
class DataRate:
    """One measurement.

    work     "whole clips" (decoded from first to last frame, as encoding does) or "crops"
    threads  streams decoded at once, one thread each
    clips_s, frames_s, megapixels_s   per second of wall time; crops count as clips
    """

    work: str
    threads: int
    clips_s: float
    frames_s: float
    megapixels_s: float


def bench_data(
    index: ClipIndex,
    crops: CropConfig | None = None,
    *,
    threads: Sequence[int] = (1, 2),
    seconds: float = 5.0,
    seed: int = 0,
) -> list[DataRate]:
    """Measures decoding of whole clips, and of training crops when a configuration is given.

    seconds  of wall time for each row of the result, after one warm-up item
    """
    if seconds <= 0 or not threads or min(threads) < 1:
        raise bad("bench data", f"seconds={seconds} threads={threads}", "above 0")
    rows = np.random.default_rng(seed).permutation(len(index))
    rates = [_whole(index, rows, number, seconds) for number in threads]
    if crops is not None:
        rates += [_crops(index, crops, seed, number, seconds) for number in threads]
    return rates


def _whole(index: ClipIndex, rows: np.ndarray, threads: int, seconds: float) -> DataRate:
    order = itertools.cycle(rows.tolist())
    index.read(next(order))
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(index.read, next(order)) for _ in range(2 * threads)]

        def take() -> tuple[int, np.ndarray]:
            video_THWC = waiting.pop(0).result()
            waiting.append(pool.submit(index.read, next(order)))
            return 1, video_THWC

        rate = _rate("whole clips", threads, take, seconds)
        pool.shutdown(cancel_futures=True)
    return rate


def _crops(
    index: ClipIndex, crops: CropConfig, seed: int, threads: int, seconds: float
) -> DataRate:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = iter(crop_batches(index, crops, seed).to_iter_dataset(options))
    next(batches)

    def take() -> tuple[int, np.ndarray]:
        video_BTHWC = next(batches)["video"]
        return len(video_BTHWC), video_BTHWC

    rate = _rate("crops", threads, take, seconds)
    batches.close()
    return rate


def _rate(
    work: str, threads: int, take: Callable[[], tuple[int, np.ndarray]], seconds: float
) -> DataRate:
    clips = frames = pixels = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not clips:
        number, video = take()
        clips += number
        pixels += video.size // 3
        frames += video.size // (3 * video.shape[-3] * video.shape[-2])
    return DataRate(work, threads, clips / spent, frames / spent, pixels / spent / 1e6)
