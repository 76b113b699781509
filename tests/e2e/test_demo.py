"""The demo model: small enough to ship, and its script goes the whole road."""

import dataclasses
import os
import pathlib
import runpy
import shlex
import subprocess
import sys

import jax
import pytest

from vidsim.config import load_experiment
from vidsim.core.trees import count
from vidsim.generate.model import load
from vidsim.models.vae import Vae
from vidsim.runs import build_run
from vidsim.store.weights import load_model
from vidsim.tasks.denoising import Denoising

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "demo.py"
MOST_MB = 10.0


def test_the_demo_fits_into_the_package():
    """Two bytes a weight, the vocabulary full."""
    vae = build_run(load_experiment(f"{SCRIPT}:wide")).autoencoding.vae
    run = build_run(load_experiment(str(SCRIPT)))
    words = tuple(f"w{i}" for i in range(256))
    dit = dataclasses.replace(
        run.denoising.dit, patch_width=vae.latent_channels, text_width=run.denoising.text.width
    )
    text = dataclasses.replace(run.denoising.text, words=words)
    task = Denoising(dataclasses.replace(run.denoising, dit=dit, text=text))
    key = jax.random.key(0)
    weights = count(jax.eval_shape(task.init, key)) + count(jax.eval_shape(Vae(vae).init, key))
    assert 2 * weights <= MOST_MB * 1e6
    masks = run.denoising.masks
    assert masks.join > 0 and masks.headless > 0, "joins and long videos are trained"


def _demo(folder, *words):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, str(SCRIPT), *words], cwd=folder, env=env, timeout=2400,
                          capture_output=True, text=True)  # fmt: skip


def test_an_older_model_in_its_place_stops_the_script_before_it_trains(tmp_path):
    asset = tmp_path / "runs" / "demo-debug" / "asset"
    asset.mkdir(parents=True)
    (asset / "config.json").write_text('{"extra": {"name": "vidsim demo 0"}}')
    done = _demo(tmp_path, "--debug")
    assert done.returncode == 2 and "holds 'vidsim demo 0'" in done.stdout
    assert [path.name for path in asset.parent.iterdir()] == ["asset"], "nothing was made"


def test_it_goes_on_from_the_version_before_and_from_no_other(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    version, onward = script["VERSION"], script["ONWARD"]
    asset, before = tmp_path / "asset", tmp_path / "before"
    asset.mkdir()
    for name, stops in (("vidsim demo 0", True), (f"vidsim demo {version - 1}", False)):
        (asset / "config.json").write_text(f'{{"extra": {{"name": "{name}"}}}}')
        assert bool(script["in_the_way"](asset, before, True)) == stops, name
        assert before.exists() != stops
    assert script["in_the_way"](asset, before, False), "what ships is not overwritten unasked"
    done = _demo(tmp_path, "--list", "--onward")
    trained = [line for line in done.stdout.splitlines() if line.startswith("$ vidsim train")]
    assert f":{onward} " in trained[0] and "start=runs/demo/before" in trained[0]
    assert len(trained) == len(script["STAGES"]) - list(script["STAGES"]).index(onward)


@pytest.mark.parametrize("how", ["", "--onward"])
def test_no_stage_starts_from_weights_that_are_not_there_yet(tmp_path, how):
    made = {"runs/demo/before"} if how else set()
    averaged = 0
    for line in _demo(tmp_path, "--list", *how.split()).stdout.splitlines():
        words = shlex.split(line)
        start = [word.removeprefix("start=") for word in words if word.startswith("start=")]
        for parts in (one.split(",") for one in start):
            averaged += len(parts) > 1
            assert set(parts) <= made and len(set(parts)) == len(parts), line
        if "--workdir" in words:
            made.add(words[words.index("--workdir") + 1])
    assert averaged == 2 and "runs/demo/dit" in made


@pytest.mark.slow
def test_the_script_goes_the_whole_road_and_then_rests(tmp_path):
    done = _demo(tmp_path, "--debug")
    assert done.returncode == 0, (done.stdout[-800:], done.stderr[-1500:])
    asset = tmp_path / "runs" / "demo-debug" / "asset"
    facts, card = load_model(asset).extra, (asset / "README.md").read_text()
    assert load(asset).facts["step"] == 3
    assert {entry["suite"] for entry in facts["scores"]} == {"vae", "prompts", "capabilities"}
    assert all(entry["rounded"] for entry in facts["scores"]), "of the very weights that ship"
    assert "129" in facts["training"]["denoiser"]["data"]["frames"]
    for fact in ("license: apache-2.0", facts["training"]["denoiser"]["data"]["hash"]["cache"][:16],
                 facts["training"]["autoencoder"]["data"]["source"], "prompts/colour"):  # fmt: skip
        assert fact in card, fact
    again = _demo(tmp_path, "--debug")
    assert again.returncode == 0 and "resuming at step 3" in again.stdout
