"""Tiles are the whole picture: reach measured by perturbation, pixels compared, sides covered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.models.codec import CodecConfig, decode_clips
from vidsim.models.tiles import decode_tiled, decoder_reach, spans
from vidsim.models.vae import Vae, VaeConfig

SMALL = {"latent_channels": 3, "base_dim": 8, "num_res_blocks": 1, "decoder_res_blocks": 1,
         "mid_attention": False}  # fmt: skip
SHAPES = {
    "patch": VaeConfig(**SMALL, dim_mult=(1,), space_down=(), time_down=(), patch=(2, 4, 4),
                       middle=False, edge_kernel=1),
    "stage": VaeConfig(**SMALL, dim_mult=(1, 2), space_down=(True,), time_down=(True,),
                       patch=(1, 2, 2)),
}  # fmt: skip
# uint8 pixels: other shapes add in another order, and a sum may fall on the other side of a half
STEPS = 1


def _weights(vae):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(vae.init, jax.random.key(0))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 1.5 * max(1, np.prod(x.shape[:-1])) ** -0.5, x.shape),
                              jnp.float32), shapes,
    )  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_reach_is_what_a_changed_latent_changes(name):
    vae = Vae(SHAPES[name])
    params, reach, stride = _weights(vae), decoder_reach(vae.cfg), vae.cfg.space_stride
    side = 2 * reach + 3
    latent = np.random.default_rng(1).normal(size=(1, 1, side, side, 3)).astype(np.float32)
    other = latent.copy()
    other[0, 0, side // 2, side // 2] += 1.0
    decode = jax.jit(lambda x: vae.decode(params, x))
    changed = np.abs(np.asarray(decode(latent) - decode(other)))[0, 0].max(-1) > 0
    rows = np.flatnonzero(changed.any(1)) // stride
    assert side // 2 - rows.min() <= reach and rows.max() - side // 2 <= reach
    # stated to a latent: one less would cut off what is seen
    assert max(side // 2 - rows.min(), rows.max() - side // 2) == reach


@pytest.mark.parametrize("name", SHAPES)
def test_tiles_equal_the_whole_picture(name):
    vae = Vae(SHAPES[name])
    params = _weights(vae)
    rng = np.random.default_rng(2)
    shapes = [(1, 24, 31, 3), (3, 9, 20, 3)]
    latents = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    whole = decode_clips(vae, params, latents, CodecConfig(canvases=2))
    tiled = decode_tiled(vae, params, latents, 5, CodecConfig(canvases=2))
    for a, b in zip(whole, tiled, strict=True):
        assert a.shape == b.shape and a.std() > 10
        off = np.abs(a.astype(int) - b.astype(int))
        assert off.max() <= STEPS and (off > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [1, 9, 10, 11, 17, 40])
@pytest.mark.parametrize("tile,reach", [(4, 3), (1, 0), (7, 1)])
def test_kept_parts_cover_a_side_once_with_enough_around(size, tile, reach):
    made = spans(size, tile, reach)
    kept = [n for _, (first, end) in made for n in range(first, end)]
    assert kept == list(range(size))
    for (first, end), (low, high) in made:
        assert 0 <= first <= low < high <= end <= size
        assert low - first >= reach or first == 0
        assert end - high >= reach or end == size
        assert end - first == min(size, tile + 2 * reach)


def test_attention_in_the_frame_and_empty_tiles_are_refused():
    with pytest.raises(BadInput, match="attends in the whole frame"):
        decoder_reach(VaeConfig())
    with pytest.raises(BadInput, match="tiles of 0"):
        decode_tiled(Vae(SHAPES["patch"]), {}, [], 0)
