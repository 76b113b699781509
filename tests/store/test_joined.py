"""Joined caches: what training sees of several is what it would see of one that holds them all."""

import dataclasses
import pickle

import numpy as np
import pytest

from tests.data.latents_in_memory import random_source
from tests.store.test_shards import CONFIG, cache_of, writer_of
from vidsim.core.errors import BadInput
from vidsim.data.captions import CaptionConfig, draw_captions
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.store.joined import JoinedCache, open_caches
from vidsim.store.shards import LatentCache


def both_in_memory(a, b):
    """One source in memory with the clips of a, then those of b."""
    clips, captions = len(a.caption_start) - 1, len(a.caption)
    rows = ("grid", "fps", "size_HW", "clip_key", "clip_hash", "caption_kind", "text_tokens")
    return dataclasses.replace(
        a, latent=a.latent + b.latent, caption=a.caption + b.caption,
        clip=np.concatenate([a.clip, b.clip + clips]).astype(np.int32),
        caption_start=np.concatenate([a.caption_start, b.caption_start[1:] + captions]),
        **{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in rows},
    )  # fmt: skip


@pytest.fixture
def two(tmp_path):
    a, b = random_source(30, seed=1), random_source(21, seed=2)
    caches = cache_of(tmp_path / "a", a), cache_of(tmp_path / "b", b, pieces_hash="qqqq")
    return a, b, caches


def test_joined_caches_train_like_one_cache_of_both(two, tmp_path):
    a, b, _ = two
    memory = both_in_memory(a, b)
    joined = open_caches(tmp_path / "a", [tmp_path / "b"])
    assert len(joined) == 51
    assert joined.pieces["clip"].dtype == np.int32
    for name in ("clip", "grid", "caption_start", "caption_kind", "text_tokens", "clip_hash"):
        assert np.array_equal(getattr(joined, name), getattr(memory, name)), name
    drawn, expected = (
        draw_captions(s, CaptionConfig(), 1, 2, 10**6, memory.clip) for s in (joined, memory)
    )
    assert np.array_equal(drawn.number, expected.number)
    of_both = packed_batches(joined, make_plan(joined, CONFIG, 0), 12)
    of_one = packed_batches(memory, make_plan(memory, CONFIG, 0), 12)
    for step in range(12):
        assert all(np.array_equal(of_both[step][k], v) for k, v in of_one[step].items())
    copy = pickle.loads(pickle.dumps(joined))
    pieces = np.array([50, 3, 31])
    for mine, theirs in zip(copy.latents(pieces), joined.latents(pieces), strict=True):
        assert np.array_equal(mine, theirs)


def test_kinds_of_captions_that_one_cache_lacks_keep_their_names(tmp_path):
    a, b = random_source(12, seed=1), random_source(9, seed=2)
    b.kinds, b.caption_kind = ("alt",), np.zeros_like(b.caption_kind)
    caches = cache_of(tmp_path / "a", a), cache_of(tmp_path / "b", b)
    joined = JoinedCache(caches)
    assert joined.kinds == ("alt", "descriptive", "short")
    named = [joined.kinds[k] for k in joined.caption_kind]
    assert named == [part.kinds[k] for part in caches for k in part.caption_kind]


def test_one_cache_is_itself_and_the_order_names_the_content(two, tmp_path):
    _, _, (a, b) = two
    alone = open_caches(tmp_path / "a")
    assert isinstance(alone, LatentCache) and alone.hash == a.hash
    assert JoinedCache((a, b)).hash != JoinedCache((b, a)).hash != a.hash


@pytest.mark.parametrize(
    "change, told",
    [({"latent_mean": (0.0, 0.2, 0.3)}, "latent_mean"), ({"words": ("red",)}, "words"),
     ({"vae_hash": "bbbb"}, "VAE")],
)  # fmt: skip
def test_caches_of_other_latents_or_words_are_refused(tmp_path, change, told):
    cache_of(tmp_path / "a", random_source(9))
    cache_of(tmp_path / "b", random_source(9, seed=3), **change)
    with pytest.raises(BadInput, match=told):
        open_caches(tmp_path / "a", [tmp_path / "b"])


def test_mid_stream_latents_come_from_all_caches_or_none(two, tmp_path):
    _, b, (plain, _) = two
    writer = writer_of(tmp_path / "m", b, midstream=True)
    for k in writer.missing():
        with writer.open_shard(k) as shard:
            for c in writer.captions_of(k):
                shard.put_text(c, b.caption[c])
            for p in writer.pieces_of(k):
                shard.put_latent(p, b.latent[p], -b.latent[p])
    cache = LatentCache.open(tmp_path / "m")
    assert not plain.has_midstream and cache.has_midstream
    with pytest.raises(BadInput, match="midstream"):
        JoinedCache((plain, cache))


def test_a_cache_given_twice_is_refused(tmp_path):
    cache_of(tmp_path / "a", random_source(9))
    with pytest.raises(BadInput, match="given twice"):
        open_caches(tmp_path / "a", [tmp_path / "a"])
