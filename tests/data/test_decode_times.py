"""Which frame is shown when: constant and variable rates, cuts, strides, entering in the middle."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.data import clock
from vidsim.data.decode import probe, read_frames

# Uneven presentation times, milliseconds: a phone that skips, stalls and hurries.
UNEVEN_MS = [0, 33, 66, 100, 133, 233, 266, 300, 500, 533, 560, 600, 633, 700, 733, 766]


def greys(video_THWC):
    """The mean level of each frame; frames of `media.steps` differ by 14 or more."""
    return video_THWC.reshape(len(video_THWC), -1).mean(1)


def numbers(video_THWC, source_THWC):
    """Which frame of the source each frame is."""
    distance = np.abs(greys(video_THWC)[:, None] - greys(source_THWC)[None])
    assert distance.min(1).max() < 3
    return distance.argmin(1)


def ffmpeg_fps_filter(path, fps):
    """The frames that libavfilter's `fps` filter puts out (round=near, the default)."""
    out = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        chain = graph.add_buffer(template=stream), graph.add("fps", f"fps={fps}:round=near")
        sink = graph.add("buffersink")
        chain[0].link_to(chain[1])
        chain[1].link_to(sink)
        graph.configure()
        for frame in container.decode(stream):
            graph.push(frame)
        graph.push(None)
        while True:
            try:
                out.append(graph.pull().to_ndarray(format="rgb24"))
            except (av.error.EOFError, av.error.BlockingIOError):
                return np.stack(out)


