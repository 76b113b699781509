"""Decoded pixels against the pixels that were encoded, whatever the container does to them."""

import av
import numpy as np
import pytest

from tests.data import media_files as media
from vidsim.data.decode import probe, read_frames

CONTENTS = (media.gradient, media.noise, media.text, media.motion)
# RGB to YUV to RGB at 8 bits moves a value by at most 2.
YUV_ROUNDING = 2


def read_all(path, **options):
    held = probe(path)
    return held, read_frames(path, 0.0, held.num_frames, held.fps, **options)


@pytest.mark.parametrize("content", CONTENTS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_lossless_h264_returns_the_source(tmp_path, name, content):
    source = content(7, 65, 97)  # odd both ways: no chroma subsampling
    held, video = read_all(media.write_video(tmp_path / name, source))
    assert (held.num_frames, held.height, held.width, held.fps) == (7, 65, 97, 24.0)
    assert np.abs(video.astype(int) - source).max() <= YUV_ROUNDING


def blocks(frames, height, width):
    """Random 4x4 blocks of a tinted grey, moving 2 pixels a frame."""
    rng = np.random.default_rng(3)
    grey = rng.integers(50, 206, (height // 4, width // 4), dtype=np.uint8)
    grey = grey.repeat(4, 0).repeat(4, 1)
    tinted = grey[..., None] + np.array([20, 0, -30])
    return np.stack([np.roll(tinted, 2 * t, axis=0) for t in range(frames)]).astype(np.uint8)


def test_the_bounds_below_catch_shifts_and_order():
    source = blocks(8, 64, 96)
    assert max(media.psnr(source, np.roll(source, 1, axis)) for axis in (0, 1, 2)) < 25


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "bound_db"),
    [
        ("a.mp4", "libx264", "yuv420p", {"crf": "8"}, 32),
        ("a.webm", "libvpx-vp9", "yuv420p", {"crf": "8", "b:v": "0", "deadline": "realtime"}, 32),
        ("a.webm", "libsvtav1", "yuv420p", {"crf": "8", "preset": "12"}, 32),
        ("a.mp4", "libx265", "yuv420p10le", {"crf": "8", "preset": "ultrafast"}, 32),
        ("a.mov", "prores_ks", "yuv422p10le", {"qscale": "2"}, 32),
        ("a.avi", "mjpeg", "yuvj444p", {"b": "8M"}, 32),
        ("a.avi", "mpeg4", "yuv420p", {"b": "8M"}, 32),
        ("a.gif", "gif", "rgb8", {}, 18),  # 8 levels of red and green, 4 of blue
    ],
)
def test_lossy_codecs_stay_near_the_source(tmp_path, name, codec, pixels, options, bound_db):
    source = blocks(8, 64, 96)
    path = media.write_video(tmp_path / name, source, codec, pixels, options=options, rate=25)
    held, video = read_all(path)
    assert held.num_frames == 8
    assert held.fps == pytest.approx(25)
    assert min(media.psnr(a, b) for a, b in zip(video, source, strict=True)) > bound_db


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_rgb_codecs_are_exact(tmp_path, name):
    source = media.noise(5, 33, 47)
    _, video = read_all(media.write_video(tmp_path / name, source, "ffv1", "bgr0"))
    np.testing.assert_array_equal(video, source)


def test_odd_sizes_with_subsampled_chroma(tmp_path):
    source = np.broadcast_to(media.gradient(1, 33, 47), (4, 33, 47, 3))
    options = {"crf": "4", "b:v": "0", "deadline": "realtime"}
    path = media.write_video(
        tmp_path / "odd.webm", source, "libvpx-vp9", "yuv420p", options=options
    )
    held, video = read_all(path)
    assert (held.height, held.width) == (33, 47)
    assert media.psnr(video, source) > 30


def matrix_of(kr, kb):
    """RGB (0 to 1) to Y'CbCr rows from the luma weights (ITU-T H.273, table 4)."""
    kg = 1 - kr - kb
    luma = np.array([kr, kg, kb])
    blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb))
    red = (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
    return np.stack([luma, blue, red])


MATRICES = {1: matrix_of(0.2126, 0.0722), 6: matrix_of(0.299, 0.114), 9: matrix_of(0.2627, 0.0593)}


def coded_samples(rgb_HW3, matrix, full, bits):
    """The integers that a camera would store, by the definition of range (H.273, 8.3)."""
    yuv = (rgb_HW3 / 255) @ matrix.T
    scale = 2 ** (bits - 8)
    top = 2**bits - 1
    luma = yuv[..., :1] * top if full else (16 + 219 * yuv[..., :1]) * scale
    chroma = (yuv[..., 1:] * top if full else 224 * yuv[..., 1:] * scale) + 128 * scale
    kind = np.uint8 if bits == 8 else np.uint16
    values = np.clip(np.round(np.concatenate([luma, chroma], -1)), 0, top)
    return np.ascontiguousarray(values.astype(kind).transpose(2, 0, 1))


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", sorted(MATRICES), ids=["bt709", "bt601", "bt2020"])
def test_matrix_range_and_depth_follow_the_standard(tmp_path, matrix, full, bits):
    source = media.noise(1, 64, 64)[0].repeat(4, 0)[:64].repeat(4, 1)[:, :64]
    values = coded_samples(source.astype(float), MATRICES[matrix], full, bits)
    name = "yuv444p" if bits == 8 else "yuv444p10le"
    frames = [media.planes(values, name, matrix, 2 if full else 1) for _ in range(2)]
    _, video = read_all(media.write_frames(tmp_path / "colour.mkv", frames, "ffv1"))
    assert np.abs(video[0].astype(int) - source).max() <= YUV_ROUNDING


@pytest.mark.parametrize(("lines", "matrix"), [(64, 6), (720, 1)])
def test_unstated_matrix_goes_by_the_number_of_lines(tmp_path, lines, matrix):
    source = np.zeros((lines, 64, 3))
    source[:] = (200, 60, 120)
    values = coded_samples(source, MATRICES[matrix], False, 8)
    frames = [media.planes(values, "yuv444p")]
    _, video = read_all(media.write_frames(tmp_path / "plain.mkv", frames, "ffv1"))
    assert np.abs(video[0].astype(int) - source).max() <= YUV_ROUNDING


def test_pq_becomes_sdr_by_its_transfer_curve(tmp_path):
    code = np.arange(0, 1024, 8, dtype=np.uint16)
    values = np.broadcast_to(code, (3, 64, 128)).copy()
    values[1:] = 512
    frames = [media.planes(values, "yuv444p10le", 9, 2)]
    path = media.write_frames(tmp_path / "hdr.mkv", frames, "ffv1", trc=(16, 9))
    held, video = read_all(path)
    assert held.extra["hdr"] == "pq"
    # SMPTE ST 2084 code to light; diffuse white is 203 cd/m² (ITU-R BT.2408); display gamma 2.4.
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (code / 1023) ** (1 / m2)
    light = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    expected = 255 * np.clip(light / 203, 0, 1) ** (1 / 2.4)
    shown = light < 150  # above, FFmpeg rolls off and clips
    error = np.abs(video[0, 32].astype(float) - expected[:, None])[shown]
    assert error.max() < 6  # its 3-D table interpolates
    assert (video[0, 32][light > 400] == 255).all()


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda v: v),
        ((0, 1, -1, 0), lambda v: np.rot90(v, -1, (1, 2))),  # clockwise
        ((-1, 0, 0, -1), lambda v: np.rot90(v, 2, (1, 2))),
        ((0, -1, 1, 0), lambda v: np.rot90(v, 1, (1, 2))),
        ((-1, 0, 0, 1), lambda v: v[:, :, ::-1]),
        ((1, 0, 0, -1), lambda v: v[:, ::-1]),
        ((0, 1, 1, 0), lambda v: v.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda v: np.rot90(v, 2, (1, 2)).swapaxes(1, 2)),
    ],
)
def test_display_matrix_is_applied(tmp_path, matrix, turn):
    source = media.gradient(3, 40, 64)
    path = media.write_video(tmp_path / "turned.mp4", source, matrix=matrix)
    held, video = read_all(path)
    expected = turn(source)
    assert (held.height, held.width) == expected.shape[1:3]
    assert np.abs(video.astype(int) - expected).max() <= YUV_ROUNDING
    half = (held.height // 2, held.width // 2)
    small = read_frames(path, 0, 3, 24, resize=half, crop=(1, 2, 10, 8))
    whole = read_frames(path, 0, 3, 24, resize=half)
    assert media.psnr(whole, box_mean(expected, 2)) > 40
    np.testing.assert_array_equal(small, whole[:, 1:11, 2:10])


def box_mean(video_THWC, factor):
    frames, height, width, channels = video_THWC.shape
    blocks = video_THWC.reshape(frames, height // factor, factor, width // factor, factor, channels)
    return blocks.astype(float).mean((2, 4))


@pytest.mark.parametrize("factor", [2, 4])
def test_shrinking_is_the_mean_of_the_area(tmp_path, factor):
    source = media.noise(2, 64, 96)
    path = media.write_video(tmp_path / "a.mkv", source, "ffv1", "bgr0")
    video = read_frames(path, 0, 2, 24, resize=(64 // factor, 96 // factor))
    # The scaler rounds rows and columns apart, each by up to 1.
    assert np.abs(video - box_mean(source, factor)).max() <= 2


def test_enlarging_is_smooth_and_keeps_flat_colour(tmp_path):
    source = np.full((1, 32, 32, 3), (30, 140, 220), np.uint8)
    path = media.write_video(tmp_path / "a.mkv", source, "ffv1", "bgr0")
    video = read_frames(path, 0, 1, 24, resize=(80, 72))
    assert video.shape == (1, 80, 72, 3)
    assert np.abs(video.astype(int) - source[0, 0, 0]).max() <= 1


def rgba_ramp(frames=3, height=32, width=40):
    video = np.concatenate(
        [media.gradient(frames, height, width), np.zeros((frames, height, width, 1), np.uint8)], -1
    )
    video[..., 3] = np.linspace(0, 255, width).astype(np.uint8)
    return video


def on_black(rgba):
    return rgba[..., :3].astype(float) * rgba[..., 3:] / 255


def test_alpha_of_video_is_composited_on_black(tmp_path):
    source = rgba_ramp()
    path = media.write_video(tmp_path / "a.mov", source, "qtrle", "argb")
    held, video = read_all(path)
    assert held.extra["alpha"] == "black"
    assert np.abs(video - on_black(source)).max() <= 0.5  # rounded to nearest
    half = read_frames(path, 0, 3, 24, resize=(16, 20))
    assert np.abs(half - box_mean(on_black(source), 2)).max() <= 2


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_alpha_of_webm_is_seen(tmp_path, codec):
    source = rgba_ramp(2, 64, 64)
    source[..., :3] = 200
    source[..., 3] = np.repeat([0, 255], 32)
    options = {"crf": "4", "b:v": "2M", "auto-alt-ref": "0", "deadline": "realtime"}
    path = media.write_video(tmp_path / "a.webm", source, codec, "yuva420p", options=options)
    held, video = read_all(path)
    assert held.extra["alpha"] == "black"
    assert video[:, :, :28].mean() < 8
    assert abs(video[:, :, 36:].mean() - 200) < 8


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_changes_nothing(tmp_path, name):
    source = media.gradient(12, 32, 48)
    silent = media.write_video(tmp_path / f"silent_{name}", source)
    loud = media.write_video(tmp_path / f"loud_{name}", source, audio_s=2.0)
    with av.open(str(loud)) as container:
        assert len(container.streams.audio) == 1
    held, video = read_all(loud)
    assert held.num_frames == 12
    np.testing.assert_array_equal(video, read_all(silent)[1])
