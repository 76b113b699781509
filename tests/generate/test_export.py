"""An exported folder is the same model with rounded weights; absent assets say how to make them."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.generate.tiny_generator import LIMITS, TASK, VAE, save_workdir, vae_params
from vidsim.cli.main import main
from vidsim.config import to_dict
from vidsim.core.errors import BadInput
from vidsim.core.trees import flatten
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.eval.card import training_history, training_lines
from vidsim.eval.result import SuiteResult, load_result, save_result
from vidsim.eval.score import Score
from vidsim.generate import assets
from vidsim.generate.export import export, num_bytes, rounded
from vidsim.generate.model import load, load_vae
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, sample, sample_latents
from vidsim.store.weights import load_model, save_model

QUICK = SamplerConfig("euler", 2, GuidanceConfig(1.0))
HALF_UNIT = 2.0**-8  # of the last of bfloat16's 8 significant bits, relative to the number


def by_hand(tree):
    """Weights rounded by the number format itself, in float32."""
    return jax.tree.map(lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32), tree)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A work directory and its export."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "run").mkdir()
    save_workdir(folder / "run", longest=7, data={"cache": "/somewhere/private"})
    export(rounded(folder / "run"), folder / "demo", {"licence": "none"}, "# A card\n")
    return folder


def test_everything_but_rounding_is_the_same(places):
    ours, theirs = load(places / "run"), load(places / "demo")
    assert theirs.task == ours.task and theirs.limits == LIMITS and theirs.grid == ours.grid
    assert theirs.task.cfg.latent == TASK.cfg.latent and theirs.config["longest"] == 7
    assert theirs.vae.vae == VAE and theirs.facts["step"] == 3
    assert theirs.tokenizer(20).hash == ours.tokenizer(20).hash
    for name in ("params", "vae"):
        ours_tree, theirs_tree = (
            flatten(m.params if name == "params" else m.vae.params) for m in (ours, theirs)
        )
        assert ours_tree.keys() == theirs_tree.keys()
        for path, exact in ours_tree.items():
            found = np.asarray(theirs_tree[path])
            assert found.dtype == np.float32, path
            np.testing.assert_allclose(found, np.asarray(exact), rtol=HALF_UNIT, err_msg=path)
    config = (places / "demo" / "config.json").read_text()
    assert "private" not in config, "paths of the machine that trained it stay there"


def test_samples_are_those_of_the_rounded_weights_and_near_the_exact_ones(places):
    exact = load(places / "run")
    hand = dataclasses.replace(exact, params=by_hand(exact.params))
    asked = [Request("a red ball", 16, 24, 5, 8.0, 3)]
    (found,), (same,), (near,) = (
        sample_latents(m, asked, QUICK) for m in (load(places / "demo"), hand, exact)
    )
    np.testing.assert_array_equal(found, same)
    assert 0 < np.abs(found - near).max() < 0.1 * near.std()


def other_vae(folder, half, extra):
    """The model's VAE with one half moved, saved as an autoencoder's own folder."""
    params = vae_params()
    moved = jax.device_get(params | {half: jax.tree.map(lambda x: 1.5 * x, params[half])})
    save_model(folder, to_dict(VAE.cfg), moved, extra)
    return folder


def test_another_decoder_of_the_same_latents_changes_pixels_alone(places, tmp_path):
    folder = other_vae(tmp_path / "vae", "decoder", {})
    argv = ["export", "--ckpt", str(places / "run"), "--out", str(tmp_path / "new")]
    assert main([*argv, "--decoder", str(folder)]) == 0
    ours, theirs = load(places / "demo"), load(tmp_path / "new")
    asked = [Request("a red ball", 16, 24, 5, 8.0, 3)]
    (one,), (same,) = (sample_latents(m, asked, QUICK) for m in (ours, theirs))
    np.testing.assert_array_equal(one, same)
    (was,), (now,) = (sample(m, asked, QUICK) for m in (ours, theirs))
    assert (was.video_THWC != now.video_THWC).mean() > 0.1


@pytest.mark.parametrize(("half", "extra"), [("encoder", {}), ("decoder", {"mean": [1.0]})])
def test_a_decoder_of_other_latents_is_refused_and_nothing_is_written(
    places, tmp_path, half, extra, capsys
):
    folder = other_vae(tmp_path / "vae", half, extra)
    argv = ["export", "--ckpt", str(places / "run"), "--out", str(tmp_path / "new")]
    assert main([*argv, "--decoder", str(folder)]) == 2
    assert "makes other latents" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_the_folder_is_half_the_size_and_its_weights_have_one_name(places, tmp_path):
    model = rounded(places / "run")
    exact = flatten(load(places / "run").params)
    vae = flatten(load(places / "run").vae.params)
    assert num_bytes(model) == 2 * sum(x.size for x in (*exact.values(), *vae.values()))
    again = export(rounded(places / "demo"), tmp_path / "again", {"licence": "other"})
    assert load(again).facts["weights_id"] == load(places / "demo").facts["weights_id"]
    assert load_model(again).hash != load_model(places / "demo").hash, "facts differ"
    assert load_vae(places / "demo").hash == load(places / "demo").config["vae_hash"]


def test_what_an_export_refuses(places, tmp_path):
    model = rounded(places / "run")
    with pytest.raises(BadInput, match="weights take .* MB"):
        export(model, tmp_path / "x", most_mb=0.001)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="holds other files"):
        export(model, places / "demo")
    with pytest.raises(BadInput, match="holds step 3; step 1"):
        load(places / "demo", step=1)
    with pytest.raises(BadInput, match="one set of weights"):
        load(places / "demo", ema=False)


def test_a_shipped_model_is_found_by_name_and_its_absence_says_how_to_make_it(
    places, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "nowhere")
    words = ["sample", "--ckpt", "demo", "--prompt", "a", "--size", "8x8", "--frames", "1",
             "--steps", "1", "--guidance", "1", "--out", "a.png"]  # fmt: skip
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "python experiments/demo.py" in said and said.count("\n") == 1
    assert not (tmp_path / "a.png").exists()
    monkeypatch.setattr(assets, "ASSETS", places)
    assert main(words) == 0
    settings = assets.find("demo")
    assert settings == places / "demo" and (tmp_path / "a.png").exists()
    assert main(["sample", "--like", "a.png", "--out", "b.png"]) == 0, "made again by its name"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tmp_path / "demo").mkdir()
    assert assets.find("demo") == tmp_path.joinpath("demo").relative_to(tmp_path), "a folder first"


def test_scores_of_other_weights_do_not_get_onto_a_card(places, tmp_path, capsys):
    score = Score("prompts/colour", 0.5, 0.4, 0.6, 10, "higher", unit="share")
    result = SuiteResult("prompts", "Prompts", "Ten prompts.", (score,))
    code = {"vidsim": "1", "git": None}
    run = {"date": "then", "hardware": "a core", "vae_hash": "0", "code": code}
    right = rounded(places / "run").weights_id
    for name, weights in (("right", right), ("wrong", "0" * 16)):
        save_result(tmp_path / name, result, run | {"weights_id": weights})
    save_run_records(places / "run")
    words = ["export", "--ckpt", str(places / "run"), "--license", "MIT", "--name", "tiny",
             "--out", str(tmp_path / "out"), "--scores"]  # fmt: skip
    assert main([*words, str(tmp_path / "wrong")]) == 2
    assert "score the model that is exported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, str(tmp_path / "right")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "# tiny" in card
    assert "| prompts/colour | 0.500 | 0.400 … 0.600 | 10 |" in card
    # 40 steps, of which those logged took 3 s and 2e9 operations each
    assert "| denoiser | 40 | 5 | 2 | 8e+10 |" in card and "| together | 40 | | 2 | 8e+10 |" in card
    assert load_result(tmp_path / "right").scores == (score,)
    facts = load_model(tmp_path / "out").extra
    assert facts["training"]["denoiser"]["flops"] == 8e10 and facts["scores"][0]["rounded"]


def test_a_card_counts_what_a_run_started_from_too(tmp_path):
    for name, start in (("images", ""), ("video", str(tmp_path / "images"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"task": "denoising"}')
        save_run_records(tmp_path / name, start)
    told = training_history(tmp_path / "video")
    assert list(told) == ["denoiser, stage 1", "denoiser"]
    assert [facts["flops"] for facts in told.values()] == [8e10, 8e10]
    assert list(training_history(tmp_path / "images")) == ["denoiser"]
    save_run_records(tmp_path / "video", f"{tmp_path / 'images'},demo")  # from the mean of two
    both, shipped = training_history(tmp_path / "video"), training_history("demo")
    assert list(both.values())[:-1] == [told["denoiser, stage 1"], *shipped.values()]
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "config.json").write_text('{"task": "denoising"}')
    save_run_records(tmp_path / "next", f"demo,{tmp_path / 'video'}")
    assert len(training_history(tmp_path / "next")) == len(both) + 1, "what both came from, once"
    told["denoiser"]["libraries"] = {"jax": "2"}  # the same everywhere: said once
    lines = training_lines(told)
    assert "| together | 80 | | 4 | 1.6e+11 | | |" in lines and "Hardware: 1 x cpu, Linux." in lines
    assert {"- denoiser, stage 1: jax 1", "- denoiser: jax 2"} <= set(lines)
    save_run_records(tmp_path / "video", "demo")  # an exported model: what its card says
    *stages, last = training_history(tmp_path / "video").items()
    assert [name for name, _ in stages] == [f"denoiser, stage {k + 1}" for k in range(len(stages))]
    assert [facts for _, facts in stages] == list(shipped.values()) and last[0] == "denoiser"
    (tmp_path / "images" / "metrics.jsonl").write_text("")
    save_run_records(tmp_path / "video", str(tmp_path / "images"))
    with pytest.raises(BadInput, match="no training steps"):
        training_history(tmp_path / "video")


def save_run_records(folder, start=""):
    """What a training of 40 steps leaves beside its checkpoints."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"run": {"seed": 5}, "data": {"cache": "/gone"}, "start": start}
    (folder / "config.json").write_text(json.dumps(config))
    start = {"step": 0, "time": "2026-01-01", "devices": "1 x cpu", "machine": "Linux",
             "vidsim": "0", "git": "abc", "libraries": {"jax": "1"}}  # fmt: skip
    body = {"data": {"cache": "f00"}, "starts": [start]}
    (folder / "provenance.json").write_text(json.dumps(body))
    lines = [{"step": s, "kind": "train", "step_s": t, "flops": 2e9} for s, t in ((20, 2), (40, 4))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
