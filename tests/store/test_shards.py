"""The latent cache: what goes in comes out, interrupted runs resume, broken shards are refused."""

import dataclasses
import os
import pathlib
import pickle
import shutil
import threading
import time

import grain
import ml_dtypes
import numpy as np
import pytest

from tests.data.latents_in_memory import CHANNELS, PATCH, random_source
from vidsim.core.errors import BadInput
from vidsim.data.captions import CaptionConfig, draw_captions
from vidsim.data.geometry import Pieces
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.store import cache_format, shards
from vidsim.store.cache_format import CacheMeta, Captions
from vidsim.store.shard_writer import CacheWriter
from vidsim.store.shards import LatentCache

META = CacheMeta(
    vae_hash="aaaa", vae="tiny VAE", geometry={"max_frames": 5}, geometry_hash="gggg",
    pieces_hash="pppp", text_hash="tttt", text="byte tokens", text_width=0, patch=PATCH,
    channels=CHANNELS, dtype="float32", latent_mean=(0.1, 0.2, 0.3), latent_std=(1.0, 2.0, 3.0),
)  # fmt: skip
CONFIG = PlanConfig(row_tokens=128, row_text=96, row_segments=6, rows_per_step=4, group_rows=2,
                    pool_rows=8, window_clips=32, cost_width=16)  # fmt: skip


def columns_of(source):
    n = len(source.clip)
    some = {"piece": 0, "start_frame": 1, "num_frames": 1, "stride": 1}
    columns = {name: np.full(n, value, np.int32) for name, value in some.items()}
    return columns | {"clip": source.clip, "grid": source.grid, "fps": source.fps,
                      "scaled_HW": source.size_HW, "size_HW": source.size_HW,
                      "clip_key": source.clip_key}  # fmt: skip


def captions_of(source):
    kinds = [source.kinds[k] for k in source.caption_kind]
    words = [f"caption {i} é" for i in range(len(kinds))]
    return Captions(source.caption_start, words, kinds, source.text_tokens)


def writer_of(folder, source, shards=4, **changes):
    meta = dataclasses.replace(META, text_width=source.text_width, **changes)
    names = [f"clip {i}" for i in range(len(source.caption_start) - 1)]
    return CacheWriter(folder, meta, columns_of(source), names, captions_of(source), shards)


def fill(writer, source, numbers, order=None):
    for k in numbers:
        with writer.open_shard(k) as shard:
            for c in writer.captions_of(k):
                shard.put_text(c, source.caption[c])
            pieces = writer.pieces_of(k)
            for p in pieces if order is None else order.permutation(pieces):
                shard.put_latent(p, source.latent[p])


def cache_of(folder, source, **kw):
    writer = writer_of(folder, source, **kw)
    fill(writer, source, writer.missing())
    return LatentCache.open(folder)


@pytest.fixture
def source():
    return random_source(30)


@pytest.mark.parametrize("text_width", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latents_and_captions_come_back_in_their_number_format(tmp_path, dtype, text_width):
    source = random_source(30, text_width=text_width)
    cache = cache_of(tmp_path, source, dtype=dtype)
    number = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    order = np.random.default_rng(0).permutation(30)
    for p, latent in zip(order, cache.latents(order), strict=True):
        assert np.array_equal(latent, source.latent[p].astype(number))
        assert cache.latent(p).dtype == np.float32
    captions = np.array([3, 0, len(source.caption) - 1, 3])
    for c, tokens in zip(captions, cache.captions(captions), strict=True):
        expected = source.caption[c].astype(number) if text_width else source.caption[c]
        assert np.array_equal(tokens, expected)
    assert cache.meta == dataclasses.replace(
        META, dtype=dtype, text_width=text_width, captions_hash=captions_of(source).hash
    )
    for name in ("clip", "grid", "fps", "size_HW", "clip_key", "caption_start", "text_tokens",
                 "caption_kind", "clip_hash"):  # fmt: skip
        assert np.array_equal(getattr(cache, name), getattr(source, name)), name
    assert cache.kinds == source.kinds and cache.text_width == text_width


def test_columns_are_those_of_the_geometry():
    kept = {f.name for f in dataclasses.fields(Pieces)} - {"geometry"} | {"clip_key"}
    assert set(cache_format.PIECE_COLUMNS) == kept


def test_a_cache_trains_like_the_arrays_it_was_made_from(tmp_path, source):
    cache = cache_of(tmp_path, source)
    clips = source.clip
    drawn, expected = (
        draw_captions(s, CaptionConfig(), 1, 2, 10**6, clips) for s in (cache, source)
    )
    assert np.array_equal(drawn.number, expected.number)
    stored = packed_batches(cache, make_plan(cache, CONFIG, 0), 12)
    memory = packed_batches(source, make_plan(source, CONFIG, 0), 12)
    read = iter(stored.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)))
    for number in range(12):
        batch = next(read)
        assert all(np.array_equal(batch[k], v) for k, v in memory[number].items())
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.latent(3), cache.latent(3))


