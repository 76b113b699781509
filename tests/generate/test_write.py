"""Files decode back to what was written, and their colours mean what their tags say."""

import json

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from vidsim.core.errors import BadInput
from vidsim.generate.write import check_media, write_media

BARS = np.array(
    [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0],
     [255, 0, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0], [128, 128, 128], [17, 99, 201]],
    np.uint8,
)  # fmt: skip
# Rounding to 8-bit YUV and back costs up to 2 steps; the encoder at its high quality up to 3 more.
# The wrong matrix costs 20 or more on green, the wrong range 16 on black.
COLOUR_STEPS = 5
# Half a step of rounding, and the encoder.
YUV_STEPS = 2


def bars_video(frames: int = 9) -> np.ndarray:
    image_HWC = np.repeat(np.repeat(BARS[None], 64, 0), 16, 1)
    return np.repeat(image_HWC[None], frames, 0)


def noise_video(T: int, H: int, W: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (T, H, W, 3), dtype=np.uint8)


def decode(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def bt709_limited(rgb_3: np.ndarray) -> np.ndarray:
    """Y'CbCr of 8-bit R'G'B' by ITU-R BT.709-6 items 3.2 to 3.4 and 4.6, written from the table."""
    r, g, b = rgb_3.astype(np.float64).T / 255
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return np.stack([219 * y + 16, 224 * (b - y) / 1.8556 + 128, 224 * (r - y) / 1.5748 + 128], 1)


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_stored_planes_are_bt709_limited_and_say_so(tmp_path, ending):
    path = write_media(tmp_path / f"bars{ending}", bars_video(), 24).path
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        tags = context.color_range, context.colorspace, context.color_primaries, context.color_trc
        assert tags == (1, 1, 1, 1)  # limited; BT.709 three times
        frame = next(container.decode(video=0))
        y, u, v = (
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            for plane in frame.planes
        )
    luma = y[32, 8 : 16 * len(BARS) : 16]
    chroma = [c[16, 4 : 8 * len(BARS) : 8] for c in (u, v)]
    found = np.stack([luma, *chroma], 1).astype(float)
    assert np.abs(found - bt709_limited(BARS)).max() <= YUV_STEPS


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_colour_bars_come_back(tmp_path, ending):
    path = write_media(tmp_path / f"bars{ending}", bars_video(), 24).path
    middle = decode(path)[:, 32, 8::16].astype(int)
    assert np.abs(middle - BARS).max() <= COLOUR_STEPS


def test_mp4_starts_with_its_index_and_is_high_profile(tmp_path):
    data = write_media(tmp_path / "a.mp4", bars_video(), 24).path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.profile == "High"


@pytest.mark.parametrize("fps", [8, 24, 30000 / 1001])
def test_frames_and_rate_come_back(tmp_path, fps):
    video = noise_video(7, 32, 48)
    path = write_media(tmp_path / "a.mp4", video, fps).path
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-9)
    assert decode(path).shape == video.shape


def test_one_frame_of_video(tmp_path):
    assert decode(write_media(tmp_path / "a.mp4", noise_video(1, 16, 16), 8).path).shape[0] == 1


def test_mkv_is_lossless_at_odd_sizes(tmp_path):
    video = noise_video(5, 33, 47)
    assert np.array_equal(decode(write_media(tmp_path / "a.mkv", video, 12).path), video)


def test_png_is_lossless_and_jpg_close(tmp_path):
    video = bars_video(1)
    png = Image.open(write_media(tmp_path / "a.png", video, 1).path).convert("RGB")
    assert np.array_equal(np.asarray(png), video[0])
    jpg = Image.open(write_media(tmp_path / "a.jpg", video, 1).path).convert("RGB")
    assert np.abs(np.asarray(jpg)[32, 8::16].astype(int) - BARS).max() <= COLOUR_STEPS


def test_gif_of_few_colours_is_exact_and_keeps_time(tmp_path):
    video = np.stack([np.roll(bars_video(1)[0], 5 * t, axis=1) for t in range(10)])
    image = Image.open(write_media(tmp_path / "a.gif", video, 24).path)
    frames = [
        (np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)
    ]
    assert np.array_equal(np.stack([f for f, _ in frames]), video)
    # 10 frames at 24 a second last 416.7 ms; a delay counts steps of 10 ms.
    assert abs(sum(d for _, d in frames) - 10 * 1000 / 24) <= 5


def test_gif_of_many_colours_keeps_mean_colour(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp[::-1]), np.full((64, 64), 90, np.uint8)], -1)
    video = np.stack([image, image[::-1]])
    found = decode(write_media(tmp_path / "a.gif", video, 10).path).astype(float)
    # Dithering keeps local means; undithered, this palette is off by more than 4 in some block.
    blocks = (found - video).reshape(2, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    assert np.abs(blocks).max() <= 3


def test_odd_size_is_padded_with_a_notice_not_cropped(tmp_path):
    video = np.broadcast_to(np.uint8([200, 40, 90]), (3, 33, 47, 3))
    written = write_media(tmp_path / "a.mp4", video, 12)
    found = decode(written.path)
    assert found.shape == (3, 34, 48, 3) == (written.num_frames, written.height, written.width, 3)
    assert np.abs(found.astype(int) - [200, 40, 90]).max() <= COLOUR_STEPS
    assert len(written.notices) == 1 and "47x33" in written.notices[0]


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".mkv", ".gif", ".png", ".jpg"])
def test_metadata_is_stored(tmp_path, ending):
    facts = {"prompt": 'a "red" <ball> — und Bälle', "seed": 7}
    frames = 1 if ending in (".png", ".jpg") else 3
    path = write_media(tmp_path / f"a{ending}", noise_video(frames, 16, 16), 8, facts).path
    if ending in (".png", ".jpg", ".gif"):
        image = Image.open(path)
        image.load()
        comment = image.info["comment"]
    else:
        with av.open(str(path)) as container:
            found = {k.lower(): v for k, v in container.metadata.items()}
        comment = found["comment"]
    assert json.loads(comment) == facts


def test_nothing_is_left_or_overwritten_on_failure(tmp_path):
    path = tmp_path / "a.mp4"
    write_media(path, noise_video(2, 16, 16), 8)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_media(path, noise_video(2, 16, 16), 8, {"not JSON": object()})
    with pytest.raises(BadInput):
        write_media(path, noise_video(2, 16, 16).astype(np.float32), 8)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "frames", "fps", "says"),
    [
        ("a.avi", 3, 8, ".mp4"),
        ("a", 3, 8, "ending ''"),
        ("a.png", 3, 8, "3 frames for a .png image"),
        ("a.gif", 3, 60, "at most 50"),
        ("a.mp4", 3, 0, "above 0"),
    ],
)
def test_refused_in_one_line(tmp_path, name, frames, fps, says):
    with pytest.raises(BadInput) as error:
        check_media(tmp_path / name, frames, fps)
    assert says in str(error.value) and "\n" not in str(error.value)
