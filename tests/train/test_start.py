"""A run may start from the weights of another: once, and only where they mean the same."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.generate.tiny_generator import (
    LIMITS,
    TASK,
    VAE,
    denoiser_params,
    random_weights,
    save_workdir,
    vae_params,
)
from tests.models.test_grow import SMALL
from tests.train.linear_task import LinearTask, batches, one_device
from vidsim.config import to_dict
from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten
from vidsim.data.build import build_index
from vidsim.data.crops import CropConfig
from vidsim.data.plan import PlanConfig
from vidsim.data.tokenizer import Tokenizer
from vidsim.generate.model import vae_folder
from vidsim.models.dit import DiT
from vidsim.models.latents import LatentConfig, channel_weights
from vidsim.models.text import ByteEncoder, with_words
from vidsim.models.vae import Vae
from vidsim.runs import DenoiserRun, LatentData, VaeData, VaeRun, train_vae
from vidsim.starts import denoiser_start, vae_start
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.weights import load_model, save_model
from vidsim.store.workdir import Workdir
from vidsim.tasks.autoencoding import AutoencodingConfig
from vidsim.tasks.denoising import Denoising
from vidsim.train.loop import RunSpec, build_program, train
from vidsim.train.optim import OptimConfig

STILL = OptimConfig(name="adamw", lr=1e-30, warmup_steps=0, schedule="constant")


def start_of(run):
    """What a denoiser's run takes over."""
    vae = Path(run.data.cache) / "vae"
    return denoiser_start(run.start, run.denoising, vae, run.vae_hash, run.run.seed)


def vae_start_of(run):
    """What an autoencoder's run takes over."""
    return vae_start(run.start, run.autoencoding, run.run.seed)


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
    equal(start_of(source), denoiser_params())
    run = dataclasses.replace(TASK.cfg.dit, loop="unroll", remat="full")  # how, not which
    equal(start_of(_with(source, dit=run)), denoiser_params())


