"""Random streams, digests, errors: the laws that everything above relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core import host_random, keys, trees
from vidsim.core.batch import check_batch
from vidsim.core.digest import digest
from vidsim.core.dims import check
from vidsim.core.errors import BadInput, bad, nearest


def test_error_is_one_line_with_where_what_allowed_change():
    error = bad("--size", "50x50", "multiples of 16", "use 48x48")
    assert str(error) == "--size: 50x50; multiples of 16; use 48x48"
    assert "\n" not in str(bad("a", "b\nc"))


def test_nearest_names_the_typo():
    assert nearest("lerning_rate", ["learning_rate", "steps"]) == "did you mean 'learning_rate'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_host_hash_is_pinned_across_versions():
    # Written down once: a change here changes every data order and every held-out split.
    assert host_random.stable_hash("a", 1) == host_random.stable_hash("a", np.int64(1))
    assert host_random.stable_hash("ab") != host_random.stable_hash("a", "b")
    ids = np.arange(200_000)
    draws = host_random.hash_uniform(3, "stream", ids)
    np.testing.assert_array_equal(draws[::-1], host_random.hash_uniform(3, "stream", ids[::-1]))
    # Mean and neighbour correlation of 200,000 uniforms: five standard errors.
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12 / ids.size) ** 0.5
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / ids.size**0.5
    assert (
        abs(np.corrcoef(draws, host_random.hash_uniform(4, "stream", ids))[0, 1])
        < 5 / ids.size**0.5
    )


def test_clip_key_is_never_the_empty_slot():
    drawn = {host_random.clip_key(f"clip{i}", 0, 0) for i in range(5000)}
    assert 0 not in drawn and len(drawn) > 4990


def test_token_noise_depends_on_clip_and_index_only():
    key = keys.stream(0, "noise", 7)
    clips = jnp.array([[5, 5, 9, 9]], jnp.uint32)
    index = jnp.array([[0, 1, 0, 1]], jnp.int32)
    noise = keys.token_normal(key, clips, index, 8)
    moved = keys.token_normal(key, clips[:, ::-1], index[:, ::-1], 8)
    np.testing.assert_array_equal(noise[:, ::-1], moved)
    assert len({tuple(row) for row in np.asarray(noise[0])}) == 4
    assert not np.array_equal(noise, keys.token_normal(keys.stream(0, "noise", 8), clips, index, 8))


def test_streams_accept_a_traced_step():
    traced = jax.jit(lambda s: jax.random.key_data(keys.stream(0, "t", s)))(jnp.int32(4))
    np.testing.assert_array_equal(traced, jax.random.key_data(keys.stream(0, "t", 4)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8])
def test_digest_sees_any_flipped_bit_and_any_swap(dtype):
    x = jnp.arange(1, 49).reshape(6, 8).astype(dtype)
    base = int(digest(x))
    raw = np.asarray(x).view(np.uint8)
    for byte in range(0, raw.size, 7):
        for bit in (0, 7):
            flipped = raw.copy()
            flipped.reshape(-1)[byte] ^= 1 << bit
            assert int(digest(jnp.asarray(flipped.view(np.asarray(x).dtype)))) != base
    assert int(digest(x[::-1])) != base


def test_digest_is_free_of_sharding():
    x = jnp.arange(64.0).reshape(8, 8)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d")))
    assert int(digest(split)) == int(digest(x))


def test_trees_flatten_round_trip_keeps_axes_as_leaves():
    tree = {"a": {"w": np.ones(2), "b": np.zeros(3)}, "c": np.ones(1)}
    flat = trees.flatten(tree)
    assert list(flat) == ["a/b", "a/w", "c"]
    assert trees.count(tree) == 6
    np.testing.assert_array_equal(trees.unflatten(flat)["a"]["w"], tree["a"]["w"])
    assert trees.flatten({"x": ("embed", None)}) == {"x": ("embed", None)}
    assert float(trees.global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])})) == 5.0


def test_dims_name_the_letter():
    with pytest.raises(BadInput, match="q has N=5 patch tokens; expected 4"):
        check("attend", {"N": 4}, q=((2, 5), "RN"))
    with pytest.raises(BadInput, match="expected 3 axes RN3"):
        check("attend", {}, q=((2, 5), "RN3"))


def test_check_batch_names_what_is_missing():
    with pytest.raises(BadInput, match="patches"):
        check_batch({})