def test_records_in_any_order_make_the_same_files(tmp_path, source):
    first, second = writer_of(tmp_path / "a", source), writer_of(tmp_path / "b", source)
    fill(first, source, first.missing())
    fill(second, source, second.missing(), order=np.random.default_rng(0))
    for path in (tmp_path / "a").glob("*.arrayrecord"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path, source):
    writer = writer_of(tmp_path, source)
    fill(writer, source, [0, 2])
    with pytest.raises(KeyboardInterrupt), writer.open_shard(1) as shard:
        shard.put_latent(writer.pieces_of(1)[0], source.latent[writer.pieces_of(1)[0]])
        raise KeyboardInterrupt
    # A killed process leaves its drafts behind.
    draft = tmp_path / "latents-00003-of-00004.part"
    draft.write_bytes(b"half a shard")
    kept = (tmp_path / "latents-00002-of-00004.arrayrecord").stat().st_mtime_ns
    with pytest.raises(BadInput, match="2 of 4 shards missing or cut.*run `vidsim encode` again"):
        LatentCache.open(tmp_path)
    again = writer_of(tmp_path, source, shards=9)  # the number of shards is fixed by the first run
    assert again.missing() == [1, 3] and not draft.exists()
    fill(again, source, again.missing())
    assert again.missing() == []
    assert (tmp_path / "latents-00002-of-00004.arrayrecord").stat().st_mtime_ns == kept
    assert np.array_equal(LatentCache.open(tmp_path).latent(29), source.latent[29])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_share_the_shards_without_overlap(tmp_path, source, processes):
    writers = [writer_of(tmp_path, source) for _ in range(processes)]
    shares = [w.missing(p, processes) for p, w in enumerate(writers)]
    assert sorted(k for share in shares for k in share) == [0, 1, 2, 3]
    threads = [threading.Thread(target=fill, args=(w, source, share))
               for w, share in zip(writers, shares, strict=True)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(LatentCache.open(tmp_path)) == 30


def test_forecast_is_what_the_shards_take(tmp_path):
    rng = np.random.default_rng(0)
    source = random_source(400)
    source.grid[:] = rng.integers(8, 13, source.grid.shape)
    source.latent = [np.ones((t, 2 * h, 2 * w, CHANNELS), np.float32) for t, h, w in source.grid]
    writer = writer_of(tmp_path, source, shards=2)
    fill(writer, source, writer.missing())
    taken = sum(p.stat().st_size for p in tmp_path.glob("*.arrayrecord"))
    # ArrayRecord pads each file to a 64 KB block and frames each record.
    assert writer.bytes < taken < 1.03 * writer.bytes + 4 * 65536


def test_refuses_a_cache_of_another_vae_by_name(tmp_path, source):
    cache_of(tmp_path, source)
    assert LatentCache.open(tmp_path, expect_vae_hash="aaaa").channels == CHANNELS
    words = r"made with VAE tiny VAE \(aaaa\); VAE bbbb is in use; encode again or use that VAE"
    with pytest.raises(BadInput, match=words):
        LatentCache.open(tmp_path, expect_vae_hash="bbbb")


@pytest.mark.parametrize("change", [{"vae_hash": "bbbb"}, {"geometry_hash": "x"},
                                    {"dtype": "float16"}, {"text_hash": "y"}])  # fmt: skip
def test_writer_never_mixes_two_caches(tmp_path, source, change):
    cache_of(tmp_path, source)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    ((name, value),) = change.items()
    with pytest.raises(BadInput, match=f"holds another cache: {name} .* there, {value} here"):
        writer_of(tmp_path, source, **change)
    source.text_tokens = source.text_tokens + 1
    with pytest.raises(BadInput, match="holds another cache: captions_hash"):
        writer_of(tmp_path, source)
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["latents-00001-of-00004", "text-00002-of-00004"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_shard_is_found_on_opening_and_written_again(tmp_path, source, name, keep):
    cache_of(tmp_path, source)
    path = tmp_path / f"{name}.arrayrecord"
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(BadInput, match="1 of 4 shards missing or cut"):
        LatentCache.open(tmp_path)
    writer = writer_of(tmp_path, source)
    assert len(writer.missing()) == 1
    fill(writer, source, writer.missing())
    assert len(LatentCache.open(tmp_path)) == 30


def test_a_flipped_bit_is_an_error_never_a_value(tmp_path, source):
    cache_of(tmp_path, source, shards=1)
    path = tmp_path / "latents-00000-of-00001.arrayrecord"
    raw, found, everything = path.read_bytes(), 0, np.arange(30)
    place = raw.index(source.latent[11].tobytes()[:64])
    for offset in range(0, 24, 3):
        broken = bytearray(raw)
        broken[place + offset] ^= 16
        path.write_bytes(broken)
        with pytest.raises(BadInput, match="cannot be read .*delete this shard"):
            LatentCache.open(tmp_path).latents(everything)
        found += 1
    assert found == 8


def test_refuses_remote_folders_and_folders_without_a_cache(tmp_path, source):
    for address in ("gs://bucket/cache", pathlib.Path("gs://bucket/cache"), "s3://b"):
        with pytest.raises(BadInput, match="remote; a local folder or a mounted bucket; mount"):
            LatentCache.open(address)
        with pytest.raises(BadInput, match="remote"):
            writer_of(address, source)
    with pytest.raises(BadInput, match=r"no cache.json; a folder that `vidsim encode` made"):
        LatentCache.open(tmp_path)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read.*encode again"):
        LatentCache.open(tmp_path)


def test_a_mount_that_does_not_answer_is_given_up(tmp_path, source, monkeypatch):
    cache_of(tmp_path, source)
    monkeypatch.setattr(shards, "read_pieces", lambda folder: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"no answer within 0.2 s; a disk or mount that answers"):
        LatentCache.open(tmp_path, timeout_s=0.2)
    assert time.monotonic() - started < 3


def test_refuses_a_disk_that_is_too_small_before_writing(tmp_path, source, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(BadInput, match=r"needs 0.00 GB; 0.00 GB are free; free space"):
        writer_of(tmp_path / "new", source)
    assert list((tmp_path / "new").iterdir()) == []


def test_refuses_wrong_records(tmp_path, source):
    writer = writer_of(tmp_path, source, dtype="float16")
    first = writer.pieces_of(0)[0]
    with pytest.raises(BadInput, match="as its geometry says"), writer.open_shard(0) as shard:
        shard.put_latent(first, source.latent[first][..., :2])
    with pytest.raises(BadInput, match="not finite in float16"), writer.open_shard(0) as shard:
        shard.put_latent(first, source.latent[first] * 1e6)
    with pytest.raises(BadInput, match="as the index counted"), writer.open_shard(0) as shard:
        shard.put_text(0, source.caption[0][:-1])
    with pytest.raises(BadInput, match="comes twice or belongs elsewhere"):
        with writer.open_shard(0) as shard:
            shard.put_latent(29, source.latent[29])
    with pytest.raises(BadInput, match="lacks record 0"), writer.open_shard(0) as shard:
        shard.put_latent(first, source.latent[first])
    assert writer.missing() == [0, 1, 2, 3] and not list(tmp_path.glob("*.part"))


def test_refuses_columns_that_do_not_fit(tmp_path, source):
    captions, columns = captions_of(source), columns_of(source)
    names = [f"clip {i}" for i in range(24)]
    with pytest.raises(BadInput, match="columns stride missing"):
        CacheWriter(tmp_path, META, {k: v for k, v in columns.items() if k != "stride"}, names,
                    captions)  # fmt: skip
    with pytest.raises(BadInput, match="a piece of clip 23; clips 0..22"):
        CacheWriter(tmp_path, META, columns, names[:-1], captions)
    bare = dataclasses.replace(captions, start=np.minimum(captions.start, captions.start[-2]))
    with pytest.raises(BadInput, match="1 clips without a caption, e.g. clip 23"):
        CacheWriter(tmp_path, META, columns, names, bare)
    with pytest.raises(BadInput, match="latent_mean has 3 numbers; 2"):
        dataclasses.replace(META, channels=2)
    with pytest.raises(BadInput, match="dtype 'float8'"):
        dataclasses.replace(META, dtype="float8")