def test_a_run_may_start_from_the_mean_of_two(source, tmp_path):
    """Of a word's row, the mean over those that know it."""
    text = dataclasses.replace(TASK.cfg.text, words=("red", "blue"))
    task, first = Denoising(dataclasses.replace(TASK.cfg, text=text)), denoiser_params()
    other = random_weights(task.init, 5)
    vae_hash = save_model(tmp_path / "vae", to_dict(VAE.cfg), jax.device_get(vae_params()), {})
    other = save_denoiser(tmp_path / "other", task, vae_hash, tmp_path / "vae")
    both = dataclasses.replace(source, start=f"{source.start},{tmp_path / 'other'}")
    found = start_of(_with(both, text=text))
    found, first, other = flatten(found), flatten(first), flatten(other)
    table, old, last = (np.asarray(flat["text/bytes/table"]) for flat in (found, first, other))
    np.testing.assert_allclose(table[:-2], (old + last[:-2]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(table[-2:], last[-2:])
    for path in first.keys() - {"text/bytes/table"}:
        mean = (np.asarray(first[path]) + np.asarray(other[path])) / 2
        np.testing.assert_allclose(found[path], mean, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_larger_network_begins_as_the_smaller_one(source):
    cfg = TASK.cfg.dit
    larger = dataclasses.replace(
        cfg, layers=cfg.layers + 2, mlp_width=cfg.mlp_width + 8, self_condition=True
    )
    found, old = start_of(_with(source, dit=larger)), denoiser_params()
    shapes = jax.eval_shape(DiT(larger).init, jax.random.key(0))
    assert jax.tree.map(np.shape, found["dit"]) == jax.tree.map(lambda x: x.shape, shapes)
    blocks, was = found["dit"]["blocks"], old["dit"]["blocks"]
    kept = np.s_[: cfg.layers, :, : cfg.mlp_width]
    np.testing.assert_array_equal(blocks["up"]["w"][kept], was["up"]["w"])
    assert not blocks["down"]["w"][cfg.layers :].any() and blocks["up"]["w"][cfg.layers :].any()
    assert not any(x.any() for x in found["dit"]["inputs"].pop("estimate").values())
    others = [{**tree, "dit": {**tree["dit"], "blocks": {}}} for tree in (found, old)]
    equal(*others)


def test_another_channel_weight_leaves_what_the_network_sees(tmp_path):
    latent = LatentConfig((1, 2, 2), (0.0,) * 3, (1.0,) * 3, (0.5, 0.3, 0.1))
    task = Denoising(dataclasses.replace(TASK.cfg, latent=latent, channel_weight=0.7))
    vae_hash = save_model(tmp_path / "vae", to_dict(VAE.cfg), jax.device_get(vae_params()), {})
    params = save_denoiser(tmp_path / "old", task, vae_hash, tmp_path / "vae")
    limits = PlanConfig(LIMITS.tokens, LIMITS.text, LIMITS.segments, 4, 2)
    run = DenoiserRun(LatentData("cache"), task.cfg, limits, RunSpec(1),
                      start=str(tmp_path / "old"), vae_hash=vae_hash)  # fmt: skip
    equal(start_of(run), params)
    other = _with(run, channel_weight=0.2)
    found = start_of(other)
    rows = [tree["dit"]["inputs"]["patch"]["w"] for tree in (params, found)]
    assert not np.allclose(*rows)
    x = np.random.default_rng(0).normal(size=(5, 12))
    seen = [
        x
        * np.sqrt(np.asarray(channel_weights(latent, 12, cfg.channel_weight)))
        @ weights["dit"]["inputs"]["patch"]["w"]
        for cfg, weights in ((task.cfg, params), (other.denoising, found))
    ]
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dit": dataclasses.replace(TASK.cfg.dit, heads=4)}, "denoising.dit.heads: 4; 2, as of"),
        ({"dit": dataclasses.replace(TASK.cfg.dit, mlp_width=1)}, "mlp_width: 1; .* or more, as"),
        ({"text": dataclasses.replace(TASK.cfg.text, layers=3)}, "has another text encoder"),
        ({"latent": LatentConfig((1, 2, 2))}, "with its statistics"),
    ],
)
def test_another_network_text_encoder_or_latents_are_refused(source, changed, message):
    with pytest.raises(BadInput, match=message):
        start_of(_with(source, **changed))


def test_words_of_both_vocabularies_keep_their_meaning_and_new_ones_are_fresh(source):
    worded = lambda *words: dataclasses.replace(TASK.cfg.text, words=words)  # noqa: E731
    old = denoiser_params()["text"]
    grown = with_words(old, TASK.cfg.text, ("red", "blue"), 0)
    table = start_of(_with(source, text=worded("red", "blue")))["text"]["bytes"]["table"]
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


def test_latents_of_another_autoencoder_are_refused(source, tmp_path):
    other = jax.device_get(random_weights(VAE.init, 9))
    vae_hash = save_model(tmp_path / "vae", to_dict(VAE.cfg), other, {})
    data = LatentData(str(tmp_path))
    with pytest.raises(BadInput, match="is of latents of VAE"):
        start_of(dataclasses.replace(source, data=data, vae_hash=vae_hash))


@pytest.fixture(scope="module")
def decoder_run(tmp_path_factory):
    """A small autoencoder on disk, and a run that learns a wider decoder for its latents."""
    folder = tmp_path_factory.mktemp("vae")
    facts = {"mean": [0.5] * 3, "std": [2.0] * 3, "gain": [1.0] * 3, "clips": 7}
    save_model(folder / "old", to_dict(VAE.cfg), jax.device_get(vae_params()), facts)
    index = folder / "clips.parquet"
    build_index("world:shapes?size=8&frames=5&sizes=48x48", index)
    data = VaeData(str(index), CropConfig(((5, 16, 16),), 8, image_share=0.0))
    wider = dataclasses.replace(VAE.cfg, decoder_dim=16)
    return VaeRun(
        data, AutoencodingConfig(wider, learn="decoder"), RunSpec(2), start=str(folder / "old")
    )


def test_a_new_decoder_leaves_the_encoder_and_its_statistics_bit_for_bit(decoder_run, tmp_path):
    train_vae(decoder_run, tmp_path / "run")
    old, new = (load_model(vae_folder(path)) for path in (decoder_run.start, tmp_path / "run"))
    equal(new.params["encoder"], old.params["encoder"])
    assert new.extra == old.extra and new.config["decoder_dim"] == 16
    ours, theirs = flatten(new.params["decoder"]), flatten(old.params["decoder"])
    assert ours["conv_in/w"].shape != theirs["conv_in/w"].shape
    same = "unmoments/w"  # taken over, then moved by at most two steps of the optimizer
    assert 0 < np.abs(ours[same] - theirs[same]).max() < 0.1


def test_a_decoder_starts_at_what_it_had_where_it_has_it(decoder_run):
    fits = dataclasses.replace(
        decoder_run, autoencoding=AutoencodingConfig(VAE.cfg, learn="decoder")
    )
    equal(vae_start_of(fits)["vae"], vae_params())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"base_dim": 16}, "vae.base_dim: 16; 8, as of"), ({"patch": (4, 4, 4)}, "vae.patch")],
)
def test_an_encoder_of_another_shape_is_refused(decoder_run, change, message):
    vae = dataclasses.replace(VAE.cfg, **change)
    run = dataclasses.replace(decoder_run, autoencoding=AutoencodingConfig(vae, learn="decoder"))
    with pytest.raises(BadInput, match=message):
        vae_start_of(run)


