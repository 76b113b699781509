"""Mesh and rules: errors name the parameter; nothing is silently replicated."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vidsim.core.errors import BadInput
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.place import place_batch
from vidsim.parallel.rules import Rules, shardings


def test_mesh_fills_the_open_axis():
    assert MeshConfig(data=-1, fsdp=2).shape(8) == (4, 2, 1, 1)
    with pytest.raises(BadInput, match="fsdp=3"):
        MeshConfig(fsdp=3).shape(8)
    with pytest.raises(BadInput, match="at most one -1"):
        MeshConfig(data=-1, fsdp=-1)


def test_rules_refuse_unknown_names_and_double_use():
    rules = Rules()
    assert rules.spec(("embed", "mlp"), "w") == PartitionSpec(("fsdp", "context"), "tensor")
    with pytest.raises(BadInput, match="w: unknown logical axis 'embd'; did you mean 'embed'"):
        rules.spec(("embd",), "w")
    with pytest.raises(BadInput, match="twice"):
        rules.spec(("embed", "embed"), "w")


def test_indivisible_weight_is_named():
    mesh = build_mesh(MeshConfig(data=1, fsdp=8))
    with pytest.raises(BadInput, match="block/w: axis 'embed' of size 12"):
        shardings(Rules(), mesh, {"block": {"w": ("embed", None)}},
                  {"block": {"w": jax.ShapeDtypeStruct((12, 3), np.float32)}})  # fmt: skip


def test_batch_rows_are_split_and_scalars_copied():
    mesh = build_mesh(MeshConfig(data=4, fsdp=2))
    batch = {"x": np.arange(16.0).reshape(8, 2), "num_clips": np.float32(3)}
    placed = place_batch(batch, mesh)
    assert len({str(s.index) for s in placed["x"].addressable_shards}) == 8
    np.testing.assert_array_equal(placed["x"], batch["x"])
    assert float(placed["num_clips"]) == 3.0
