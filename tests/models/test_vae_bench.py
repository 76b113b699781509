"""The benchmark compares what is equal, and says so."""

import pytest

from vidsim.models import vae_bench


def test_all_formulations_compute_the_same_and_are_timed():
    """Every row is there, in every formulation; outputs agree to the bound that `run` enforces."""
    rows = vae_bench.run(2, shapes=((1, 3, 8, 8, 8),))
    assert {"taps", "winograd"} <= {row.method for row in rows}
    assert all(row.min_ms <= row.median_ms and row.error < vae_bench.CLOSE for row in rows)
    assert "median ms" in vae_bench.table(rows)


@pytest.mark.parity
def test_ratios_are_to_torch():
    pytest.importorskip("torch")
    rows = vae_bench.run(2, shapes=((1, 3, 8, 8, 8),))
    theirs = [row for row in rows if row.method.startswith("torch")]
    assert len(theirs) == 2 and min(row.ratio for row in theirs) == pytest.approx(1.0)
