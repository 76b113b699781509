"""Reads many clips at once: a world's parser, in processes of its own.

Parsing is numpy on small arrays, nearly all of it under Python's lock, so threads help little. A
process here imports the worlds and nothing else, so it starts in a moment.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vidsim.worlds.base import World, from_spec

ENOUGH = 16  # clips from which processes are worth their start
MOST = 8  # processes

Read = dict[str, float]


def read_clips(
    world: World,
    videos: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, Any]],
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
) -> list[Read]:
    """What a world's parser reads from each clip against its truth: attribute -> correctness.

    videos     uint8 [T,H,W,3]
    processes  None: a processor each, and none of their own for a few clips
    Raises     what the parser raises; RuntimeError when a process ends
    """
    pairs = list(zip(videos, map(dict, truths), strict=True))
    ways = min(os.cpu_count() or 1, MOST) if processes is None else processes
    few = processes is None and len(pairs) < ENOUGH
    made = _here(world, pairs) if few or ways < 2 else _apart(world, pairs, ways)
    rows: list[Read] = []
    if progress:
        progress(0, len(pairs))
    for row in made:
        rows.append(row)
        if progress:
            progress(len(rows), len(pairs))
    return rows


def _here(world: World, pairs: Sequence[Any]) -> Iterator[Read]:
    return (world.compare(world.parse(video), truth) for video, truth in pairs)


def _apart(world: World, pairs: Sequence[Any], ways: int) -> Iterator[Read]:
    """The same in `ways` processes, each fed by a thread; results in the order of the clips."""
    workers = [_Worker(world.spec) for _ in range(min(ways, len(pairs)))]
    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            free = list(workers)

            def one(pair: Any) -> Read:
                worker = free.pop()  # as many threads as workers: one is always free
                try:
                    return worker.read(pair)
                finally:
                    free.append(worker)

            yield from pool.map(one, pairs)
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """A process that reads one clip at a time."""

    def __init__(self, spec: str) -> None:
        one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vidsim.worlds.reader", spec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | one_thread,
        )  # fmt: skip

    def read(self, pair: Any) -> Read:
        """Raises what the parser raised, RuntimeError when the process has ended."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump(pair, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            code = process.wait()
            raise RuntimeError(f"a process that reads clips ended with code {code}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def _serve(spec: str) -> None:
    """Answers every (video, truth) on standard input with what is read, or what went wrong."""
    world = from_spec(spec)
    answers = os.fdopen(os.dup(1), "wb")
    while True:
        try:
            video, truth = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: Any = world.compare(world.parse(video), truth)
        except Exception as error:
            answer = error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
