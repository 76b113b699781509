"""What is read from results folders: losses by clip, skills of the prompts that state them."""

import dataclasses

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.eval.result import SuiteResult, save_result
from vidsim.eval.score import Score
from vidsim.scaling.measure import Protocol, _check_same, collect

LOSSES = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.fixture
def results(tmp_path):
    loss = SuiteResult(
        "loss", "Loss", "", (), (), {"times": "0.1, 0.9"},
        tuple({"clip": f"c{i}", "losses": row} for i, row in enumerate(LOSSES)),
    )  # fmt: skip
    scores = tuple(
        Score(f"prompts/{name}", 0.5, 0.4, 0.6, 3, "higher", baselines={"chance": chance})
        for name, chance in (("colour", 0.2), ("colour/48x48", 0.2), ("motion", 0.25), ("count", 1))
    )
    rows = (
        {"prompt": "a", "colour": 1.0, "count": 1.0, "direction": 0.0},
        {"prompt": "b", "colour": 0.0, "count": 1.0},  # an image, nothing moves
        {"prompt": "c", "colour": 1.0, "count": 1.0, "direction": 1.0},
    )
    prompts = SuiteResult("prompts", "Prompts", "", scores, (), {}, rows)
    run = {"suite_config": {"prompts": 3, "sampler": {"steps": 16, "guidance": {"scale": 3.0}}}}
    return save_result(tmp_path / "loss", loss, {}), save_result(tmp_path / "prompts", prompts, run)


def test_losses_and_skills_are_those_of_the_folders(results):
    found = collect("seed0/4x", 0, "4x", 7, 1e12, *results)
    np.testing.assert_array_equal(found.losses_NK, LOSSES)
    assert found.times == (0.1, 0.9)
    assert set(found.skills) == {"colour", "motion"}  # count is the same for every prompt
    np.testing.assert_array_equal(found.skills["colour"].right_N, [1, 0, 1])
    np.testing.assert_array_equal(found.skills["motion"].right_N, [0, 1])
    assert (found.skills["motion"].chance, found.flops, found.step) == (0.25, 1e12, 7)


def test_results_of_another_protocol_are_refused_by_name(results):
    _, prompts = results
    _check_same(prompts, {"prompts": 3, "sampler": {"guidance": {"scale": 3.0}}})
    with pytest.raises(BadInput, match="prompts 3; now 5"):
        _check_same(prompts, {"prompts": 5})
    with pytest.raises(BadInput, match=r"scale 3.0; now 4.0"):
        _check_same(prompts, {"sampler": {"guidance": {"scale": 4.0}}})


def test_every_checkpoint_has_one_protocol():
    settings = Protocol(clips=10, prompts=20, steps=3).settings()
    assert settings["loss"]["clips"] == 10 and settings["prompts"]["prompts"] == 20
    assert settings["prompts"]["sampler"]["steps"] == 3
    assert "heldout" in settings["loss"]["world"] and "heldout" in settings["prompts"]["world"]
    assert settings == dataclasses.replace(Protocol(), clips=10, prompts=20, steps=3).settings()
