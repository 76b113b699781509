"""Presets and sizes: what multiplies up is built, everything else is refused in one line."""

import types

import jax
import numpy as np
import pytest

from vidsim.config import from_dict, override, to_dict
from vidsim.core.errors import BadInput
from vidsim.parallel.mesh import AXES, PRESETS, MeshConfig, ParallelConfig, arrange, build_mesh
from vidsim.parallel.rules import TABLE
from vidsim.quickstart import denoiser_run
from vidsim.runs import build_run

SIZES = {
    "data": {}, "fsdp": {}, "tensor": {"tensor": 2}, "fsdp_tensor": {"tensor": 2},
    "context": {"context": 2}, "context_tensor": {"context": 2, "tensor": 2},
    "fsdp_context": {"context": 2}, "fsdp_context_tensor": {"context": 2, "tensor": 2},
}  # fmt: skip
SHAPES = {
    "data": (8, 1, 1, 1), "fsdp": (1, 8, 1, 1), "tensor": (4, 1, 1, 2), "fsdp_tensor": (1, 4, 1, 2),
    "context": (4, 1, 2, 1), "context_tensor": (2, 1, 2, 2), "fsdp_context": (1, 4, 2, 1),
    "fsdp_context_tensor": (1, 2, 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_uses_its_axes_and_gives_the_rest_to_one(name):
    config = ParallelConfig(name, **SIZES[name])
    assert config.shape(8) == SHAPES[name]
    assert tuple(build_mesh(config).shape.values()) == SHAPES[name]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"preset": "fsdb"}, "parallel.preset: 'fsdb'; did you mean 'fsdp'"),
        ({"preset": "fsdp", "tensor": 2}, "parallel.tensor: 2 with preset 'fsdp'.*fsdp_tensor"),
        ({"preset": "fsdp_tensor"}, "parallel.tensor: not given"),
        ({"data": 0}, "parallel.data: 0"),
        ({"slices": 0}, "parallel.slices: 0"),
        ({"preset": "fsdp", "data": -1, "fsdp": -1}, "at most one -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        ParallelConfig(**settings)


@pytest.mark.parametrize(
    "config, message",
    [
        (ParallelConfig("fsdp", fsdp=3), "fsdp=3.*on 8 devices"),
        (ParallelConfig("tensor", tensor=3), "tensor=3 on 8 devices"),
        (ParallelConfig("data", slices=3, data=8), "data=8 over 3 slices"),
    ],
)
def test_sizes_that_do_not_multiply_up_are_refused(config, message):
    with pytest.raises(BadInput, match=message):
        build_mesh(config)


def test_settings_of_the_command_line_reach_the_preset():
    plain = override({"preset": "data"}, ["preset=fsdp_tensor", "tensor=4"])
    assert from_dict(ParallelConfig, plain).shape(8) == (1, 2, 1, 4)


def chips(slices, each, platform="tpu"):
    """Stand-ins for the chips of several 2 x 2 x n slices, dealt out in turn."""
    places = ((i % slices, i // slices) for i in range(slices * each))
    return [
        types.SimpleNamespace(
            id=j, slice_index=s, platform=platform, device_kind="any", process_index=0,
            coords=(j % 2, j // 2 % 2, j // 4), core_on_chip=0,
        )
        for s, j in places
    ]  # fmt: skip


def test_only_data_crosses_the_slices():
    """Along every axis but data, all devices are of one slice; each slice is whole."""
    config = ParallelConfig("fsdp_tensor", slices=2, tensor=2)
    devices = arrange(config, chips(2, 8))
    assert devices.shape == (2, 4, 1, 2)
    of_slice = np.vectorize(lambda d: d.slice_index)(devices)
    assert all(len(np.unique(part)) == 1 for part in of_slice)
    assert len(np.unique(of_slice)) == 2
    with pytest.raises(BadInput, match="1 slices on devices of 2"):
        arrange(ParallelConfig("fsdp"), chips(2, 8))


def test_devices_without_slices_are_cut_into_runs():
    mesh = build_mesh(ParallelConfig("fsdp", slices=2))
    ids = np.vectorize(lambda d: d.id)(mesh.devices)[:, :, 0, 0]
    np.testing.assert_array_equal(ids, np.arange(8).reshape(2, 4))
    assert jax.device_count() == 8


def test_the_table_names_mesh_axes_only():
    entries = [e if isinstance(e, tuple) else (e,) for e in TABLE.values() if e]
    assert {axis for entry in entries for axis in entry} <= set(AXES)
    assert MeshConfig().shape(8) == (8, 1, 1, 1)


def test_older_work_directories_keep_their_mesh():
    """Their configuration has the sizes under the name "mesh"."""
    plain = to_dict(denoiser_run("latents", None, 3))
    old = {k: v for k, v in plain.items() if k != "parallel"}
    run = build_run(old | {"mesh": {"data": -1, "fsdp": 2, "context": 1, "tensor": 1}})
    assert run.parallel.shape(8) == (4, 2, 1, 1)
    assert build_run(old).parallel.shape(8) == (8, 1, 1, 1)
