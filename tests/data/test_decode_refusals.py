"""Files that must be refused, each by name and reason, in one line."""

import os
import struct

import av
import numpy as np
import pytest

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.data import decode
from vidsim.data.decode import probe, read_frames
from vidsim.data.frames import Limits

VIDEO_NAMES = ("a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.gif")


def make(path, frames=20):
    kinds = {
        ".webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime"}),
        ".gif": ("gif", "rgb8", {}),
    }
    codec, pixels, options = kinds.get(path.suffix, ("libx264", "yuv444p", None))
    return media.write_video(path, media.motion(frames, 64, 64), codec, pixels, options=options)


def refused(path, reason, **options):
    with pytest.raises(BadInput, match=reason) as caught:
        probe(path, **options)
    assert str(caught.value).startswith(f"{path.name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", VIDEO_NAMES)
def test_empty_garbage_and_truncated_files(tmp_path, name):
    path = make(tmp_path / name)
    whole = path.read_bytes()
    assert probe(path).num_frames == 20
    path.write_bytes(b"")
    refused(path, "file is empty")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "cannot be decoded|truncated|missing|no video stream|no frame")
    for share in (0.2, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "missing|truncated|cannot be decoded|damaged")
    path.write_bytes(whole[:-200])
    refused(path, "missing|truncated|cannot be decoded|damaged")


def test_truncation_is_seen_when_the_header_comes_first(tmp_path):
    path = tmp_path / "fast.mp4"
    media.write_video(path, media.motion(20, 64, 64), container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    assert probe(path).num_frames == 20
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "file is truncated: [0-9,]+ bytes are missing")


def test_damage_in_the_middle_is_found_by_decoding(tmp_path):
    path = make(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 2000
    data[at : at + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(data)
    refused(path, "damaged|cannot be decoded|can be decoded")
    with pytest.raises(BadInput, match="a.mp4: .*(damaged|cannot be decoded|ends before)"):
        read_frames(path, 0.0, 20, 24.0)


def test_a_file_without_frames(tmp_path):
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    refused(path, "no frame|no video stream|cannot be decoded")


def test_a_file_with_sound_only(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        media._write_sound(container, container.add_stream("aac", rate=16000), 1.0)
    refused(path, "has no video stream")


def test_a_header_that_lies_about_the_count(tmp_path):
    path = make(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert struct.unpack_from("<I", data, at)[0] == 20
    struct.pack_into("<I", data, at, 5000)
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, 5000)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 5000
    assert probe(path).num_frames == 20
    assert probe(path, check="first").num_frames == 20


def test_playlists_and_scripts_are_never_followed(tmp_path):
    secret = make(tmp_path / "secret.mp4")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{secret}'\n"
    for name in ("list.mp4", "list.mkv", "list.avi", "list.gif"):
        for text in (playlist, concat):
            (tmp_path / name).write_text(text)
            refused(tmp_path / name, "cannot be decoded|truncated|missing")
    (tmp_path / "list.m3u8").write_text(playlist)
    refused(tmp_path / "list.m3u8", "unknown ending '.m3u8'; one of .mp4, ")


def test_the_ending_names_the_container(tmp_path):
    real = make(tmp_path / "a.mkv")
    liar = tmp_path / "b.mp4"
    liar.write_bytes(real.read_bytes())
    refused(liar, "cannot be decoded|truncated")


def test_only_known_codecs(tmp_path):
    path = media.write_video(tmp_path / "a.avi", media.motion(3, 64, 64), "cinepak", "rgb24")
    refused(path, "codec cinepak; .*h264.*; convert the file")


def test_limits(tmp_path):
    path = make(tmp_path / "a.mp4")
    refused(path, "frames of 64x64 pixels; at most 1,000 pixels", limits=Limits(max_pixels=1000))
    refused(path, "more than 19 frames", limits=Limits(max_frames=19))
    with pytest.raises(BadInput, match="a.mp4: 245,760 bytes in one read; at most 200,000"):
        read_frames(path, 0.0, 20, 24.0, limits=Limits(max_bytes=200_000))
    with pytest.raises(BadInput, match="max_pixels"):
        Limits(max_pixels=0)
    # One frame, then a very long wait: the grid would be endless.
    slow = tmp_path / "slow.mkv"
    media.write_video(slow, media.steps(4), times=[0, 33, 66, 4_000_000], rate=1000)
    refused(slow, "120,0[0-9]+ frames; at most 100,000", limits=Limits(max_frames=100_000))


def test_a_stream_that_hides_its_size_is_stopped_by_the_decoder(tmp_path):
    """The container says 64x64, the coded pictures are 512x512."""
    path = media.write_video(tmp_path / "a.mkv", media.noise(2, 512, 512), "mjpeg", "yuvj444p")
    data = path.read_bytes()
    wide, high = b"\xb0\x82\x02\x00", b"\xba\x82\x02\x00"  # PixelWidth, PixelHeight = 512
    assert data.count(wide) == data.count(high) == 1
    path.write_bytes(data.replace(wide, b"\xb0\x82\x00\x40").replace(high, b"\xba\x82\x00\x40"))
    refused(path, "cannot be decoded|pixels|no frame", limits=Limits(max_pixels=100_000))


def test_rotation_by_odd_angles(tmp_path):
    path = media.write_video(
        tmp_path / "a.mp4", media.steps(3), matrix=(0.7071, 0.7071, -0.7071, 0.7071)
    )
    refused(path, "rotated by -?45 degrees; multiples of 90")


def test_not_a_file(tmp_path):
    refused(tmp_path / "missing.mp4", "no such file")
    (tmp_path / "folder.mp4").mkdir()
    refused(tmp_path / "folder.mp4", "is not a regular file")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "is not a regular file")


def test_crops_and_sizes_must_fit(tmp_path):
    path = make(tmp_path / "a.mp4")
    for crop in ((0, 0, 65, 10), (-1, 0, 5, 5), (60, 60, 5, 5), (0, 0, 0, 4)):
        with pytest.raises(BadInput, match=r"a.mp4: crop \(.*\); top, left, height, width inside"):
            read_frames(path, 0.0, 1, 24.0, crop=crop)
    with pytest.raises(BadInput, match="a.mp4: resize to"):
        read_frames(path, 0.0, 1, 24.0, resize=(0, 10))
    with pytest.raises(BadInput, match="check='most'"):
        probe(path, check="most")


def test_first_check_decodes_only_one_frame(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4")
    converted = []
    monkeypatch.setattr(
        decode.video._File, "decode",
        lambda self, packet: converted.append(packet) or packet.decode(),
    )  # fmt: skip
    assert probe(path, check="first") == probe(path, check="all")
    first_pass = len(converted) - 21  # "all" sends 20 packets and the flush
    assert 0 < first_pass < 10
