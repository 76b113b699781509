"""The law that the benchmark compares with, against tiles counted one by one."""

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.nn import attention_bench as bench


@pytest.mark.parametrize("draw", [bench.even_lengths, bench.uneven_lengths])
def test_the_law_is_the_mean_number_of_tiles_that_hold_a_partner(draw):
    """Over borders that fall at random; a single packing may lie on either side."""
    rng, tokens, text = np.random.default_rng(0), 1024, 128
    for count in (3, 16):
        shares, laws = [], []
        for _ in range(60):
            n, m = draw(rng, tokens, text, count)
            assert n.sum() == tokens and m.sum() == text and min(*n, *m) >= 1
            ids, words = (np.repeat(np.arange(count), x) for x in (n, m))
            for other, tile, lengths in ((ids, 32, n), (words, 8, m)):
                same = ids[:, None] == other[None]
                shares.append(same.reshape(tokens // 32, 32, -1, tile).any((1, 3)).mean())
                laws.append(bench.law(n, lengths, 32, tile))
        # the ends of the row cut no tile, and clips as small as a tile share some: the law is a
        # little above what is needed
        assert 0.9 < np.mean(shares) / np.mean(laws) <= 1.0


def test_targets_are_those_of_every_packing():
    row = bench.Row("self", "16", 1.0, 1.0, 0.14, 0.1, 1.0)
    rows = [bench.Row("self", "1", 1.0, 1.0, 1.0, 1.0, 1.0), row]
    result = lambda *more: bench.Result([*rows, *more], 16384, 1024, 2, 64, "float32", 1, "cpu", {})  # noqa: E731,E501
    assert result().met and "met" in bench.table(result())
    missed = bench.Row("cross", "4", 1.0, 1.0, 0.4, 0.2, 1.0)
    assert not result(missed).met and "MISSED" in bench.table(result(missed))
    assert not result(bench.Row("self", "16", 1.0, 1.0, 0.16, 0.2, 1.0)).met


def test_a_row_shorter_than_its_clips_is_refused():
    with pytest.raises(BadInput, match="--tokens: 100"):
        bench.run(100, 1)
