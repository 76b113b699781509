"""The gallery and the suite run whole on a random model: every capability, one page."""

import dataclasses
import shutil

import pytest

from tests.eval.test_page_in_browser import check_plays
from tests.generate.tiny_generator import make_model
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.eval.gallery import EXAMPLES, GalleryConfig, gallery
from vidsim.eval.result import save_result
from vidsim.eval.runner import write_report
from vidsim.eval.suites import capabilities
from vidsim.generate.sample import SamplerConfig
from vidsim.worlds.shapes.caption import CHANGES

QUICK = SamplerConfig("euler", 1, GuidanceConfig(1.0), max_rows=1)


@pytest.fixture(scope="module")
def model():
    made = make_model()
    limits = dataclasses.replace(made.limits, tokens=511, text=600)  # odd: never halved
    return dataclasses.replace(made, limits=limits)


@pytest.mark.slow
def test_the_gallery_shows_every_capability_on_one_page(model, tmp_path):
    config = GalleryConfig(size=(48, 48), frames=9, long_s=2.0, sampler=QUICK)
    result = gallery(model, config)
    assert {sample.group for sample in result.samples} == {group for _, group in EXAMPLES}
    saved = save_result(tmp_path / "g", result, {})
    file = write_report(tmp_path / "g" / "report.html", "gallery", "", [saved])
    page = file.read_text()
    views = [view.video_THWC for sample in result.samples for view in sample.views]
    assert page.count("<video") == sum(len(video) > 1 for video in views)  # stills are <img>
    assert sum(len(video) == 1 for video in views) == 7, "two given, one prompt at five sizes"
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    if shutil.which("chromium") is None:
        print("no chromium here: the page was not opened in a browser")
        return
    check_plays(file, tmp_path / "browser", page.count("<video"))


@pytest.mark.slow
def test_the_whole_suite_runs_on_a_random_model(model):
    suite = capabilities.CapabilitiesSuite(
        clips=2, library=3, size=(48, 48),
        frames=17, strengths=(0.5,), sizes=((48, 48), (64, 48)), size_clips=2, large=(96, 96),
        long_clips=1, long_s=10.0, shown=1, sampler=QUICK,
    )  # fmt: skip
    events = []
    result = capabilities.run(model, suite, lambda *event: events.append(event))
    rows = {score.metric: score for score in result.scores}
    for task in capabilities.TASKS:
        assert rows[f"capabilities/{task}"].n == 2
        assert rows[f"capabilities/{task}_skill"].value <= 0.0, "noise has no skill"
    for kind in CHANGES:
        assert rows[f"capabilities/edit_{kind}"].n == 2
        assert f"capabilities/edit_{kind}/at_0.5/kept" in rows
    assert "capabilities/one_clip" in rows
    assert rows["capabilities/beginnings/same_end"].value == 1.0, "given frames bit for bit"
    assert rows["capabilities/beginnings"].value > 0.5, "noise begins differently each time"
    assert rows["capabilities/sizes"].n == 4 and "capabilities/sizes/new_aspect/48x64" in rows
    for task in ("image", "large", "strangers", "blend"):
        assert rows[f"capabilities/{task}"].n == 2 and rows[f"capabilities/{task}"].value == 0.0
    assert rows["capabilities/variations"].n == rows["capabilities/prototype"].n == 2
    assert rows["capabilities/batch_speed/largest_difference"].value < 1e-3
    assert all(done <= of for _, done, of in events)
