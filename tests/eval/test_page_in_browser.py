"""Pages play in a browser: every video is decoded and runs, and nothing is complained about."""

import shutil

import pytest

from tests.eval.browser import CHROMIUM, play
from tests.generate.test_media import noise
from vidsim.eval.result import Sample, SuiteResult, View, save_result
from vidsim.eval.runner import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None and not CHROMIUM.exists(),
        reason="no chromium here: pages are not opened in a browser",
    ),
]


def page_of(folder, videos):
    """A page with these videos, as the gallery's is made."""
    samples = tuple(
        Sample(f"sample {k}", "a <red> & 'round' thing", (View(video, "made"),), 8.0, f"Group {k}")
        for k, video in enumerate(videos)
    )
    saved = save_result(folder, SuiteResult("gallery", "All", "", (), samples), {})
    return write_report(folder / "report.html", "gallery", "", [saved])


def check_plays(page, folder, videos):
    """Every video element is decoded and running, every picture is there, no error was heard."""
    found = play(page, folder)
    assert found["errors"] == []
    assert len(found["videos"]) == videos
    for video in found["videos"]:
        assert video["error"] is None and video["ready"] >= 2 and video["played"], video
        assert video["duration"] > 0 and video["width"] > 0, video
    assert found["images"] and min(found["images"]) > 0


def test_videos_of_all_shapes_play(tmp_path):
    videos = [noise(9, 48, 64), noise(5, 96, 48), noise(2, 50, 66), noise(1, 48, 48)]
    page = page_of(tmp_path / "page", videos)
    check_plays(page, tmp_path / "browser", 3)


def test_a_damaged_video_is_noticed(tmp_path):
    """The check can fail: a page whose video is not one."""
    page = page_of(tmp_path / "page", [noise(9, 48, 64)])
    text = page.read_text()
    start = text.index("data:video/mp4;base64,") + len("data:video/mp4;base64,")
    page.write_text(text[:start] + "AAAA" * 40 + text[text.index("'", start) :])
    found = play(page, tmp_path / "browser")
    assert found["videos"][0]["error"] or found["videos"][0]["ready"] < 2
    with pytest.raises(AssertionError):
        check_plays(page, tmp_path / "again", 1)
