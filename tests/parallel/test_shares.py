"""Groups of devices stand in for processes: each reads its share, together they make a batch."""

import jax
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.place import batch_sharding
from vidsim.parallel.shares import place_share, share_of

ROWS, TOKENS = 16, 12
LAYOUTS = [
    MeshConfig(data=8), MeshConfig(data=2, fsdp=4), MeshConfig(data=2, context=4),
    MeshConfig(data=1, fsdp=2, context=2, tensor=2), MeshConfig(data=1, context=4, tensor=2),
]  # fmt: skip


def whole_batch():
    rng = np.random.default_rng(0)
    return {
        "patches": rng.normal(size=(ROWS, TOKENS, 3)).astype(np.float32),
        "patch_segment": rng.integers(0, 9, (ROWS, TOKENS)).astype(np.int32),
        "text": rng.normal(size=(ROWS, 5, 2)).astype(np.float32),
        "clip_key": rng.integers(0, 9, (ROWS, 2)).astype(np.uint32),
        "num_clips": np.float32(7),
    }


def part_of(batch, share):
    """What a process with this share reads, by plain indexing."""
    rows = {k: x[share.rows] for k, x in batch.items() if x.ndim}
    for name in ("patches", "patch_segment"):
        rows[name] = rows[name][:, share.tokens]
    return rows | {"num_clips": batch["num_clips"]}


@pytest.mark.parametrize("config", LAYOUTS, ids=str)
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("micro_steps", [1, 2])
def test_a_share_holds_exactly_what_its_devices_need(config, processes, micro_steps):
    """Against the sharding's own answer for every device."""
    mesh = build_mesh(config)
    devices = mesh.devices.reshape(processes, -1)
    shape = (ROWS // micro_steps, TOKENS, 3)
    needed = batch_sharding(mesh, "patches", shape).devices_indices_map(shape)
    marks = np.arange(ROWS * TOKENS).reshape(micro_steps, ROWS // micro_steps, TOKENS)
    read = []
    for group in devices:
        share = share_of(mesh, ROWS, TOKENS, micro_steps, group)
        mine = marks.reshape(ROWS, TOKENS)[share.rows][:, share.tokens]
        wanted = {int(n) for d in group for n in marks[:, needed[d][0], needed[d][1]].ravel()}
        assert wanted == {int(n) for n in mine.ravel()}
        read.append(wanted)
    assert set().union(*read) == set(range(ROWS * TOKENS)), "nothing is left unread"


def test_two_processes_may_share_a_row():
    """One row group over two hosts: each reads all rows, and half of their tokens."""
    mesh = build_mesh(MeshConfig(data=1, context=8))
    shares = [share_of(mesh, 2, 16, 1, group) for group in mesh.devices.reshape(2, 4)]
    assert [s.rows.tolist() for s in shares] == [[0, 1], [0, 1]]
    assert [s.tokens for s in shares] == [slice(0, 8), slice(8, 16)]
    assert not any(s.whole for s in shares)
    mesh = build_mesh(MeshConfig(data=1, tensor=8))
    shares = [share_of(mesh, 2, 16, 1, group) for group in mesh.devices.reshape(2, 4)]
    assert all(s.whole for s in shares), "split by heads: both read everything"


@pytest.mark.parametrize("config", LAYOUTS, ids=str)
@pytest.mark.parametrize("micro_steps", [1, 2])
def test_parts_become_the_whole_batch(config, micro_steps):
    mesh, batch = build_mesh(config), whole_batch()
    placed = place_share(batch, mesh, share_of(mesh, ROWS, TOKENS, micro_steps), micro_steps)
    for name, x in batch.items():
        whole = x.reshape(micro_steps, -1, *x.shape[1:]) if x.ndim else x
        np.testing.assert_array_equal(placed[name], whole)


@pytest.mark.parametrize("config", LAYOUTS, ids=str)
def test_the_part_of_a_process_fills_its_devices(config, monkeypatch):
    """With a share of half the devices, every device of that half gets the whole batch's values."""
    mesh, batch = build_mesh(config), whole_batch()
    for group in mesh.devices.reshape(2, 4):
        share = share_of(mesh, ROWS, TOKENS, 2, group)
        seen = {}

        def remember(shape, sharding, part):
            for device, index in sharding.devices_indices_map(shape).items():
                if device in set(group.tolist()):  # noqa: B023
                    seen[shape, device] = (index, part(index))  # noqa: B023

        monkeypatch.setattr(jax, "make_array_from_callback", remember)
        place_share(part_of(batch, share), mesh, share, 2)
        monkeypatch.undo()
        wholes = {(2, ROWS // 2, *x.shape[1:]): x for x in batch.values() if x.ndim}
        assert len(seen) == 4 * 5
        for (shape, _), (index, value) in seen.items():
            whole = wholes[shape].reshape(shape) if shape else np.float32(7)
            np.testing.assert_array_equal(value, whole[index])


def test_rows_and_tokens_that_do_not_divide_are_refused():
    with pytest.raises(BadInput, match="'tokens' of size 10 over 4 devices"):
        share_of(build_mesh(MeshConfig(data=2, context=4)), 16, 10)
    with pytest.raises(BadInput, match="'rows' of size 6 over 8 devices"):
        share_of(build_mesh(MeshConfig(data=8)), 12, 12, 2)
    with pytest.raises(BadInput, match="5 rows in 2 micro-steps"):
        share_of(build_mesh(MeshConfig(data=8)), 5, 12, 2)
