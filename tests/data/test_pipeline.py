"""Packed batches: each clip comes back out of its row, whoever reads which step."""

import grain
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from tests.data.latents_in_memory import CHANNELS, PATCH, random_source
from vidsim.core.batch import check_batch
from vidsim.core.errors import BadInput
from vidsim.core.patching import patchify, token_positions, unpatchify
from vidsim.data.captions import CaptionConfig, draw_captions
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import Plan, PlanConfig

CONFIG = PlanConfig(row_tokens=128, row_text=96, row_segments=6, rows_per_step=4, group_rows=2,
                    pool_rows=8, window_clips=32, cost_width=16)  # fmt: skip


def batches_of(source, num_steps=30, seed=0, **kw):
    return packed_batches(source, make_plan(source, CONFIG, seed), num_steps, **kw)


def same(a, b):
    return sorted(a) == sorted(b) and all(np.array_equal(a[k], b[k]) for k in a)


def clips_in(batch):
    """Takes a packed batch apart, row by row and segment by segment, by its ids alone."""
    for r, s in zip(*np.nonzero(batch["clip_key"]), strict=True):
        here = batch["patch_segment"][r] == s + 1
        text = batch["text_segment"][r] == s + 1
        words = batch["text"][r] if "text" in batch else batch["text_ids"][r]
        yield {
            "row": r, "slot": s, "key": int(batch["clip_key"][r, s]),
            "patches": batch["patches"][r][here], "position": batch["patch_position"][r][here],
            "grid": tuple(batch["grid"][r, s].tolist()), "fps": batch["fps"][r, s],
            "size": batch["size"][r, s].tolist(), "text": words[text],
            "text_position": batch["text_position"][r][text],
        }  # fmt: skip


@pytest.mark.parametrize("text_width", [0, 4])
def test_every_clip_of_an_epoch_comes_back_bit_for_bit(text_width):
    source = random_source(text_width=text_width)
    plan = make_plan(source, CONFIG, seed=3)
    data = packed_batches(source, plan, 60)
    piece_of = {int(k): i for i, k in enumerate(source.clip_key)}
    for epoch in range(2):
        first = sum(plan.num_steps(e) for e in range(epoch))
        drawn = draw_captions(source, CaptionConfig(), 3, epoch, 10**6, source.clip).number
        seen = []
        for number in range(first, first + plan.num_steps(epoch)):
            batch = data[number]
            clips = list(clips_in(batch))
            assert batch["num_clips"] == len(clips)
            assert batch["num_tokens"] == sum(len(c["patches"]) for c in clips)
            for c in clips:
                p = piece_of[c["key"]]
                seen.append(p)
                latent = unpatchify(c["patches"], c["grid"], PATCH)
                assert np.array_equal(latent, source.latent[p])
                assert np.array_equal(c["position"], token_positions(c["grid"]))
                assert c["fps"] == source.fps[p] and c["size"] == source.size_HW[p].tolist()
                assert np.array_equal(c["text"], source.caption[drawn[p]])
                assert np.array_equal(c["text_position"], np.arange(len(c["text"])))
        assert sorted(seen) == list(range(len(source.clip)))


def test_segments_count_up_in_row_order_with_padding_at_the_end():
    data = batches_of(random_source())
    for number in range(12):
        batch = data[number]
        assert check_batch(batch)["N"] == CONFIG.row_tokens
        for name in ("patch_segment", "text_segment"):
            for ids in batch[name]:
                count = int((ids > 0).sum())
                assert (ids[count:] == 0).all()
                assert (np.diff(ids[:count]) >= 0).all() and (np.diff(ids[:count]) <= 1).all()
                assert count == 0 or ids[0] == 1
        # The same segments in both rows, one slot each, filled from the front.
        slots = (batch["clip_key"] > 0).sum(1)
        assert (batch["patch_segment"].max(1) == slots).all()
        assert (batch["text_segment"].max(1) == slots).all()
        assert ((batch["clip_key"] > 0) == (np.arange(CONFIG.row_segments) < slots[:, None])).all()
        padding = batch["patch_segment"] == 0
        assert (batch["patches"][padding] == 0).all() and (batch["action"] == 0).all()


