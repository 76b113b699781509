"""FLOPs: the formula against what XLA counts, and its laws."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.latents_in_memory import random_source
from tests.generate.tiny_generator import VAE
from tests.tasks.packed_clips import pack_all, some_clips
from vidsim.data.pipeline import make_plan, packed_batches
from vidsim.data.plan import PlanConfig
from vidsim.models.dit import DiTConfig
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoderConfig
from vidsim.models.vae import Vae
from vidsim.tasks.autoencoding import Autoencoding, AutoencodingConfig
from vidsim.tasks.denoising import Denoising, DenoisingConfig
from vidsim.train.flops import (
    crop_work,
    live_counts,
    packed_work,
    padded_counts,
    planned_work,
    step_flops,
)

P = 16
# Unrolled, since XLA counts the body of a loop once; dense, since it then computes whole rows.
DIT = DiTConfig(
    patch_width=P, text_width=128, width=256, heads=4, mlp_width=768, layers=1, freq_width=64,
    attention="dense", loop="unroll", pooled_text=True,
)  # fmt: skip
TEXT = ByteEncoderConfig(width=128, heads=4, mlp_width=256, layers=1, attention="dense")
CONFIG = DenoisingConfig(DIT, TEXT, latent=LatentConfig((1, 1, 1)))
# Norms, softmax, gates and the loss are not matrix products; gradients of inputs are not needed.
XLA_TOLERANCE = 0.05


@pytest.mark.slow
def test_padded_count_is_what_xla_counts_for_a_dense_unrolled_step():
    task, batch = Denoising(CONFIG), pack_all(some_clips(), [[0, 1], [2, 3]], P, N=128, M=64)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    params = jax.eval_shape(task.init, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p, b: task.loss(p, b, seed=0, step=0)[0]))
    counted = gradient.lower(params, shapes).compile().cost_analysis()["flops"]
    assert step_flops(CONFIG, batch).padded == pytest.approx(counted, rel=XLA_TOLERANCE)


def test_a_network_that_reads_what_it_said_speaks_once_more_every_second_step():
    """An XLA program holds both branches; what is run is counted by hand."""
    said = dataclasses.replace(CONFIG, dit=dataclasses.replace(DIT, self_condition=True))
    batch = pack_all(some_clips(), [[0, 1], [2, 3]], P, N=128, M=64)
    reading = 2.0 * 2 * 128 * P * DIT.width  # one more product of patches, two rows of 128
    alone = step_flops(dataclasses.replace(CONFIG, text=None), batch).padded / 3.0
    more = step_flops(said, batch).padded - step_flops(CONFIG, batch).padded
    assert more == pytest.approx(3.0 * reading + 0.5 * (alone + reading))


def test_counts_of_a_batch_by_hand():
    clips = some_clips()  # grids 1x2x2 and 3x2x2 with captions "" and "red"
    batch = pack_all(clips, [[0, 1], []], P, N=32, M=48, S=4)
    live = live_counts(batch)
    assert (live.patches, live.texts, live.clips, live.levels) == (4 + 12, 1 + 4, 2, 3)
    assert live.self_pairs == 4**2 + 12**2
    assert live.cross_pairs == 4 * 1 + 12 * 4
    assert live.text_pairs == 1 + 4**2
    whole = padded_counts(batch)
    assert (whole.patches, whole.texts, whole.clips, whole.levels) == (64, 96, 8, 10)
    assert (whole.self_pairs, whole.cross_pairs) == (2 * 32**2, 2 * 32 * 48)


def test_live_work_does_not_depend_on_the_packing_and_padded_work_does():
    clips = some_clips()
    loose = step_flops(CONFIG, pack_all(clips, [[i] for i in range(6)], P))
    tight = step_flops(CONFIG, pack_all(clips, [[0, 1, 2], [3, 4, 5]], P))
    assert loose.attention_live == tight.attention_live
    # only the level that given tokens share is once a row
    assert tight.linear_live < loose.linear_live < 1.06 * tight.linear_live
    assert loose.padded == pytest.approx(3 * tight.padded)
    assert tight.live < tight.padded


def test_attention_grows_with_the_square_of_a_clip_and_the_rest_in_proportion():
    def full(n):
        segment = np.ones((1, n), np.int32)
        return {
            "patch_segment": segment, "text_segment": segment[:, :1],
            "clip_key": np.ones((1, 1), np.uint32),
        }  # fmt: skip

    cfg = dataclasses.replace(CONFIG, text=None)
    one, two, four = (step_flops(cfg, full(n)) for n in (512, 1024, 2048))
    first, second = two.linear_live - one.linear_live, four.linear_live - two.linear_live
    assert second == pytest.approx(2 * first)
    pairs = one.attention_live - 3 * 4 * 256 * 512  # without the pairs with the one text token
    assert two.attention_live - 3 * 4 * 256 * 1024 == pytest.approx(4 * pairs)
    d, f, n = 256, 768, 512
    assert pairs == 3 * 4 * d * n**2
    assert first == pytest.approx(3 * 2 * n * (6 * d**2 + 2 * d * f + 2 * P * d))


def test_work_by_step_number_equals_work_of_the_whole_batch():
    """From the plan alone, as processes count that read a part of the batch."""
    source = random_source()
    config = PlanConfig(row_tokens=96, row_text=96, row_segments=8, rows_per_step=4, group_rows=2,
                        pool_rows=8, window_clips=30, cost_width=16)  # fmt: skip
    plan = make_plan(source, config, 3)
    task = DenoisingConfig(DiTConfig(width=32, heads=2, layers=2), ByteEncoderConfig())
    batches = packed_batches(source, plan, 12)
    by_step, by_batch = planned_work(task, plan), packed_work(task)
    for step in range(12):
        assert by_step(step) == pytest.approx(by_batch(batches[step]), rel=1e-12)


def test_the_autoencoders_count_is_what_xla_counts_and_grows_with_the_clips():
    """Three forwards. XLA counts the elementwise work too, and leaves out taps on the border."""
    vae = Vae(dataclasses.replace(VAE.cfg, base_dim=48))
    task = Autoencoding(AutoencodingConfig(vae.cfg))
    work = crop_work(task)

    def batch(clips, frames=5):
        return {"num_clips": np.float32(clips), "video": np.zeros((clips, frames, 96, 96, 3))}

    one, four, image = work(batch(1)), work(batch(4)), work(batch(1, 1))
    assert four == {"clips": 4.0, "flops": 4 * one["flops"]} and image["flops"] < one["flops"]

    def forward(params, video):
        return vae.decode(params, vae.encode(params, video)[0])

    shapes = jax.eval_shape(vae.init, jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, 5, 96, 96, 3), "float32")
    theirs = jax.jit(forward).lower(shapes, video).compile().cost_analysis()["flops"]
    assert 0.8 * theirs <= one["flops"] / 3 <= 1.15 * theirs
