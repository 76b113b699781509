"""Given media reach the grid by cropping or letterboxing, and say so."""

import numpy as np
import pytest

from tests.generate.tiny_generator import make_model
from vidsim.core.errors import BadInput
from vidsim.generate.media import align, read_given
from vidsim.generate.write import write_media

GRID = make_model().grid  # units of 8x8 pixels, 2 frames


def noise(T, H, W, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (T, H, W, 3), dtype=np.uint8)


def test_cropping_keeps_the_middle_bit_for_bit(tmp_path):
    video = noise(5, 37, 50)
    write_media(tmp_path / "a.mkv", video, 12)
    given = read_given(tmp_path / "a.mkv", GRID)
    assert np.array_equal(given.video_THWC, video[:, 2:34, 1:49])
    assert given.fps == 12 and not given.still
    assert given.notices == ("a.mkv: 50x37 cropped at the centre to 48x32",)


def test_letterbox_keeps_every_pixel_on_black(tmp_path):
    image = noise(1, 37, 50)
    write_media(tmp_path / "a.png", image, 1)
    given = read_given(tmp_path / "a.png", GRID, how="letterbox")
    assert given.size == (40, 56) and given.still
    assert np.array_equal(given.video_THWC[:, 1:38, 3:53], image)
    border = given.video_THWC.copy()
    border[:, 1:38, 3:53] = 0
    assert (border == 0).all() and "letterboxed with black to 56x40" in given.notices[0]


@pytest.mark.parametrize("native", [(48, 96), (96, 48), (50, 33), (16, 16), (301, 77)])
@pytest.mark.parametrize("size", [(32, 32), (24, 64)])
@pytest.mark.parametrize("how", ["crop", "letterbox"])
def test_scaling_keeps_the_aspect_to_one_pixel(native, size, how):
    plan = align(native, GRID, size, how, "a.png")
    scaled = plan.resize or native
    cover = how == "crop"
    fits = [s >= t if cover else s <= t for s, t in zip(scaled, size, strict=True)]
    assert all(fits) and any(s == t for s, t in zip(scaled, size, strict=True))
    factor = max if cover else min
    exact = [n * factor(size[0] / native[0], size[1] / native[1]) for n in native]
    assert all(abs(s - e) <= 1 for s, e in zip(scaled, exact, strict=True))
    kept = plan.crop[2:] if plan.crop else scaled
    above, below, before, after = plan.pad
    assert (kept[0] + above + below, kept[1] + before + after) == size


def test_a_part_of_the_frames(tmp_path):
    video = noise(9, 16, 16)
    write_media(tmp_path / "a.mkv", video, 8)
    given = read_given(tmp_path / "a.mkv", GRID, frames=(2, 7))
    assert np.array_equal(given.video_THWC, video[2:7])
    assert "frames 2 to 6 of 9" in given.notices[0]


@pytest.mark.parametrize(
    ("name", "shape", "options", "says"),
    [
        ("a.png", (1, 1, 1), {}, "1x1 pixels; at least 8x8"),
        ("a.png", (1, 1, 1), {"size": (16, 16)}, "1x1 pixels; at least 8x8"),
        ("a.png", (1, 16, 16), {"how": "stretch"}, "--align: 'stretch'"),
        ("a.png", (1, 16, 16), {"size": (17, 16)}, "nearest 16x16"),
        ("a.mkv", (5, 16, 16), {"frames": (3, 9)}, "frames 3:9; within 0:5"),
        ("a.mkv", (5, 16, 16), {"frames": (4, 4)}, "frames 4:4"),
    ],
)
def test_refused_in_one_line(tmp_path, name, shape, options, says):
    write_media(tmp_path / name, noise(*shape), 8)
    with pytest.raises(BadInput) as error:
        read_given(tmp_path / name, GRID, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video at all, but long enough to look at")
    with pytest.raises(BadInput, match="a.mp4"):
        read_given(tmp_path / "a.mp4", GRID)
    with pytest.raises(BadInput, match="no such file"):
        read_given(tmp_path / "b.mp4", GRID)
