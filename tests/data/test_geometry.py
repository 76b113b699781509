"""Geometry against plain Python, one clip at a time, and its laws."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tests.reference.geometry_slow import cut
from vidsim.core.errors import BadInput
from vidsim.core.host_random import hash_uniform, stable_hash
from vidsim.data.geometry import GeometryConfig, make_pieces


def index_of(clips):
    """An index of (frames, height, width, fps) clips."""
    frames, height, width, fps = (np.array(c) for c in zip(*clips, strict=True))
    names = [f"clip {i}" for i in range(len(clips))]
    return SimpleNamespace(clip_id=names, num_frames=frames, height=height, width=width, fps=fps)


def random_clips(n, seed):
    rng = np.random.default_rng(seed)
    frames = np.where(rng.random(n) < 0.3, 1, rng.integers(0, 400, n))
    sizes = np.exp(rng.uniform(np.log(8), np.log(4000), (n, 2))).astype(int)
    return index_of(list(zip(frames, *sizes.T, rng.choice([8, 24, 30], n), strict=True)))


CONFIGS = {
    "defaults": GeometryConfig(),
    "split": GeometryConfig(long="split"),
    "small": GeometryConfig(max_area=128 * 128, max_frames=33, max_tokens=300),
    "shorten": GeometryConfig(max_tokens=1500, over_tokens="shorten", long="split"),
    "no limits": GeometryConfig(max_area=0, max_frames=0, max_tokens=10**9),
    "stride 8x16x16": GeometryConfig(vae_stride=(8, 16, 16), patch=(1, 1, 1), max_tokens=900),
    "pure space": GeometryConfig(vae_stride=(1, 4, 4), patch=(1, 1, 2), max_frames=20),
    "drawn": GeometryConfig(
        reduced_share=0.4,
        reduced_scales=(0.5, 0.25),
        decimate_share=0.4,
        decimate_strides=(2, 3),
        long="split",
        seed=5,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_plain_python_clip_by_clip(name):
    config, index = CONFIGS[name], random_clips(1500, seed=3)
    pieces, report = make_pieces(index, config)
    spans = {}
    for i, clip in enumerate(pieces.clip.tolist()):
        spans.setdefault(clip, []).append(i)
    kept = split = truncated = resized = dropped = frames_kept = 0
    for i, clip_id in enumerate(index.clip_id):
        f, h, w = (int(a[i]) for a in (index.num_frames, index.height, index.width))
        stride, scale = drawn(clip_id, f, h, w, config)
        expected = cut(f, h, w, config, stride, scale)
        assert bool(expected.dropped) == (i not in spans), (i, expected)
        if expected.dropped:
            dropped += 1
            continue
        rows = spans[i]
        assert pieces.scaled_HW[rows].tolist() == [list(expected.scaled)] * len(rows)
        assert pieces.size_HW[rows].tolist() == [list(expected.size)] * len(rows)
        columns = (pieces.start_frame, pieces.num_frames, pieces.stride)
        assert tuple(tuple(int(c[r]) for c in columns) for r in rows) == expected.spans
        assert pieces.piece[rows].tolist() == list(range(len(rows)))
        assert np.allclose(pieces.fps[rows], index.fps[i] / stride)
        kept += 1
        split += len(rows) > 1
        length = -(-f // stride)
        last = expected.spans[-1]
        truncated += len(rows) == 1 and length - last[1] >= config.vae_stride[0]
        frames_kept += sum(s[1] for s in expected.spans)
        resized += expected.scaled != (int(h * scale + 1e-6), int(w * scale + 1e-6))
    assert (report.kept_clips, report.split, report.truncated) == (kept, split, truncated)
    assert report.resized == resized and report.kept_frames == frames_kept
    assert sum(report.dropped.values()) == dropped and report.pieces == len(pieces)


def drawn(clip_id, frames, height, width, config):
    """Stride and scale that the rules draw for one clip."""
    ids = np.array([stable_hash(clip_id)], np.uint64)

    def draw(name, share, choices, default):
        if hash_uniform(config.seed, name, ids)[0] >= share:
            return default
        return choices[int(hash_uniform(config.seed, f"{name} choice", ids)[0] * len(choices))]

    stride = draw("decimated rate", config.decimate_share, config.decimate_strides, 1)
    scale = draw("reduced scale", config.reduced_share, config.reduced_scales, 1.0)
    stride = stride if frames > stride * config.vae_stride[0] else 1
    fits = height * scale >= config.unit[0] and width * scale >= config.unit[1]
    return stride, scale if fits else 1.0


@pytest.mark.parametrize("name", CONFIGS)
def test_crops_less_than_one_unit_and_keeps_every_limit(name):
    config, index = CONFIGS[name], random_clips(4000, seed=7)
    pieces, _ = make_pieces(index, config)
    unit, native = np.array(config.unit), np.stack([index.height, index.width], 1)[pieces.clip]
    lost = pieces.scaled_HW - pieces.size_HW
    assert (lost >= 0).all() and (lost < unit).all()
    assert (pieces.size_HW == pieces.grid[:, 1:] * unit).all()
    assert (pieces.num_frames == 1 + (pieces.grid[:, 0] - 1) * config.vae_stride[0]).all()
    assert pieces.tokens.max() <= config.max_tokens
    assert (pieces.scaled_HW <= native).all()
    if config.max_area:
        assert pieces.scaled_HW.astype(int).prod(1).max() <= config.max_area
    if config.max_frames:
        assert pieces.num_frames.max() <= config.max_frames
    # A resize rounds each side down by less than a pixel, so the aspect ratio is kept.
    scale = (pieces.scaled_HW / native).max(1)
    assert (np.abs(native * scale[:, None] - pieces.scaled_HW) <= 1 + 1e-6).all()
    last = pieces.start_frame + (pieces.num_frames - 1) * pieces.stride
    assert (pieces.start_frame >= 0).all() and (last < index.num_frames[pieces.clip]).all()


def test_split_pieces_have_no_gap_and_lose_less_than_one_unit_a_clip():
    config = GeometryConfig(long="split", max_frames=33)
    index = index_of([(f, 64, 64, 24) for f in range(1, 400)])
    pieces, report = make_pieces(index, config)
    end = pieces.start_frame + pieces.num_frames
    same = pieces.clip[1:] == pieces.clip[:-1]
    assert (pieces.start_frame[1:][same] == end[:-1][same]).all()
    longest = np.maximum.reduceat(pieces.num_frames, np.flatnonzero(pieces.piece == 0))
    shortest = np.minimum.reduceat(pieces.num_frames, np.flatnonzero(pieces.piece == 0))
    assert (longest - shortest <= 4).all() and longest.max() <= 33
    lost = index.num_frames - np.bincount(pieces.clip, pieces.num_frames)
    assert (lost >= 0).all() and (lost < 4).all()
    assert report.source_frames - report.kept_frames == lost.sum()


def test_known_sizes():
    sizes = [(129, 1080, 1920), (500, 720, 1280), (60, 480, 854), (1, 2048, 2048), (1, 1536, 1024)]
    pieces, report = make_pieces(index_of([(*s, 24) for s in sizes]), GeometryConfig())
    assert pieces.size_HW.tolist() == [[576, 1024], [576, 1024], [480, 848], [768, 768], [928, 624]]
    assert pieces.tokens.tolist() == [33 * 36 * 64, 33 * 36 * 64, 15 * 30 * 53, 48 * 48, 58 * 39]
    assert (report.resized, report.truncated, report.cropped) == (4, 1, 2)


def test_native_sizes_inside_the_limits_are_never_resized():
    rng = np.random.default_rng(0)
    clips = [(int(f), int(h), int(w), 24) for f, h, w in rng.integers(17, 700, (500, 3))]
    index = index_of(clips)
    config = GeometryConfig(max_area=700 * 700, max_frames=701, max_tokens=10**9)
    pieces, report = make_pieces(index, config)
    assert report.resized == report.truncated == report.split == 0
    assert (pieces.scaled_HW == np.stack([index.height, index.width], 1)).all()


def test_draws_belong_to_the_clip_not_to_its_place():
    index, config = random_clips(3000, seed=1), CONFIGS["drawn"]
    order = np.random.default_rng(0).permutation(3000)
    columns = {k: getattr(index, k)[order] for k in ("num_frames", "height", "width", "fps")}
    moved = SimpleNamespace(clip_id=[index.clip_id[i] for i in order], **columns)

    def by_clip(index):
        pieces, _ = make_pieces(index, config)
        keys = pieces.keys(index.clip_id).tolist()
        return dict(
            zip(
                keys,
                zip(
                    pieces.stride.tolist(),
                    pieces.scaled_HW.tolist(),
                    pieces.start_frame.tolist(),
                    strict=True,
                ),
                strict=True,
            )
        )

    assert by_clip(index) == by_clip(moved)


def test_shares_are_as_configured():
    index = index_of([(81, 256, 256, 24)] * 20_000)
    config = GeometryConfig(reduced_share=0.2, decimate_share=0.1)
    _, report = make_pieces(index, config)
    # Four standard deviations of a binomial count.
    assert abs(report.reduced - 4000) < 4 * (20_000 * 0.2 * 0.8) ** 0.5
    assert abs(report.decimated - 2000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5


def test_hashes_name_the_geometry_and_the_pieces():
    index = random_clips(200, seed=0)
    base = GeometryConfig()
    assert base.hash == GeometryConfig().hash
    hashes = {
        dataclasses.replace(base, **change).hash
        for change in ({}, {"max_frames": 65}, {"long": "split"}, {"seed": 1}, {"patch": (1, 1, 1)})
    }
    assert len(hashes) == 5
    first, _ = make_pieces(index, base)
    index.num_frames = index.num_frames.copy()
    index.num_frames[:] += 4
    second, _ = make_pieces(index, base)
    assert first.hash != second.hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": (2, 2, 2)}, "an image is one latent frame"),
        ({"long": "cut"}, "truncate or split"),
        ({"over_tokens": "drop"}, "resize or shorten"),
        ({"reduced_share": 1.5}, "between 0 and 1"),
        ({"reduced_scales": ()}, "between 0 and 1"),
        ({"decimate_strides": (1,)}, ">= 2"),
        ({"max_tokens": 0}, "max_tokens >= 1"),
        ({"vae_stride": (4, 8)}, "three numbers"),
    ],
)
def test_refuses_by_message(change, words):
    with pytest.raises(BadInput, match="geometry: .*") as caught:
        GeometryConfig(**change)
    assert words in str(caught.value)


def test_nothing_left_names_the_counts():
    with pytest.raises(BadInput, match=r"nothing remains of 3 clips: 1 without frames, 2 smaller"):
        make_pieces(index_of([(0, 64, 64, 1), (1, 8, 64, 1), (9, 15, 90, 1)]), GeometryConfig())
