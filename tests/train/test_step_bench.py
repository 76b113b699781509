"""The model written in torch is the same model, so the comparison of steps is one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.models.dit import DiT
from vidsim.models.dit_torch import torch_batch, torch_forward, torch_weights
from vidsim.train import step_bench

torch = pytest.importorskip("torch", reason="extra: parity")
pytestmark = pytest.mark.parity

CFG = dataclasses.replace(step_bench.MODEL, width=24, heads=2, mlp_width=32, layers=2)
# Two float32 programs that sum in other orders: outputs of order 1 after two blocks.
TOLERANCE = 2e-5


@pytest.mark.parametrize("clips", [1, 3])
def test_torch_predicts_what_ours_predicts(clips):
    task, batch = step_bench.Regression(DiT(CFG)), step_bench.example(CFG, clips, 2, 96, 16)
    weights = task.weights()
    with torch.no_grad():
        theirs = torch_forward(torch_weights(weights, CFG), torch_batch(batch, CFG), CFG).numpy()
    ours = jax.jit(task.predict)(weights, {k: jnp.asarray(x) for k, x in batch.items()})
    assert np.abs(theirs).mean() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * np.abs(theirs).max(), rtol=0)


def test_steps_take_the_same_way_and_the_table_names_every_program():
    """Losses before and after one update agree, or `compare` refuses."""
    rows = step_bench.compare(2, CFG, (3,), ("float32",), (1, 96, 16), compiled=False)
    assert [row.program for row in rows] == ["vidsim", "torch"]
    assert rows[0].ratio_wall == rows[0].ratio_cpu == 1.0
    assert "torch" in step_bench.table(rows) and all(row.median_ms > 0 for row in rows)
