"""A request's tokens and key are its own: no neighbour changes them; sizes are checked up front."""

import numpy as np
import pytest

from vidsim.core.batch import check_batch
from vidsim.core.errors import BadInput
from vidsim.data.packing import RowLimits
from vidsim.generate.pack import (
    Request,
    TokenGrid,
    bucket,
    build_batch,
    fit_rows,
    noise_key,
    pack_rows,
    row_spans,
)

GRID = TokenGrid(4, 8, (1, 2, 2))
LIMITS = RowLimits(64, 40, 4)


@pytest.mark.parametrize(
    ("height", "width", "frames", "says"),
    [
        (100, 64, 1, "nearest 64x96"),
        (60, 7, 1, "nearest 16x64"),
        (0, 64, 1, "nearest 64x16"),
        (64, 64, 16, "nearest 17"),
        (64, 64, 6, "nearest 5"),
        (64, 64, 0, "nearest 1"),
    ],
)
def test_impossible_sizes_name_the_nearest(height, width, frames, says):
    with pytest.raises(BadInput, match=says) as error:
        GRID.grid(Request("x", height, width, frames))
    h, w, T = 64, 64, 1
    text = str(error.value).split("nearest ")[1]
    if "x" in text:
        w, h = (int(n) for n in text.split("x"))
    else:
        T = int(text)
    GRID.grid(Request("x", h, w, T))  # what is named is possible


def test_grid_counts_tokens():
    assert GRID.grid(Request("x", 48, 80, 1)) == (1, 3, 5)
    assert GRID.grid(Request("x", 48, 80, 33)) == (9, 3, 5)


def some_requests() -> list[Request]:
    sizes = [(32, 32, 5), (16, 64, 1), (48, 32, 1), (32, 64, 5), (16, 16, 9), (64, 64, 1)]
    return [Request("abc"[: i % 4], h, w, T, 8.0 + i, i) for i, (h, w, T) in enumerate(sizes)]


def build(requests, limits=LIMITS):
    grids = [GRID.grid(r) for r in requests]
    text = [np.arange(1, 2 + len(r.prompt), dtype=np.int32) for r in requests]
    rows = pack_rows([int(np.prod(g)) for g in grids], [len(t) for t in text], limits)
    R = bucket(len(rows), 8)
    return grids, rows, build_batch(requests, grids, text, rows, limits, R, 5)


def test_batch_keeps_the_contract_of_packed_batches():
    requests = some_requests()
    grids, rows, batch = build(requests)
    check_batch(batch)
    assert sorted(i for row in rows for i in row) == list(range(len(requests)))
    for r in range(len(batch["patch_segment"])):
        for name in ("patch_segment", "text_segment"):
            ids = batch[name][r]
            used = ids[ids > 0]
            count = len(rows[r]) if r < len(rows) else 0
            assert (np.diff(used) >= 0).all() and set(used) == set(range(1, count + 1))
            assert (ids[len(used) :] == 0).all()
    assert batch["num_tokens"] == (batch["patch_segment"] > 0).sum()
    assert batch["num_clips"] == len(requests)


def test_a_clip_is_the_same_beside_any_neighbours():
    requests = some_requests()
    grids, rows, batch = build(requests)
    spans = row_spans(rows, grids)
    for i, request in enumerate(requests):
        alone_grids, alone_rows, alone = build([request])
        r, span = spans[i]
        _, own = row_spans(alone_rows, alone_grids)[0]
        s = rows[r].index(i)
        assert (batch["patch_segment"][r, span] == s + 1).all()
        assert np.array_equal(batch["patch_position"][r, span], alone["patch_position"][0, own])
        for name in ("clip_key", "grid", "fps", "size"):
            assert np.array_equal(batch[name][r, s], alone[name][0, 0]), name
        text = batch["text_ids"][r][batch["text_segment"][r] == s + 1]
        assert np.array_equal(text, alone["text_ids"][0][alone["text_segment"][0] == 1])


def test_noise_key_depends_on_the_seed_alone_and_is_never_empty():
    keys = [noise_key(seed) for seed in range(1000)]
    assert len(set(keys)) == 1000 and min(keys) > 0 and max(keys) < 2**32


def test_capacities_are_kept():
    rng = np.random.default_rng(0)
    tokens, text = rng.integers(1, 65, 200).tolist(), rng.integers(1, 20, 200).tolist()
    for row in pack_rows(tokens, text, LIMITS):
        assert sum(tokens[i] for i in row) <= 64 and sum(text[i] for i in row) <= 40
        assert 1 <= len(row) <= 4


def test_what_fits_no_row_is_refused():
    with pytest.raises(BadInput, match="65 tokens"):
        pack_rows([65], [1], LIMITS)
    with pytest.raises(BadInput, match="--prompt"):
        pack_rows([1], [41], LIMITS)


def test_rows_have_the_length_that_leaves_least_of_them_empty():
    def length(tokens, most=8):
        limits, rows = fit_rows(tokens, [1] * len(tokens), LIMITS, most)
        assert sorted(i for row in rows for i in row) == list(range(len(tokens)))
        assert all(sum(tokens[i] for i in row) <= limits.tokens for row in rows)
        return limits.tokens, len(rows)

    assert length([10]) == (10, 1) and length([11]) == (12, 1) and length([33]) == (40, 1)
    assert length([64]) == (64, 1) and length([16, 16]) == (32, 1)
    assert length([1] * 5) == (3, 2), "more clips than a row has segments"
    assert length([40, 40]) == (40, 2), "not two rows of 64"
    assert length([50, 30]) == (56, 2) and length([60, 60]) == (64, 2)
    # three rows of 40 would be computed as four, for less than two of 64 hold
    assert length([40, 22, 40]) == (64, 2)
    assert length([33] * 9, most=8) == (40, 9), "two batches of eight, the shorter the better"
    assert [bucket(n, 8) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]


def test_bad_requests_are_refused():
    with pytest.raises(BadInput, match="--fps"):
        Request("x", 16, 16, fps=0)
    with pytest.raises(BadInput, match="--seed"):
        Request("x", 16, 16, seed=-1)