def test_threads_and_random_access_agree():
    data = batches_of(random_source())
    read = iter(data.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)))
    for number in range(30):
        assert same(next(read), data[number])
    fresh = batches_of(random_source())
    for number in (17, 3, 29, 3):
        assert same(fresh[number], data[number])


def test_resumes_at_any_step():
    data = batches_of(random_source())
    for start in (1, 11, 26):
        rest = iter(batches_of(random_source())[start:].to_iter_dataset())
        assert same(next(rest), data[start]) and same(next(rest), data[start + 1])


@pytest.mark.slow
def test_worker_processes_change_nothing():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
    data = batches_of(random_source(), num_steps=6)
    for workers in (1, 3):
        options = grain.MultiprocessingOptions(num_workers=workers)
        read = list(data.to_iter_dataset().mp_prefetch(options))
        assert len(read) == 6
        assert all(same(batch, data[number]) for number, batch in enumerate(read))


@pytest.mark.parametrize("hosts", [2, 4])
def test_slices_of_hosts_join_to_the_whole_step(hosts):
    source = random_source()
    whole = batches_of(source)
    rows = np.arange(CONFIG.rows_per_step).reshape(hosts, -1)
    parts = [batches_of(source, rows=rows[h]) for h in range(hosts)]
    for number in (0, 5, 9):
        expected = whole[number]
        for name, value in expected.items():
            pieces = [part[number][name] for part in parts]
            joined = np.concatenate(pieces) if value.ndim else pieces[0]
            assert np.array_equal(joined, value), name
    tail = batches_of(source, rows=slice(2, None))[5]
    assert np.array_equal(tail["patches"], whole[5]["patches"][2:])


def test_patchify_order_and_inverse_in_numpy_and_jax():
    latent = np.random.default_rng(0).standard_normal((3, 4, 6, CHANNELS)).astype(np.float32)
    tokens = patchify(latent, PATCH)
    number = 0
    for t in range(3):
        for y in range(2):
            for x in range(3):
                block = latent[t : t + 1, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                assert np.array_equal(tokens[number], block.ravel())
                assert token_positions((3, 2, 3))[number].tolist() == [t, y, x]
                number += 1
    assert np.array_equal(unpatchify(tokens, (3, 2, 3), PATCH), latent)
    assert np.array_equal(np.asarray(patchify(jnp.asarray(latent), PATCH)), tokens)
    stacked = np.stack([latent, -latent])
    assert np.array_equal(patchify(stacked, PATCH)[1], -tokens)
    assert np.array_equal(
        unpatchify(jnp.asarray(patchify(stacked, PATCH)), (3, 2, 3), PATCH), stacked
    )
    time = patchify(latent[:2], (2, 1, 1))
    assert np.array_equal(time[0], latent[:2, 0, 0].ravel())


def test_refuses_by_message():
    source = random_source()
    plan = make_plan(source, CONFIG, 0)
    with pytest.raises(BadInput, match="num_steps 0; at least 1"):
        packed_batches(source, plan, 0)
    with pytest.raises(BadInput, match="a plan of 60 pieces; 30, the source's"):
        packed_batches(random_source(30), plan, 5)
    with pytest.raises(BadInput, match="a plan without captions; one from make_plan"):
        packed_batches(source, Plan(np.ones(60, int), np.ones(60, int), CONFIG, 0), 5)
    silent = make_plan(source, CONFIG, 0, CaptionConfig((("short", 1.0),), other=0.0))
    with pytest.raises(BadInput, match="all captions of clip .* have weight 0"):
        packed_batches(source, silent, 5)[0]
    source.latent[7] = source.latent[7][:, 1:]
    with pytest.raises(BadInput, match="as planned; encode again"):
        for number in range(plan.num_steps(0)):
            packed_batches(source, plan, 99)[number]
    with pytest.raises(BadInput, match="multiples of the patch size 2"):
        patchify(np.zeros((1, 3, 4, 2)), PATCH)
    with pytest.raises(BadInput, match="needs 4 tokens"):
        unpatchify(np.zeros((3, 8)), (1, 2, 2), PATCH)
