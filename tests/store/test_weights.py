"""Weights on disk: exact, known by their contents, never half written or half read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from vidsim.core.errors import BadInput
from vidsim.store.weights import load_model, save_model

CONFIG = {"kind": "vae", "channels": [4, 8]}


def params(scale=1.0):
    rng = np.random.default_rng(0)
    return {
        "in": {"w": jnp.asarray(scale * rng.normal(size=(3, 4)), jnp.float32)},
        "gain": jnp.float32(scale),
    }


def test_comes_back_bit_for_bit(tmp_path):
    name = save_model(tmp_path / "m", CONFIG, params(), {"mean": [0.5, 1.5]})
    model = load_model(tmp_path / "m")
    assert (model.config, model.extra, model.hash) == (CONFIG, {"mean": [0.5, 1.5]}, name)
    np.testing.assert_array_equal(model.params["in"]["w"], np.asarray(params()["in"]["w"]))
    assert model.params["gain"].shape == () and model.params["gain"] == 1.0


def test_another_reader_sees_the_same_arrays(tmp_path):
    save_model(tmp_path / "m", CONFIG, params())
    with safe_open(tmp_path / "m" / "model.safetensors", framework="numpy") as file:
        assert sorted(file.keys()) == ["gain", "in/w"]
        np.testing.assert_array_equal(file.get_tensor("in/w"), np.asarray(params()["in"]["w"]))


def test_hash_follows_contents_and_nothing_else(tmp_path):
    one = save_model(tmp_path / "a", CONFIG, params(), {"x": 1})
    assert one == save_model(tmp_path / "b", dict(reversed(CONFIG.items())), params(), {"x": 1})
    swapped = params()
    swapped["in"]["w"] = swapped["in"]["w"][::-1]
    others = [
        save_model(tmp_path / "c", CONFIG, params(2.0), {"x": 1}),
        save_model(tmp_path / "d", CONFIG | {"kind": "dit"}, params(), {"x": 1}),
        save_model(tmp_path / "e", CONFIG, params(), {"x": 2}),
        save_model(tmp_path / "f", CONFIG, swapped, {"x": 1}),
    ]
    assert len({one, *others}) == 5


def test_saving_the_same_again_is_fine_and_another_is_refused(tmp_path):
    first = save_model(tmp_path / "m", CONFIG, params())
    assert save_model(tmp_path / "m", CONFIG, params()) == first
    with pytest.raises(BadInput, match="holds other files"):
        save_model(tmp_path / "m", CONFIG, params(2.0))
    assert load_model(tmp_path / "m").hash == first
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_damage_is_refused_in_one_line(tmp_path, name, how):
    save_model(tmp_path / "m", CONFIG, params(), {"mean": [0.5]})
    path = tmp_path / "m" / name
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-30] ^= 1  # a weight, or a digit of the hash
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_a_config_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"steps": 3}))
    with pytest.raises(BadInput, match="not of a vidsim model"):
        load_model(tmp_path)
