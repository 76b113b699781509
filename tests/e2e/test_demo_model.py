"""Laws on the model that ships with the package: never its exact pixels."""

import dataclasses

import numpy as np
import pytest

from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.eval.suites import prompts
from vidsim.generate.assets import find
from vidsim.generate.extend import animate
from vidsim.generate.model import load
from vidsim.generate.pack import Request
from vidsim.generate.sample import SamplerConfig, sample, sample_latents
from vidsim.store.weights import load_model

SAMPLER = SamplerConfig("euler", 8, GuidanceConfig(3.0))
ASKED = [
    Request("a red circle on a plain white background", 64, 64, 5, 8.0, 1),
    Request("a blue square on a plain black background", 48, 80, 1, seed=2),
    Request("a green triangle on a plain gray background", 96, 48, 9, 8.0, 3),
]


@pytest.fixture(scope="module")
def model():
    return load(find("demo"))


def test_it_fits_the_package_and_says_where_it_comes_from():
    folder = find("demo")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10e6
    facts = load_model(folder).extra
    assert {"vae", "prompts", "capabilities"} <= {entry["suite"] for entry in facts["scores"]}
    assert facts["licence"] in (folder / "README.md").read_text()


@pytest.mark.slow
def test_colours_and_backgrounds_come_from_the_prompt(model):
    """24 held-out prompts; a model that ignores them gets about 4 right."""
    world = "shapes?split=heldout&seed=7&objects=1&anchored=true"
    sampler = dataclasses.replace(SAMPLER, steps=16)
    suite = prompts.PromptsSuite(
        prompts=24, world=world, sizes=((64, 64),), frames=(1,), vae_prompts=0, sampler=sampler
    )
    found = {score.metric: score.value for score in prompts.run(model, suite).scores}
    assert found["prompts/colour"] >= 0.8 and found["prompts/background"] >= 0.8


@pytest.mark.slow
def test_neighbours_change_a_clip_by_rounding_only(model):
    together = sample_latents(model, ASKED, SAMPLER)
    for request, latent in zip(ASKED, together, strict=True):
        (alone,) = sample_latents(model, [request], SAMPLER)
        np.testing.assert_allclose(alone, latent, atol=1e-3 * np.abs(latent).max(), rtol=0)


@pytest.mark.slow
def test_a_given_picture_is_the_first_frame_bit_for_bit(model):
    picture = sample(model, [dataclasses.replace(ASKED[0], num_frames=1)], SAMPLER)[0].video_THWC[0]
    (made,) = animate(model, picture, ASKED[:1], SAMPLER)
    np.testing.assert_array_equal(made.video_THWC[0], picture)
    assert len(made.video_THWC) == 5
