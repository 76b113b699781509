"""Fixed-noise validation: every clip counts once, the same way at every call."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.packed_clips import pack_all, some_clips
from vidsim.core.errors import BadInput
from vidsim.data.plan import PlanConfig
from vidsim.parallel.mesh import MeshConfig, build_mesh
from vidsim.parallel.place import replicated
from vidsim.train.validation import ValidationConfig, fixed_noise, make_validation, summarise


class Formula:
    """A task whose validation loss is known: gain * key of the clip * time; nonsense elsewhere."""

    def validation(self, params, batch, *, times, seed):
        key = (batch["clip_key"] % 1000).astype(jnp.float32)
        loss = params["gain"] * key[..., None] * times[None, None] + seed
        return jnp.where((batch["clip_key"] > 0)[..., None], loss, jnp.nan)


def state(gain, devices=1):
    mesh = build_mesh(MeshConfig(), jax.devices()[:devices])
    put = lambda x: jax.device_put(jnp.float32(x), replicated(mesh))  # noqa: E731
    return types.SimpleNamespace(params={"gain": put(99.0)}, ema={"gain": put(gain)})


def two_batches():
    clips = some_clips()
    layouts = ([[0, 1, 2], [3, 4]], [[5, 6], []])
    return clips, [jax.device_get(pack_all(clips, layout, 4)) for layout in layouts]


@pytest.mark.parametrize("devices", [1, 2])
def test_mean_over_clips_by_time_and_by_size(devices):
    clips, batches = two_batches()
    cfg = ValidationConfig(times=(0.25, 0.75))
    got = fixed_noise(Formula(), batches, cfg)(state(2.0, devices))
    keys = np.array([c.key % 1000 for c in clips], np.float64)
    assert got["n"] == len(clips) == sum(row["n"] for row in got["by_size"].values())
    assert got["loss"] == pytest.approx(keys.mean(), rel=1e-6)  # 2 x key x mean time 0.5
    assert got["t=0.25"] == pytest.approx(0.5 * keys.mean(), rel=1e-6)
    assert got["t=0.75"] == pytest.approx(1.5 * keys.mean(), rel=1e-6)
    for name in {f"{16 * c.grid[1]}x{16 * c.grid[2]}" for c in clips}:
        mine = [c.key % 1000 for c in clips if f"{16 * c.grid[1]}x{16 * c.grid[2]}" == name]
        assert got["by_size"][name] == {
            "loss": pytest.approx(np.mean(mine), rel=1e-6), "n": len(mine),
        }  # fmt: skip


def test_two_calls_agree_and_only_the_averaged_weights_matter():
    _, batches = two_batches()
    evaluate = fixed_noise(Formula(), batches, ValidationConfig())
    one = state(2.0)
    assert evaluate(one) == evaluate(one)
    other = types.SimpleNamespace(params={"gain": one.ema["gain"]}, ema=one.ema)
    assert evaluate(other) == evaluate(one)


def test_summary_weighs_clips_not_batches_or_sizes():
    losses = np.array([[1.0], [1.0], [4.0]])
    got = summarise(losses, np.array([[8, 8], [8, 8], [8, 16]]), (0.5,))
    assert got["loss"] == 2.0
    assert got["by_size"] == {"8x8": {"loss": 1.0, "n": 2}, "8x16": {"loss": 4.0, "n": 1}}


class InMemory:
    """Latents and captions as arrays: n clips of grid 1 x 2 x (1 or 2)."""

    has_midstream = False

    def __init__(self, n):
        self.hash, self.patch, self.channels, self.text_width = "memory", (1, 1, 1), 4, 0
        self.clip = np.arange(n, dtype=np.int32)
        self.grid = np.stack([np.ones(n), np.full(n, 2), 1 + np.arange(n) % 2], 1).astype(np.int32)
        self.fps = np.full(n, 8.0, np.float32)
        self.size_HW = 16 * self.grid[:, 1:]
        self.clip_key = (100 + np.arange(n)).astype(np.uint32)
        self.clip_hash = np.arange(n, dtype=np.uint64)
        self.caption_start = np.arange(n + 1)
        self.caption_kind = np.zeros(n, np.int32)
        self.kinds, self.text_tokens = ("short",), np.full(n, 3, np.int32)

    def latents(self, pieces):
        return [np.full((*self.grid[i], 4), float(i), np.float32) for i in pieces]

    def captions(self, numbers):
        return [np.array([1, 2, 3], np.int32) for _ in numbers]


def test_held_out_clips_are_packed_and_each_is_taken_at_most_once():
    plan = PlanConfig(
        row_tokens=8, row_text=12, row_segments=3, rows_per_step=2, group_rows=1, pool_rows=2
    )
    every = make_validation(Formula(), InMemory(23), plan, ValidationConfig((0.5,), batches=99))
    got = every(state(2.0))
    assert got["n"] == 23 and got["loss"] == pytest.approx(np.mean(100 + np.arange(23)))
    assert {k: v["n"] for k, v in got["by_size"].items()} == {"32x16": 12, "32x32": 11}
    some = make_validation(Formula(), InMemory(23), plan, ValidationConfig((0.5,), batches=2))
    assert 0 < some(state(2.0))["n"] <= 2 * 2 * 3


def test_impossible_settings_are_refused():
    for fields in ({"times": ()}, {"times": (0.0,)}, {"batches": 0}):
        with pytest.raises(BadInput, match="validation."):
            ValidationConfig(**fields)
