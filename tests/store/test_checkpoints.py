"""Checkpoints: exact, atomic, checked; every damage to every file is found and survived."""

import json
import pathlib
import shutil
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vidsim.core.errors import BadInput
from vidsim.core.exits import DiskFull, NoValidCheckpoint
from vidsim.store import checkpoints, manifest
from vidsim.store.checkpoints import CheckpointStore


def tree(seed, width=4):
    rng = np.random.default_rng(seed)
    params = {
        "blocks": {"w": jnp.asarray(rng.normal(size=(2, width, 8)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=(width,)), jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
    }
    return {"params": params, "opt": optax.adam(1e-3).init(params), "count": jnp.int32(seed)}


def abstract(values):
    def struct(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return {name: jax.tree.map(struct, value) for name, value in values.items()}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def saved(folder, steps, **options):
    store = CheckpointStore(folder, **options)
    for step in steps:
        store.save(step, tree(step), {"note": f"step {step}"})
    store.wait()
    return store


def test_restores_bit_for_bit_with_structure_and_facts(tmp_path):
    found = saved(tmp_path, [3]).restore(abstract(tree(0)))
    assert found.step == 3 and found.extra == {"note": "step 3"} and found.passed_over == ()
    assert_same(found.items, tree(3))


def test_donating_the_arrays_right_after_save_does_not_change_what_is_saved(tmp_path):
    bump = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = bump(jnp.zeros((512, 1024)))
    store = CheckpointStore(tmp_path)
    store.save(1, {"x": x})
    for _ in range(10):
        x = bump(x)
    store.wait()
    np.testing.assert_array_equal(np.asarray(store.load(["x"]).items["x"]["leaf"]), 1.0)


def test_reads_one_item_without_knowing_shapes(tmp_path):
    found = saved(tmp_path, [1, 2]).load(["params"])
    assert found.step == 2 and set(found.items) == {"params"}
    assert_same(found.items["params"], tree(2)["params"])
    assert saved(tmp_path, []).load(["params"], step=1).step == 1


def test_restores_onto_another_mesh(tmp_path):
    def mesh(shape):
        n = shape[0] * shape[1]
        return jax.make_mesh(
            shape, ("a", "b"), devices=jax.devices()[:n], axis_types=(AxisType.Auto,) * 2
        )

    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    store = CheckpointStore(tmp_path)
    split = NamedSharding(mesh((2, 2)), PartitionSpec("a", "b"))
    store.save(1, {"x": {"w": jax.device_put(x, split)}})
    store.wait()
    for shape, spec in (((1, 1), (None, None)), ((4, 2), ("b", "a")), ((1, 8), ("b",))):
        sharding = NamedSharding(mesh(shape), PartitionSpec(*spec))
        want = {"x": {"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}}
        out = store.restore(want).items["x"]["w"]
        assert out.sharding == sharding
        np.testing.assert_array_equal(np.asarray(out), x)


def test_keeps_the_newest_and_every_nth(tmp_path):
    store = saved(tmp_path, range(1, 11), keep=2, keep_every=4)
    assert store.steps() == [4, 8, 9, 10]


def test_saving_a_step_again_leaves_the_first(tmp_path):
    store = saved(tmp_path, [1])
    store.save(1, tree(9))
    assert_same(store.restore(abstract(tree(0))).items, tree(1))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t["params"].update(half=jnp.zeros((4,), jnp.float32)), "half is bfloat16[4]"),
        (lambda t: t["params"].pop("half"), "this model has absent"),
        (lambda t: t["params"].update(more=jnp.zeros((4,))), "more is absent"),
        (lambda t: t.update(tree(0, width=5)), "params/blocks/w is float32[2,4,8]"),
    ],
)
def test_another_architecture_is_refused_by_the_first_parameter(tmp_path, change, message):
    store, other = saved(tmp_path, [1]), tree(0)
    change(other)
    with pytest.raises(BadInput) as error:
        store.restore(abstract(other))
    assert message in str(error.value)
    assert store.steps() == [1], "a checkpoint of another model is not a damaged one"


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path).restore(abstract(tree(0))) is None
    with pytest.raises(BadInput, match="no checkpoint"):
        CheckpointStore(tmp_path).load(["params"])


def test_what_a_killed_process_leaves_is_never_read_and_is_removed(tmp_path):
    store = saved(tmp_path, [1])
    shutil.copytree(tmp_path / "1", tmp_path / "2.saving")
    shutil.copytree(tmp_path / "1", tmp_path / "3.saving.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "0.deleting")
    assert store.steps() == [1] and store.restore(abstract(tree(0))).step == 1
    assert len(store.clean()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def damage(path, how):
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0x10
        path.write_bytes(flipped)


@pytest.mark.slow
def test_every_damage_to_every_file_is_found_and_the_older_step_is_used(tmp_path):
    """All files x {delete, truncate, flip one bit}: never a wrong array, never a silent pass."""
    origin, work = tmp_path / "origin", tmp_path / "work"
    saved(origin, [1, 2])
    files = [p.relative_to(origin) for p in (origin / "2").rglob("*") if p.is_file()]
    assert len(files) > 10 and pathlib.Path("2", manifest.NAME) in files
    want, whole, cases = abstract(tree(0)), tree(1), 0
    for name in files:
        for how in ("delete", "truncate", "flip"):
            if not (origin / name).stat().st_size and how != "delete":
                continue
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(origin, work)
            damage(work / name, how)
            found = CheckpointStore(work).restore(want)
            assert found.step == 1, f"{how} of {name} went unnoticed"
            assert_same(found.items, whole)
            assert name.name in found.passed_over[0] and found.passed_over[0].startswith("step 2")
            assert sorted(p.name for p in work.iterdir()) == ["1", "2.corrupt"]
            cases += 1
    assert cases > 40


def test_an_array_that_does_not_match_its_digest_is_damage_even_in_whole_files(tmp_path):
    store = saved(tmp_path, [1, 2])
    old = store.manifest(2)
    arrays = {k: dict(v) for k, v in old.arrays.items()}
    arrays["params/blocks/w"]["digest"] ^= 1
    manifest.write_manifest(
        tmp_path / "2", manifest.Manifest(2, old.files, arrays, old.extra, old.versions)
    )
    found = store.restore(abstract(tree(0)))
    assert found.step == 1 and "array params/blocks/w" in found.passed_over[0]


def test_all_damaged_ends_the_run(tmp_path):
    store = saved(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / str(step) / manifest.NAME).unlink()
    with pytest.raises(NoValidCheckpoint, match="none of 2") as end:
        store.restore(abstract(tree(0)))
    assert end.value.code == 46


def test_a_reader_passes_over_damage_and_moves_nothing(tmp_path):
    store = saved(tmp_path, [1, 2])
    (tmp_path / "2" / manifest.NAME).unlink()
    assert store.load(["params"]).step == 1
    assert store.steps() == [1, 2]


def test_a_failure_to_load_whole_files_is_not_called_damage(tmp_path, monkeypatch):
    store = saved(tmp_path, [1])

    def out_of_memory(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(checkpoints.ocp, "load_checkpointables", out_of_memory)
    with pytest.raises(MemoryError):
        store.restore(abstract(tree(0)))
    assert store.steps() == [1]


def test_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
    store = saved(tmp_path, [1])
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="10 are free") as end:
        store.save(2, tree(2))
    assert end.value.code == 47 and [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_step_and_the_space(tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        store = CheckpointStore(small)
        store.save(1, tree(1))
        big = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 2048)), jnp.float32)
        store.wait()
        monkeypatch.setattr(store, "_check_space", lambda needed: None)
        with pytest.raises(DiskFull, match="no space left"):
            store.save(2, {"big": {"w": big}})
            store.wait()
        assert [p.name for p in small.iterdir()] == ["1"]
        assert store.restore(abstract(tree(0))).step == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_error_of_a_background_save_reaches_the_caller_once(tmp_path, monkeypatch):
    def broken(_):
        raise OSError("cable out")

    monkeypatch.setattr(checkpoints.manifests, "list_files", broken)
    store = CheckpointStore(tmp_path)
    store.save(1, tree(1))
    with pytest.raises(OSError, match="cable out"):
        store.wait()
    store.wait()
    assert store.steps() == []


def test_saving_does_not_block_on_the_disk(tmp_path, monkeypatch):
    gate, real = threading.Event(), manifest.list_files

    def slow(folder):
        assert gate.wait(30)
        return real(folder)

    monkeypatch.setattr(checkpoints.manifests, "list_files", slow)
    store = CheckpointStore(tmp_path)
    store.save(1, tree(1))  # returns although the commit cannot finish
    assert store.steps() == []
    gate.set()
    store.wait()
    assert store.steps() == [1]


def test_manifest_lists_hashes_another_tool_agrees_with(tmp_path):
    saved(tmp_path, [1])
    body = json.loads((tmp_path / "1" / manifest.NAME).read_text())
    lines = [f"{sha}  {name}" for name, (_, sha) in body["files"].items()]
    done = subprocess.run(
        ["sha256sum", "--check", "--status"], input="\n".join(lines), text=True, cwd=tmp_path / "1"
    )
    assert done.returncode == 0