def test_a_decoder_alone_needs_an_encoder_to_learn_for(decoder_run):
    with pytest.raises(BadInput, match="config.start: ''; an autoencoder, where the decoder"):
        dataclasses.replace(decoder_run, start="")


def test_wider_latents_keep_the_narrow_ones_and_their_denoiser_goes_on(tmp_path):
    """Autoencoder and denoiser of 2 channels; the autoencoder is widened to 3 by a run, then the
    denoiser's weights are taken over by one of the wider latents, and by no one else's."""
    small = Vae(dataclasses.replace(SMALL, patch=VAE.cfg.patch))
    build_index("world:shapes?size=8&frames=5&sizes=48x48", tmp_path / "clips.parquet")
    facts = {"mean": [0.1, 0.2], "std": [1.5, 0.5], "gain": [0.4, 0.2], "clips": 7}
    vae = random_weights(small.init, 2)
    vae_hash = save_model(tmp_path / "old", to_dict(small.cfg), jax.device_get(vae), facts)
    wide = dataclasses.replace(small.cfg, latent_channels=3)
    run = VaeRun(
        VaeData(str(tmp_path / "clips.parquet"), CropConfig(((5, 16, 16),), 8, image_share=0.0)),
        AutoencodingConfig(wide, learn="decoder", start="principal", motion=2.0),
        RunSpec(1), start=str(tmp_path / "old"),
    )  # fmt: skip
    train_vae(run, tmp_path / "cache")
    new = load_model(vae_folder(tmp_path / "cache"))
    assert new.config["latent_channels"] == 3 and len(new.extra["gain"]) == 3
    assert [new.extra[name][:2] for name in ("mean", "std")] == [facts["mean"], facts["std"]]

    def latent(extra):
        return LatentConfig((1, 2, 2), *(tuple(extra[name]) for name in ("mean", "std", "gain")))

    here = dataclasses.replace(TASK.cfg, latent=latent(new.extra))
    dit = dataclasses.replace(TASK.cfg.dit, patch_width=8)
    task = Denoising(dataclasses.replace(TASK.cfg, latent=latent(facts), dit=dit))
    params = save_denoiser(tmp_path / "denoiser", task, vae_hash, tmp_path / "old")
    limits = PlanConfig(LIMITS.tokens, LIMITS.text, LIMITS.segments, 4, 2)
    asked = DenoiserRun(LatentData(str(tmp_path / "cache")), here, limits, RunSpec(1),
                        start=str(tmp_path / "denoiser"), vae_hash=new.hash)  # fmt: skip
    found = start_of(asked)
    equal(found["text"], params["text"])
    equal(found["dit"]["blocks"], params["dit"]["blocks"])
    assert found["dit"]["head"]["out"]["w"].shape == (32, 12)
    shuffled = dataclasses.replace(here, latent=latent(new.extra | {"std": [0.5, 1.5, 1.0]}))
    with pytest.raises(BadInput, match="with its statistics"):
        start_of(dataclasses.replace(asked, denoising=shuffled))


def save_denoiser(folder, task, vae_hash, vae):
    """A work directory as training would have left it; returns its averaged weights."""
    params = random_weights(task.init, 5)
    shutil.copytree(vae, folder / "vae")
    plan = dataclasses.asdict(PlanConfig(LIMITS.tokens, LIMITS.text, LIMITS.segments, 4, 2))
    config = {"task": "denoising", "denoising": to_dict(task.cfg), "plan": plan,
              "vae_hash": vae_hash}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    store = CheckpointStore(folder / "checkpoints")
    store.save(1, {"params": params, "ema": params})
    store.wait()
    return params


def _with(run, **changes):
    return dataclasses.replace(run, denoising=dataclasses.replace(run.denoising, **changes))
