"""The page holds everything it shows, escapes what it is told and is well formed."""

import base64
import html.parser
import io
import math
import re
import shutil
import subprocess

import av
import numpy as np
import pytest
from PIL import Image

from vidsim.core.errors import BadInput
from vidsim.eval.page import MEDIA_BYTES, Curves, build_page, write_page
from vidsim.eval.plots import intervals_svg, lines_svg
from vidsim.eval.result import Sample, SuiteResult, View, load_result, save_result
from vidsim.eval.score import Score, require

EVIL = "<script>alert('1')</script> & \"quoted\" </figcaption>"
VOID = {"meta", "img", "br", "rect", "line", "circle", "path", "use"}


class WellFormed(html.parser.HTMLParser):
    """Fails on a tag that closes another one; records tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def plain(T: int, H: int, W: int, colour) -> np.ndarray:
    return np.broadcast_to(np.uint8(colour), (T, H, W, 3)).copy()


def colour(i: int) -> tuple[int, int, int]:
    return 200, 30 * i % 256, 60


def make_result(samples: int = 3) -> SuiteResult:
    scores = [
        Score("prompts/colour", 0.9, 0.8, 0.95, 100, "higher", 0.99, {"chance": 0.1}, "share"),
        Score(
            "prompts/colour/96x64", 0.92, 0.8, 0.97, 50, "higher", None, {"chance": 0.1}, "share"
        ),
        Score(
            "prompts/colour/64x96", 0.88, 0.7, 0.95, 50, "higher", None, {"chance": 0.1}, "share"
        ),
        Score("prompts/gap", math.nan, math.nan, math.nan, 0, "info"),
    ]
    made = [
        Sample(f"clip {i}", f"{i} {EVIL}", (View(plain(1 + 4 * (i % 2), 64, 96, colour(i))),),
               8.0, "Samples", {"seed": i}, {"colour": i % 2 == 0})
        for i in range(samples)
    ]  # fmt: skip
    pair = View(plain(3, 48, 32, 9), "original"), View(plain(3, 48, 32, 240), EVIL)
    made.append(Sample("pair", "two views", pair, 8.0, f"Pairs {EVIL}"))
    return SuiteResult("prompts", f"Held out {EVIL}", EVIL, tuple(scores), tuple(made), {"n": 100},
                       ({"psnr": math.inf},))  # fmt: skip


def make_page(tmp_path, **kwargs) -> str:
    result = make_result(**kwargs)
    outcomes = require(result.scores, ["prompts/colour>=0.85", "prompts/colour.low>=0.85"])
    saved = save_result(tmp_path, result, {"checkpoint": EVIL}, outcomes)
    curve = lines_svg({f"a {EVIL}": ([0, 1, 2], [3.0, 2.0, math.nan])}, title=f"Loss {EVIL}")
    return build_page(f"Run {EVIL}", EVIL, {"config": EVIL}, [saved], [Curves(EVIL, (curve,))])


def parse(page: str) -> WellFormed:
    parser = WellFormed()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_text_from_outside_is_text(tmp_path):
    page = make_page(tmp_path)
    assert "<script" not in page
    assert "alert" in "".join(parse(page).text)


def test_page_asks_for_nothing(tmp_path):
    for tag, attributes in parse(make_page(tmp_path)).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "poster", "data"):
            if attributes.get(name):
                assert attributes[name].startswith(("data:", "#")), attributes[name][:60]
    assert "@import" not in make_page(tmp_path)
    assert not re.search(r"url\((?!#)", make_page(tmp_path))


def test_media_in_the_page_decode_to_the_samples(tmp_path):
    tags = parse(make_page(tmp_path)).tags
    videos = [a for tag, a in tags if tag == "video"]
    assert len(videos) == 3  # one sample of five frames and the pair
    assert all({"autoplay", "loop", "muted", "playsinline"} <= set(a) for a in videos)
    data = base64.b64decode(videos[0]["src"].removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(data)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 5
    assert (
        np.abs(frames[2].astype(int) - [200, 30, 60]).max() <= 5
    )  # see COLOUR_STEPS in test_write
    images = [a["src"] for tag, a in tags if tag == "img" and "sheet" not in a.get("class", "")]
    first = base64.b64decode(images[0].removeprefix("data:image/png;base64,"))
    assert (np.asarray(Image.open(io.BytesIO(first))) == [200, 0, 60]).all()


def test_every_score_and_verdict_is_shown(tmp_path):
    text = " ".join("".join(parse(make_page(tmp_path)).text).split())
    parts = ["0.900", "0.800 … 0.950", "chance 0.100", "0.990", "✓ >=0.85", "✗ .low>=0.85"]
    parts += ["1 of 2 requirements failed", "prompts/colour/96x64", "2 detailed rows"]
    assert [part for part in parts if part not in text] == []


def test_page_stays_below_its_size_and_says_what_is_left_out(tmp_path):
    saved = save_result(tmp_path, make_result(samples=12), {})
    whole = build_page("T", "", {}, [saved])
    cut = build_page("T", "", {}, [saved], media_bytes=4000)
    assert len(cut) < len(whole) and "more in the samples folder" in cut
    assert "more in the samples folder" not in whole
    assert MEDIA_BYTES * 4 / 3 < 14.5e6  # the default keeps pages below 15 MB


def test_ids_are_unique_on_the_page(tmp_path):
    plots = [
        intervals_svg([("a", 0.5, 0.4, 0.6), ("b", 1, math.nan, math.nan)], title="t") for _ in "ab"
    ]
    page = make_page(tmp_path) + "".join(plots)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert ids and len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([^")]+)', page)
    assert set(used) <= set(ids)


def test_results_come_back_from_disk(tmp_path):
    result = make_result()
    outcomes = require(result.scores, ["prompts/gap>=0", "prompts/colour>=0.85"])
    save_result(tmp_path, result, {"step": 3}, outcomes)
    back = load_result(tmp_path)
    assert back.scores[:3] == result.scores[:3] and math.isnan(back.scores[3].value)
    assert [o.passed for o in back.outcomes] == [False, True]
    assert [s.prompt for s in back.samples] == [s.prompt for s in result.samples]
    assert back.clips == ({"psnr": "inf"},)
    assert back.samples[0].checks == {"colour": True} and back.run == {"step": 3}
    assert all((tmp_path / file).exists() for s in back.samples for _, file in s.views)
    assert all((tmp_path / file).exists() for _, file in back.sheets) and len(back.sheets) == 2


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(BadInput, match="results.json"):
        load_result(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 999}')
    with pytest.raises(BadInput, match="schema 999"):
        load_result(tmp_path)


@pytest.mark.slow
def test_browser_draws_the_page_and_its_videos(tmp_path):
    """A screenshot holds the colours of video frames: the page loads and its videos decode."""
    browser = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if browser is None:
        pytest.skip("no chromium on this machine: the page was not drawn")
    sample = Sample("v", "v", (View(plain(9, 64, 64, (30, 200, 90))),), 8.0, "Samples")
    saved = save_result(tmp_path, SuiteResult("s", "S", "", (), (sample,)), {})
    path = write_page(tmp_path / "report.html", build_page("T", "", {}, [saved]))
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
         "--window-size=900,700", path.as_uri()],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    near = (np.abs(pixels - [30, 200, 90]).max(-1) <= 6).sum()
    assert near > 100 * 100  # the card shows it at 150 x 150
