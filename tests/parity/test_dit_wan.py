"""The denoiser against diffusers' WanTransformer3DModel, tiny and random, on CPU in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.models.dit import DiT
from vidsim.models.dit_config import preset
from vidsim.models.dit_import import config_from_wan, from_wan, to_wan
from vidsim.models.patches import patchify, token_grid, token_positions, unpatchify

torch = pytest.importorskip("torch", reason="extra: parity")
diffusers = pytest.importorskip("diffusers", reason="extra: parity")
pytestmark = pytest.mark.parity

# Two float32 programs that sum in other orders: outputs are of order 1 after two blocks.
TOLERANCE = 2e-5
SHAPE = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4,
    out_channels=4, text_dim=12, freq_dim=16, ffn_dim=40, num_layers=2, cross_attn_norm=True,
    qk_norm="rms_norm_across_heads", eps=1e-6,
)  # fmt: skip


@pytest.fixture(scope="module")
def wan():
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(**SHAPE).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # ones at first, which would hide a wrong gain
                weight.add_(0.3 * torch.randn_like(weight))
            if name.endswith("bias"):
                weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def ours(wan):
    cfg, patch = config_from_wan(dict(wan.config))
    state = {name: array.numpy() for name, array in wan.state_dict().items()}
    return DiT(cfg), from_wan(state, cfg), patch


class ClipOf:
    """One clip for both: a latent, its text, a level for each token."""

    def __init__(self, seed, size, text_tokens):
        rng = np.random.default_rng(seed)
        self.latent_thwc = rng.normal(size=(*size, 4)).astype(np.float32)
        self.text_ME = rng.normal(size=(text_tokens, 12)).astype(np.float32)
        self.grid = token_grid(self.latent_thwc.shape, (1, 2, 2))
        self.patches_NP = patchify(self.latent_thwc, (1, 2, 2))
        self.count = self.patches_NP.shape[0]
        self.level_N = rng.uniform(0, 1, self.count).astype(np.float32)


def _torch(model, clip, level):
    """x[t,h,w,c] of the published model at one level, or at a level a token."""
    latent = torch.from_numpy(clip.latent_thwc.transpose(3, 0, 1, 2)[None].copy())
    text, time = (
        torch.from_numpy(clip.text_ME[None]),
        torch.from_numpy(1000.0 * np.asarray(level)[None]),
    )
    with torch.no_grad():
        out = model(latent, time, text, return_dict=False)[0]
    return out[0].numpy().transpose(1, 2, 3, 0)


def _packed(dit, params, clips, levels, index, pad=3):
    """x of every clip from one packed row with padding, levels [K] and an index a token."""
    n, m = sum(c.count for c in clips) + pad, sum(len(c.text_ME) for c in clips) + pad
    row = {
        "patches": np.full((1, n, 16), 7.0, np.float32),
        "text": np.full((1, m, 12), 7.0, np.float32),
        "patch_segment": np.zeros((1, n), np.int32), "text_segment": np.zeros((1, m), np.int32),
        "position": np.zeros((1, n, 3), np.int32), "index": np.zeros((1, n), np.int32),
    }  # fmt: skip
    at = text_at = 0
    for s, clip in enumerate(clips):
        here, there = slice(at, at + clip.count), slice(text_at, text_at + len(clip.text_ME))
        row["patches"][0, here], row["text"][0, there] = clip.patches_NP, clip.text_ME
        row["patch_segment"][0, here], row["text_segment"][0, there] = s + 1, s + 1
        row["position"][0, here], row["index"][0, here] = token_positions(clip.grid), index[s]
        at, text_at = here.stop, there.stop
    slots = len(clips)
    x_RNP = dit.apply(
        params, jnp.asarray(row["patches"]), jnp.asarray(row["text"]),
        levels_RK=jnp.asarray(levels, jnp.float32)[None], level_index_RN=jnp.asarray(row["index"]),
        patch_segment_RN=jnp.asarray(row["patch_segment"]),
        text_segment_RM=jnp.asarray(row["text_segment"]),
        position_RN3=jnp.asarray(row["position"]), fps_RS=jnp.full((1, slots), 24.0),
        size_RS2=jnp.full((1, slots, 2), 64, jnp.int32),
    )  # fmt: skip
    out, at = [], 0
    for clip in clips:
        out.append(unpatchify(np.asarray(x_RNP[0, at : at + clip.count]), clip.grid, (1, 2, 2)))
        at += clip.count
    return out


def test_two_packed_clips_equal_each_alone_in_the_published_model(wan, ours):
    clips = [ClipOf(1, (3, 4, 6), 5), ClipOf(2, (1, 6, 4), 7)]
    levels = [0.3, 0.85]
    got = _packed(*ours[:2], clips, levels, index=[0, 1])
    for clip, level, x_thwc in zip(clips, levels, got, strict=True):
        np.testing.assert_allclose(x_thwc, _torch(wan, clip, level), atol=TOLERANCE, rtol=0)


def test_a_level_for_each_token_equals_the_published_two_dimensional_time(wan, ours):
    clips = [ClipOf(3, (2, 4, 4), 4), ClipOf(4, (1, 2, 6), 3)]
    levels = np.concatenate([c.level_N for c in clips])
    index = [np.arange(clips[0].count), clips[0].count + np.arange(clips[1].count)]
    got = _packed(*ours[:2], clips, levels, index)
    for clip, x_thwc in zip(clips, got, strict=True):
        np.testing.assert_allclose(x_thwc, _torch(wan, clip, clip.level_N), atol=TOLERANCE, rtol=0)


def test_blockwise_attention_agrees_with_the_published_model_too(wan, ours):
    dit = DiT(dataclasses.replace(ours[0].cfg, attention="cpu_blocks", loop="unroll"))
    clip = ClipOf(5, (3, 6, 6), 6)
    (x_thwc,) = _packed(dit, ours[1], [clip], [0.5], index=[0])
    np.testing.assert_allclose(x_thwc, _torch(wan, clip, 0.5), atol=TOLERANCE, rtol=0)


def test_gradients_of_a_weight_agree(wan, ours):
    """Through norms, rotary positions, attention and modulation, down to the patch matrix."""
    clip = ClipOf(6, (2, 4, 4), 4)
    latent = torch.from_numpy(clip.latent_thwc.transpose(3, 0, 1, 2)[None].copy())
    model = wan
    model.zero_grad()
    out = model(
        latent, torch.tensor([400.0]), torch.from_numpy(clip.text_ME[None]), return_dict=False
    )[0]
    (out**2).sum().backward()
    theirs = {k: v.grad.numpy() for k, v in model.named_parameters()}
    dit, params, patch = ours

    def loss(params):
        ids = lambda n: jnp.ones((1, n), jnp.int32)  # noqa: E731
        x_RNP = dit.apply(
            params, jnp.asarray(clip.patches_NP)[None], jnp.asarray(clip.text_ME)[None],
            levels_RK=jnp.full((1, 1), 0.4), level_index_RN=ids(clip.count) - 1,
            patch_segment_RN=ids(clip.count), text_segment_RM=ids(4),
            position_RN3=jnp.asarray(token_positions(clip.grid))[None],
            fps_RS=jnp.ones((1, 1)), size_RS2=jnp.ones((1, 1, 2), jnp.int32),
        )  # fmt: skip
        return jnp.sum(x_RNP**2)

    mine = to_wan(jax.grad(loss)(jax.tree.map(jnp.asarray, params)), dit.cfg, patch)
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        scale = np.abs(array).max() + 1e-3
        np.testing.assert_allclose(
            mine[name] / scale, array / scale, atol=1e-4, rtol=0, err_msg=name
        )


def test_weights_make_the_round_trip_unchanged(wan, ours):
    dit, params, patch = ours
    state = to_wan(params, dit.cfg, patch)
    theirs = wan.state_dict()
    assert state.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(state[name], array.numpy(), err_msg=name)


def test_clip_embeddings_added_to_public_weights_change_nothing(wan, ours):
    cfg = dataclasses.replace(ours[0].cfg, clip_embedding=True, num_actions=3)
    dit, clip = DiT(cfg), ClipOf(7, (1, 4, 4), 3)
    state = {name: array.numpy() for name, array in wan.state_dict().items()}
    params = from_wan(state, cfg, extra=dit.init(jax.random.key(0)))
    (with_clips,) = _packed(dit, params, [clip], [0.2], index=[0])
    (without,) = _packed(*ours[:2], [clip], [0.2], index=[0])
    np.testing.assert_allclose(with_clips, without, atol=1e-6)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("wan-1.3b", dict(num_attention_heads=12, ffn_dim=8960, num_layers=30)),
        ("wan-5b", dict(num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48)),
        ("wan-14b", dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)),
    ],
)
def test_presets_have_the_published_number_of_weights(name, changes):
    published = dict(attention_head_dim=128, in_channels=16, text_dim=4096, freq_dim=256)
    config = {**SHAPE, **published, **changes}
    config["out_channels"] = config["in_channels"]
    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel(**config)
    cfg, _ = config_from_wan(dict(model.config))
    assert DiT(cfg).num_params() == sum(p.numel() for p in model.parameters())
    assert (
        dataclasses.replace(preset(name), clip_embedding=False, remat="none", dtype="float32")
        == cfg
    )


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_weights_of_another_shape_are_refused_by_name(wan, ours, damage):
    state = {name: array.numpy() for name, array in wan.state_dict().items()}
    name = "blocks.1.attn2.to_k.weight"
    if damage == "missing":
        del state[name]
    elif damage == "extra":
        state["blocks.9.surprise"] = np.zeros(3)
        name = "surprise"
    else:
        for i in range(2):
            state[f"blocks.{i}.attn2.to_k.weight"] = np.zeros((3, 3), np.float32)
        name = "blocks/cross/k"
    with pytest.raises(BadInput, match=name):
        from_wan(state, ours[0].cfg)
