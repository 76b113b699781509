"""Chunked coding equals whole-clip coding, to the last bit, in constant memory."""

import dataclasses

import jax
import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.models.vae import Vae, VaeConfig, preset
from vidsim.models.vae_stream import decode_chunk, decode_stream, encode_chunk, encode_stream

# Exact, on CPU in float32. Every sum of the model is a matrix product or a convolution, and their
# rounding does not depend on the number of frames as long as a chunk has some 64 positions (the
# library splits the sums of smaller products among threads): hence the size of the clip.
SIZE = 64
PLAIN = VaeConfig(
    latent_channels=4, base_dim=8, dim_mult=(1, 2, 2), num_res_blocks=1, decoder_res_blocks=1,
    space_down=(True, False), time_down=(True, True), patch=(1, 4, 4),
)  # fmt: skip
RESIDUAL = dataclasses.replace(preset("tiny"), dim_mult=(1, 1), residual=True)


@pytest.fixture(scope="module", params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def case(request):
    vae = Vae(request.param)
    shapes, tree = jax.tree.flatten(jax.eval_shape(vae.init, jax.random.key(0)))
    draw = np.random.default_rng(0).normal
    weights = [draw(size=x.shape) / np.sqrt(np.prod(x.shape[:-1])) for x in shapes]
    params = tree.unflatten([w.astype("f") for w in weights])
    video = np.random.default_rng(1).uniform(-1, 1, (1, 17, SIZE, SIZE, 3)).astype("f")
    mean, logvar = jax.jit(vae.encode)(params, video)
    return vae, params, video, mean, logvar, np.asarray(jax.jit(vae.decode)(params, mean))


def _join(parts):
    return np.concatenate([np.asarray(part) for part in parts], 1)


@pytest.mark.parametrize("latent_frames", [1, 2])
def test_chunked_equals_whole(case, latent_frames):
    vae, params, video, mean, logvar, pixels = case
    coded = list(encode_stream(vae, params, [video], latent_frames=latent_frames))
    np.testing.assert_array_equal(_join(part.mean_Bthwc for part in coded), mean)
    np.testing.assert_array_equal(_join(part.logvar_Bthwc for part in coded), logvar)
    parts = decode_stream(vae, params, [mean], latent_frames=latent_frames)
    np.testing.assert_array_equal(_join(part.video_BTHWC for part in parts), pixels)


def test_a_first_chunk_of_several_frames_equals_the_whole(case):
    vae, params, video, mean, _, pixels = case
    state, head, _ = encode_chunk(vae, params, None, video[:, :9])
    _, tail, _ = encode_chunk(vae, params, state, video[:, 9:])
    np.testing.assert_array_equal(_join([head, tail]), mean)
    state, head = decode_chunk(vae, params, None, mean[:, :3])
    _, tail = decode_chunk(vae, params, state, mean[:, 3:])
    np.testing.assert_array_equal(_join([head, tail]), pixels)


def test_a_saved_state_continues_the_clip(case):
    """The state is plain arrays: through the disk and back it still continues to the bit."""
    vae, params, video, mean, _, pixels = case
    *_, coded = encode_stream(vae, params, [video[:, :9]])
    *_, decoded = decode_stream(vae, params, [mean[:, :3]])
    for state, stream, rest, want, field in (
        (coded.state, encode_stream, video[:, 9:], mean[:, 3:], "mean_Bthwc"),
        (decoded.state, decode_stream, mean[:, 3:], pixels[:, 9:], "video_BTHWC"),
    ):
        saved = jax.tree.map(lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
                             jax.device_get(state))  # fmt: skip
        parts = stream(vae, params, [rest], state=saved)
        np.testing.assert_array_equal(_join(getattr(part, field) for part in parts), want)


def test_pieces_may_have_any_length(case):
    vae, params, video, mean, *_ = case
    cuts = [video[:, a:b] for a, b in ((0, 2), (2, 3), (3, 11), (11, 11), (11, 17))]
    parts = encode_stream(vae, params, iter(cuts), latent_frames=2)
    np.testing.assert_array_equal(_join(part.mean_Bthwc for part in parts), mean)


def test_memory_is_constant_and_each_shape_compiles_once(case):
    """The state never grows and the source is read no further ahead than one chunk."""
    vae, params, video, *_ = case
    read = []

    def source():
        for i in range(1 + 4 * 6):
            read.append(i)
            yield video[:, i % 17 : i % 17 + 1]

    encode_chunk._clear_cache()
    sizes = []
    for i, part in enumerate(encode_stream(vae, params, source())):
        assert len(read) <= 1 + 4 * i
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(part.state)))
    assert len(sizes) == 7 and len(set(sizes)) == 1
    assert encode_chunk._cache_size() == 2  # the first frame, and four frames


def test_a_canvas_is_coded_in_chunks_too(case):
    """As the clip alone, up to the order of float32 sums."""
    vae, params, video, *_ = case
    canvas = np.concatenate([video, np.full_like(video, np.nan)], axis=3)
    valid = np.array([[SIZE // vae.cfg.space_stride] * 2], np.int32)
    got = _join(part.mean_Bthwc for part in encode_stream(vae, params, [canvas], valid))
    np.testing.assert_allclose(got[:, :, :, : got.shape[3] // 2], case[3], atol=1e-5)


def test_left_over_frames_are_refused(case):
    vae, params, video, *_ = case
    with pytest.raises(BadInput, match=r"2 frames left over; 1 \+ k \* 4 frames in all"):
        list(encode_stream(vae, params, [video[:, :7]]))