@pytest.mark.parametrize("fps", [30, 24, 12, 7.5, 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_rate_agrees_with_ffmpegs_own_resampling(tmp_path, name, fps):
    source = media.steps(len(UNEVEN_MS))
    path = media.write_video(tmp_path / name, source, times=UNEVEN_MS, rate=1000)
    held = probe(path, fps=fps)
    assert held.extra["variable_rate"] and held.fps == fps
    theirs = ffmpeg_fps_filter(path, fps)
    assert abs(held.num_frames - len(theirs)) <= 1  # what the end of the last frame rounds to
    count = min(held.num_frames, len(theirs))
    video = read_frames(path, 0.0, count, fps)
    np.testing.assert_array_equal(numbers(video, source), numbers(theirs[:count], source))


def test_variable_rate_by_definition(tmp_path):
    source = media.steps(len(UNEVEN_MS))
    path = media.write_video(tmp_path / "a.mkv", source, times=UNEVEN_MS, rate=1000)
    held = probe(path)
    assert held.fps == 30.0  # the usual rate next to one over the median step of 33 ms
    video = read_frames(path, 0.0, held.num_frames, held.fps)
    # Slot k shows the last frame that began before its middle, (k + 1/2) / 30 s.
    ends = (np.arange(held.num_frames) + 0.5) / 30
    expected = [np.flatnonzero(np.array(UNEVEN_MS) / 1000 < end)[-1] for end in ends]
    np.testing.assert_array_equal(numbers(video, source), expected)


@pytest.mark.parametrize("rate", [24, 25, 30, 60, 8])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.gif", "a.mov"])
def test_constant_rate_gives_every_frame_once(tmp_path, name, rate):
    codec = {".gif": ("gif", "rgb8", {}), ".webm": ("libvpx-vp9", "yuv444p", {"crf": "20"})}
    kind = codec.get(name[1:], ("libx264", "yuv444p", None))
    source = media.steps(14)
    path = media.write_video(tmp_path / name, source, *kind[:2], rate=rate, options=kind[2])
    held = probe(path)
    if not (name == "a.gif" and rate in (24, 30, 60)):  # GIF counts in hundredths of a second
        assert held.fps == pytest.approx(rate)
        assert "variable_rate" not in held.extra
    assert held.num_frames == 14
    video = read_frames(path, 0.0, 14, held.fps)
    levels = greys(video)
    assert (np.diff(levels) > 5).all()  # each of the 14 levels, once, in order


def test_ntsc_rate_is_kept(tmp_path):
    path = media.write_video(tmp_path / "a.mkv", media.steps(40), rate=Fraction(30000, 1001))
    held = probe(path)
    assert held.fps == pytest.approx(30000 / 1001, rel=1e-9)
    assert held.num_frames == 40


GROUPS = {
    "closed": {"crf": "0", "preset": "fast", "x264-params": "keyint=12:min-keyint=12:bframes=3"},
    "open": {
        "crf": "0", "preset": "fast",
        "x264-params": "keyint=12:min-keyint=12:bframes=3:open-gop=1:scenecut=0",
    },
    "one": {"crf": "0", "preset": "fast", "x264-params": "keyint=999:scenecut=0:bframes=2"},
    "refresh": {"crf": "0", "preset": "fast", "x264-params": "intra-refresh=1:keyint=12"},
}  # fmt: skip


@pytest.mark.parametrize("groups", sorted(GROUPS))
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_entering_in_the_middle_gives_the_frames_of_reading_through(tmp_path, name, groups):
    source = media.motion(50, 48, 64)
    path = media.write_video(tmp_path / name, source, options=GROUPS[groups])
    through = read_frames(path, 0.0, 50, 24.0)
    assert media.psnr(through, source) > 40
    for first in (0, 1, 11, 12, 13, 23, 24, 35, 49):
        np.testing.assert_array_equal(
            read_frames(path, 0.0, 1, 24.0, first=first)[0], through[first]
        )
    strided = read_frames(path, 0.0, 8, 24.0, first=10, stride=5)
    np.testing.assert_array_equal(strided, through[10:50:5])
    # A clip that starts at 0.5 s begins with frame 12.
    np.testing.assert_array_equal(read_frames(path, 0.5, 20, 24.0, first=3), through[15:35])


@pytest.mark.parametrize("name", ["a.webm", "b.webm", "a.gif", "c.mkv"])
def test_entering_other_codecs(tmp_path, name):
    codec, pixels, options = {
        "a": ("libvpx-vp9", "yuv420p", {"g": "10", "deadline": "realtime"}),
        "b": ("libsvtav1", "yuv420p", {"g": "10", "preset": "12"}),
        "c": ("libx265", "yuv420p", {"x265-params": "keyint=10:open-gop=1:log-level=0"}),
    }.get(name[0] if not name.endswith("gif") else "", ("gif", "rgb8", {}))
    path = media.write_video(
        tmp_path / name, media.motion(40, 64, 64), codec, pixels, options=options, rate=25
    )
    held = probe(path)
    through = read_frames(path, 0.0, held.num_frames, held.fps)
    for first in (0, 9, 10, 11, 20, 29, 39):
        one = read_frames(path, 0.0, 1, held.fps, first=first)[0]
        np.testing.assert_array_equal(one, through[first])


def test_edit_list_that_hides_the_head(tmp_path):
    """A file cut without re-encoding starts at its edit list, not at its first packet."""
    whole = media.write_video(tmp_path / "whole.mp4", media.steps(30), options=GROUPS["closed"])
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None:
                continue
            shift = int(5 / 24 / stream.time_base)  # frames 0 to 4 end up before time 0
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            out.mux(packet)
    with av.open(str(cut)) as container:
        shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    held = probe(cut)
    assert held.num_frames == len(shown)
    np.testing.assert_array_equal(read_frames(cut, 0.0, len(shown), held.fps), np.stack(shown))
    one = read_frames(cut, 0.0, 1, held.fps, first=len(shown) - 1)
    np.testing.assert_array_equal(one[0], shown[-1])


def test_another_rate_is_a_grid_over_the_same_seconds(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", media.steps(24))
    for fps, count in ((12, 12), (24, 24), (48, 48), (10, 10)):
        held = probe(path, fps=fps)
        assert (held.num_frames, held.duration_s) == (count, pytest.approx(1.0))
        assert len(read_frames(path, 0.0, count, fps)) == count
    twice = read_frames(path, 0.0, 48, 48)
    np.testing.assert_array_equal(twice[0::2], twice[1::2])


def test_reading_past_the_end_is_refused(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", media.steps(10))
    with pytest.raises(BadInput, match="a.mp4: ends before frame 10 of its clip"):
        read_frames(path, 0.0, 11, 24.0)
    with pytest.raises(BadInput, match="ends before frame 3"):
        read_frames(path, 9 / 24, 4, 24.0, first=3)
    for wrong in ({"count": 0}, {"fps": 0.0}, {"start_s": -1.0}):
        arguments = {"start_s": 0.0, "count": 1, "fps": 24.0} | wrong
        with pytest.raises(BadInput, match="a.mp4"):
            read_frames(path, **arguments)


def test_pick_holds_repeats_and_stops():
    frames = [(0.0, 0.1, "a"), (0.1, 0.5, "b"), (0.6, 0.1, "c")]
    shown = list(clock.pick(frames, range(0, 9), 10.0))
    assert "".join(name for _, name in shown) == "abbbbbc"  # slots 7 and 8 lie after the end
    assert [name for _, name in clock.pick(frames, [2, 5, 6], 10.0)] == ["b", "b", "c"]
    late = [(0.3, 0.1, "a"), (0.4, 0.1, "b")]
    assert "".join(name for _, name in clock.pick(late, range(5), 10.0)) == "aaaab"
