"""Images and animated images: orientation, transparency, depth, delays."""

import numpy as np
import pytest
from PIL import Image

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.data.decode import probe, read_frames
from vidsim.data.frames import Limits


def read_image(path, **options):
    held = probe(path)
    assert (held.num_frames, held.fps, held.extra["kind"]) == (1, 1.0, "image")
    return held, read_frames(path, 0.0, 1, 1.0, **options)[0]


BOUNDS_DB = {"a.png": 99, "a.webp": 99, "a.jpg": 38, "a.jpeg": 38}


@pytest.mark.parametrize(("name", "bound_db"), BOUNDS_DB.items())
def test_images_return_their_pixels(tmp_path, name, bound_db):
    source = media.gradient(1, 33, 47)[0]
    options = {"lossless": True} if name == "a.webp" else {"quality": 95, "subsampling": 0}
    Image.fromarray(source).save(tmp_path / name, **options)
    held, pixels = read_image(tmp_path / name)
    assert (held.height, held.width) == (33, 47)
    assert media.psnr(pixels, source) >= bound_db
    crop = read_image(tmp_path / name, crop=(3, 5, 20, 30))[1]
    np.testing.assert_array_equal(crop, pixels[3:23, 5:35])


# EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored image are shown.
TURNS = {
    1: lambda v: v, 2: lambda v: v[:, ::-1], 3: lambda v: v[::-1, ::-1], 4: lambda v: v[::-1],
    5: lambda v: v.swapaxes(0, 1), 6: lambda v: np.rot90(v, -1),
    7: lambda v: v[::-1, ::-1].swapaxes(0, 1), 8: lambda v: np.rot90(v),
}  # fmt: skip


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    source = media.gradient(1, 24, 40)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {"quality": 95, "subsampling": 0}
    Image.fromarray(source).save(tmp_path / name, exif=exif, **options)
    held, pixels = read_image(tmp_path / name)
    expected = TURNS[orientation](source)
    assert pixels.shape == expected.shape == (held.height, held.width, 3)
    assert media.psnr(pixels, expected) > 36


def test_transparency_is_composited_on_black(tmp_path):
    rgba = np.concatenate([media.gradient(1, 16, 256)[0], np.zeros((16, 256, 1), np.uint8)], -1)
    rgba[..., 3] = np.arange(256)
    expected = rgba[..., :3].astype(float) * rgba[..., 3:] / 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.webp", lossless=True, exact=True)
    for name in ("a.png", "a.webp"):
        held, pixels = read_image(tmp_path / name)
        assert held.extra["alpha"] == "black"
        assert np.abs(pixels - expected).max() <= 0.5  # rounded to nearest
    grey = Image.fromarray(np.stack([rgba[..., 0], rgba[..., 3]], -1), "LA")
    grey.save(tmp_path / "grey.png")
    expected = rgba[..., 0].astype(float) * rgba[..., 3] / 255
    assert np.abs(read_image(tmp_path / "grey.png")[1] - expected[..., None]).max() <= 0.5


def test_palette_with_a_transparent_entry(tmp_path):
    index = np.repeat([[0, 1, 2, 3]], 4, axis=0).astype(np.uint8)
    image = Image.fromarray(index, "P")
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)]
    image.putpalette([v for colour in colours for v in colour])
    image.save(tmp_path / "a.png", transparency=1)
    expected = np.array(colours, np.uint8)[index]
    expected[index == 1] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[1], expected)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png")[1]
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, -1))


def test_grey_bilevel_and_cmyk(tmp_path):
    grey = media.gradient(1, 16, 16)[0, ..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png")[1], np.repeat(grey[..., None], 3, -1)
    )
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    bits = np.repeat(np.where(grey > 100, 255, 0)[..., None], 3, -1)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[1], bits)
    flat = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)
    Image.fromarray(flat, "CMYK").save(tmp_path / "ink.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "ink.jpg")[1].astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_animated_images_are_videos_on_the_grid_of_their_delays(tmp_path, name):
    source = media.gradient(6, 20, 30)
    frames = [Image.fromarray(frame) for frame in source]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    frames[0].save(tmp_path / name, duration=40, **options)
    held = probe(tmp_path / name)
    assert (held.num_frames, held.fps, held.extra["kind"]) == (6, 25.0, "video")
    video = read_frames(tmp_path / name, 0.0, 6, 25.0)
    np.testing.assert_array_equal(video, source)
    np.testing.assert_array_equal(
        read_frames(tmp_path / name, 0.0, 2, 25.0, first=1, stride=3), source[1::3]
    )
    # Uneven delays: 100, 100, 300, 100, 100, 100 ms at 10 frames a second.
    frames[0].save(tmp_path / name, duration=[100, 100, 300, 100, 100, 100], **options)
    held = probe(tmp_path / name)
    assert (held.num_frames, held.fps) == (8, 10.0)
    video = read_frames(tmp_path / name, 0.0, 8, 10.0)
    np.testing.assert_array_equal(video, source[[0, 1, 2, 2, 2, 3, 4, 5]])


def test_transparent_gif_frames(tmp_path):
    rgba = np.zeros((3, 24, 24, 4), np.uint8)
    for t in range(3):
        rgba[t, 4:12, 4 + 4 * t : 12 + 4 * t] = (250, 40, 90, 255)
    frames = [Image.fromarray(frame) for frame in rgba]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2
    )
    held = probe(tmp_path / "a.gif")
    assert (held.num_frames, held.fps) == (3, 10.0)
    video = read_frames(tmp_path / "a.gif", 0.0, 3, 10.0)
    np.testing.assert_array_equal(video, rgba[..., :3])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_damaged_images_are_named(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(media.noise(1, 64, 64)[0]).save(path)
    whole = path.read_bytes()
    for part, reason in (
        (b"", "empty"),
        (whole[: len(whole) // 2], ""),
        (b"junk" * 500, "cannot be decoded"),
    ):
        path.write_bytes(part)
        with pytest.raises(BadInput, match=f"{name}: .*{reason}"):
            probe(path)
    # The ending decides: a PNG called .jpg is no JPEG.
    other = tmp_path / ("b.jpg" if name != "a.jpg" else "b.png")
    other.write_bytes(whole)
    with pytest.raises(BadInput, match=f"{other.name}: cannot be decoded"):
        probe(other)


def test_large_images_are_refused_from_their_header(tmp_path):
    Image.new("L", (4000, 3000)).save(tmp_path / "bomb.png")  # 12 million pixels in 12 kB
    with pytest.raises(BadInput, match="bomb.png: 4000x3000 pixels; at most 1,000,000"):
        probe(tmp_path / "bomb.png", limits=Limits(max_pixels=1_000_000))
    frames = [Image.new("L", (8, 8), t) for t in range(9)]
    frames[0].save(tmp_path / "long.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(BadInput, match="long.webp: 9 frames; at most 5"):
        probe(tmp_path / "long.webp", limits=Limits(max_frames=5))
