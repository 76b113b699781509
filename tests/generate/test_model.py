"""A work directory gives back the model that was trained, or says in one line why it does not."""

import json

import jax
import numpy as np
import pytest

from tests.generate.tiny_generator import (
    LIMITS,
    TASK,
    VAE,
    denoiser_params,
    save_workdir,
    vae_params,
)
from vidsim.config import to_dict
from vidsim.core.errors import BadInput
from vidsim.core.exits import NoValidCheckpoint
from vidsim.core.trees import flatten
from vidsim.generate.model import load, load_vae
from vidsim.store.checkpoints import CheckpointStore
from vidsim.tasks.autoencoding import Autoencoding, AutoencodingConfig


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_workdir(folder)
    return folder


def equal(a, b, scale: float = 1.0) -> None:
    ours, theirs = flatten(a), flatten(b)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(np.asarray(value), scale * np.asarray(theirs[path]))


def test_newest_average_comes_back_bit_for_bit(workdir):
    model = load(workdir)
    assert model.task == TASK and model.limits == LIMITS and model.vae.vae == VAE
    equal(model.params, denoiser_params())
    equal(model.vae.params, vae_params())
    assert model.facts["step"] == 3 and model.facts["weights"] == "average"
    assert model.grid.grid is not None and model.patch_width == 12


def test_step_and_weights_can_be_chosen(workdir):
    equal(load(workdir, ema=False).params, denoiser_params(), -1.0)
    assert load(workdir, step=1).facts["step"] == 1
    with pytest.raises(BadInput, match="no checkpoint 2"):
        load(workdir, step=2)


def test_vae_is_found_in_its_folder_and_beside_a_run(workdir):
    assert load_vae(workdir).hash == load_vae(workdir / "vae").hash == load(workdir).vae.hash


def test_vae_comes_from_its_own_run_too(tmp_path):
    cfg = AutoencodingConfig(VAE.cfg)
    config = {"task": "autoencoding", "autoencoding": to_dict(cfg)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    params = jax.eval_shape(Autoencoding(cfg).init, jax.random.key(0))
    params = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), params) | {
        "vae": vae_params()
    }
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(5, {"params": params, "ema": params})
    store.wait()
    found = load_vae(tmp_path)
    equal(found.params, vae_params())
    assert found.facts["step"] == 5 and found.vae == VAE


def edited(workdir, tmp_path, **changes):
    """A copy whose config.json says something else."""
    for name in ("vae", "checkpoints"):
        (tmp_path / name).symlink_to(workdir / name)
    config = json.loads((workdir / "config.json").read_text())
    for key, value in changes.items():
        node = config
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "autoencoding"}, "a work directory of denoising"),
        ({"vae_hash": "f" * 64}, "trained on latents of ffffffffffff"),
        ({"denoising__dit__mlp_width": 48}, "another architecture"),
        ({"denoising__dit__patch_width": 8}, "patches of 8 numbers"),
        ({"denoising__dit__widht": 48}, "did you mean 'width'"),
        ({"denoising__text": None}, "frozen text encoder"),
    ],
)
def test_what_does_not_fit_is_named(workdir, tmp_path, changes, says):
    with pytest.raises(BadInput, match=says) as error:
        load(edited(workdir, tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_no_work_directory(tmp_path):
    with pytest.raises(BadInput, match="config.json"):
        load(tmp_path)
    with pytest.raises(BadInput, match="config.json"):
        load_vae(tmp_path)


def test_damaged_checkpoint_is_not_used(workdir, tmp_path):
    save_workdir(tmp_path)
    files = sorted((tmp_path / "checkpoints" / "3").rglob("*"), key=lambda p: p.stat().st_size)
    largest = files[-1]
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(bytes(raw))
    assert load(tmp_path).facts["step"] == 1
    with pytest.raises(NoValidCheckpoint):
        load(tmp_path, step=3)
