"""A run may start from the weights of another: once, and only where they mean the same."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.generate.tiny_generator import LIMITS, TASK, denoiser_params, save_workdir
from tests.train.linear_task import LinearTask, batches, one_device
from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten
from vidsim.data.plan import PlanConfig
from vidsim.data.tokenizer import Tokenizer
from vidsim.models.latents import LatentConfig
from vidsim.models.text import ByteEncoder, with_words
from vidsim.runs import DenoiserRun, LatentData, starting_weights
from vidsim.store.workdir import Workdir
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig

STILL = OptimConfig(name="adamw", lr=1e-30, warmup_steps=0, schedule="constant")


@pytest.fixture(scope="module")
def program():
    return build_program(LinearTask(4), RunSpec(3), STILL, one_device())


def equal(a, b):
    ours, theirs = flatten(a), flatten(b)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(theirs[path]), path)


def test_weights_are_taken_where_there_is_no_checkpoint_and_never_again(tmp_path, program):
    given = jax.tree.map(lambda x: np.asarray(x) + 1, program.init().params)
    asked = []

    def weights():
        asked.append(1)
        return given

    for steps in (2, 3):
        folder = Workdir.open(tmp_path, {})
        done = train(program, batches(), RunSpec(steps), folder, weights=weights)
        folder.close()
        equal(done.state.params, given)  # the rate is nothing: what is there is what was given
        for path, average in flatten(done.state.ema).items():
            np.testing.assert_allclose(average, flatten(given)[path], rtol=1e-6)
    assert asked == [1] and done.steps_done == 1


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    vae_hash = save_workdir(folder)
    limits = PlanConfig(LIMITS.tokens, LIMITS.text, LIMITS.segments, 4, 2)
    return DenoiserRun(
        LatentData("cache"), TASK.cfg, limits, RunSpec(1), start=str(folder), vae_hash=vae_hash
    )


def test_the_average_of_the_newest_checkpoint_is_what_a_run_starts_from(source):
    equal(starting_weights(source), denoiser_params())
    run = dataclasses.replace(TASK.cfg.dit, loop="unroll", remat="full")  # how, not which
    equal(starting_weights(_with(source, dit=run)), denoiser_params())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dit": dataclasses.replace(TASK.cfg.dit, heads=4)}, "denoising.dit.heads: 4; 2, as of"),
        ({"text": dataclasses.replace(TASK.cfg.text, layers=3)}, "has another text encoder"),
        ({"latent": LatentConfig((1, 2, 2))}, "with its statistics"),
    ],
)
def test_another_network_text_encoder_or_latents_are_refused(source, changed, message):
    with pytest.raises(BadInput, match=message):
        starting_weights(_with(source, **changed))


def test_words_of_both_vocabularies_keep_their_meaning_and_new_ones_are_fresh(source):
    worded = lambda *words: dataclasses.replace(TASK.cfg.text, words=words)  # noqa: E731
    old = denoiser_params()["text"]
    grown = with_words(old, TASK.cfg.text, ("red", "blue"), 0)
    table = starting_weights(_with(source, text=worded("red", "blue")))["text"]["bytes"]["table"]
    np.testing.assert_array_equal(table, grown["bytes"]["table"], "the run does the same")
    old_table = np.asarray(old["bytes"]["table"])
    np.testing.assert_array_equal(table[: len(old_table)], old_table)
    assert 0.5 < table[-2:].std() < 1.5 and not np.allclose(table[-1], table[-2])
    turned = with_words(grown, worded("red", "blue"), ("blue", "sky"), 1)["bytes"]["table"]
    np.testing.assert_array_equal(turned[-2], table[-1], "blue moved and kept its row")
    assert not any(np.allclose(turned[-1], row) for row in table)
    # A caption of words that both know means the same to both, whatever their numbers are.
    texts = {words: Tokenizer(20, words).encode("a blue ball") for words in
             (("red", "blue"), ("blue", "sky"))}  # fmt: skip
    seen = []
    for (words, ids), params in zip(texts.items(), (grown, {**grown, "bytes": {"table": turned}}),
                                    strict=True):  # fmt: skip
        ones = np.ones((1, len(ids)), np.int32)
        encoder = ByteEncoder(worded(*words))
        seen.append(encoder.apply(params, ids[None], ones, np.arange(len(ids))[None]))
    np.testing.assert_array_equal(*seen)


def test_latents_of_another_autoencoder_are_refused(source):
    with pytest.raises(BadInput, match="is of latents of VAE"):
        starting_weights(dataclasses.replace(source, vae_hash="0" * 64))


def _with(run, **changes):
    return dataclasses.replace(run, denoising=dataclasses.replace(run.denoising, **changes))
