"""Long videos: killed and resumed equals undisturbed; streamed equals whole."""

import av
import numpy as np
import pytest

from tests.generate.test_extend import CONFIG, SMALL, asked
from tests.generate.test_media import noise
from tests.generate.tiny_generator import make_model, referring_model
from tests.generate.tiny_generator import make_model as plain_model
from vidsim.core.errors import BadInput
from vidsim.generate import long
from vidsim.generate.long import finished, make_windows, one_clip, stream_frames
from vidsim.generate.roll import Window, roll_forward
from vidsim.generate.write import write_media
from vidsim.generate.write_stream import check_stream, write_stream
from vidsim.models.codec import decode_clips


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """29 frames as 15 latents in windows of 5 that overlap by one."""
    return made_in(tmp_path_factory.mktemp("long") / "parts", make_model())


@pytest.fixture(scope="module")
def referring(tmp_path_factory):
    """The same where each window but the first also holds the video's first latent."""
    return made_in(tmp_path_factory.mktemp("referring") / "parts", referring_model())


def made_in(folder, model):
    (request,) = asked([3], frames=29)
    assert make_windows(model, request, folder, CONFIG, SMALL) == 0
    return request, folder, [np.load(path) for path in finished(folder)]


def test_windows_make_up_the_video(whole):
    request, folder, windows = whole
    assert [len(w) for w in windows] == [5, 4, 4, 2]
    (pixels,) = decode_clips(make_model().vae.vae, make_model().vae.params,
                             [np.concatenate(windows)])  # fmt: skip
    streamed = np.stack(list(stream_frames(make_model(), folder, 29)))
    # Chunks of another length sum in another order: a value on the edge may round the other way.
    assert np.abs(streamed.astype(int) - pixels).max() <= 1
    assert len(list(stream_frames(make_model(), folder, 20))) == 20
    with pytest.raises(BadInput, match="make the windows first"):
        list(stream_frames(make_model(), folder, 31))


def test_later_windows_see_the_first_frame_and_have_room_for_one_less(referring, whole, tmp_path):
    request, _, windows = referring
    assert [len(w) for w in windows] == [5, 3, 3, 3, 1]
    np.testing.assert_array_equal(windows[0], whole[2][0])
    model, known = referring_model(), [windows[0][-1:]]
    made = []
    for first in (windows[0][:1], windows[0][:1] + 1.0):
        made.append(next(roll_forward(
            model, [request], known, 3, Window(5, 1), CONFIG, number=1, whole=False,
            references=[first],
        ))[0])  # fmt: skip
    np.testing.assert_array_equal(made[0], windows[1])
    assert np.abs(made[1] - made[0]).max() > 1e-3, "what the first frame shows is seen"


@pytest.mark.parametrize(("made", "killed_after"), [("whole", 1), ("whole", 3), ("referring", 2)])
def test_a_kill_resumes_from_the_last_finished_window(
    made, tmp_path, monkeypatch, killed_after, request
):
    make_model = {"whole": plain_model, "referring": referring_model}[made]
    request, _, windows = request.getfixturevalue(made)
    calls = []
    plain = long.roll_forward

    def counted(*args, **more):
        for fresh in plain(*args, **more):
            calls.append(len(fresh[0]))
            if len(calls) > killed_after:
                raise KeyboardInterrupt  # after the window was made, before it is on disk
            yield fresh

    monkeypatch.setattr(long, "roll_forward", counted)
    with pytest.raises(KeyboardInterrupt):
        make_windows(make_model(), request, tmp_path / "p", CONFIG, SMALL)
    assert len(finished(tmp_path / "p")) == killed_after
    monkeypatch.setattr(long, "roll_forward", plain)
    assert make_windows(make_model(), request, tmp_path / "p", CONFIG, SMALL) == killed_after
    again = [np.load(path) for path in finished(tmp_path / "p")]
    for a, b in zip(again, windows, strict=True):
        np.testing.assert_array_equal(a, b)
    assert make_windows(make_model(), request, tmp_path / "p", CONFIG, SMALL) == len(windows)


def test_windows_of_another_video_are_never_mixed(whole, tmp_path):
    _, folder, _ = whole
    (other,) = asked([4], frames=29)
    with pytest.raises(BadInput, match="request, seed 3; 4; remove the folder"):
        make_windows(make_model(), other, folder, CONFIG, SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds other files"):
        make_windows(make_model(), other, tmp_path, CONFIG, SMALL)


def test_one_clip_may_be_longer_than_the_rows_of_training():
    (request,) = asked([1], frames=41)
    assert 21 * 6 > make_model().limits.tokens
    assert one_clip(make_model(), request, CONFIG).video_THWC.shape == (41, 16, 24, 3)


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_streamed_file_is_the_file_written_at_once(tmp_path, ending):
    video = noise(9, 16, 24)
    facts = {"seed": 1}
    stream = write_stream(tmp_path / f"a{ending}", iter(video), 16, 24, 8, facts)
    write_media(tmp_path / f"b{ending}", video, 8, facts)
    assert stream.num_frames == 9
    frames = []
    for name in "ab":
        with av.open(str(tmp_path / f"{name}{ending}")) as container:
            found = {k.lower(): v for k, v in container.metadata.items()}
            frames.append((found["comment"], np.stack([
                f.to_ndarray(format="rgb24") for f in container.decode(video=0)])))  # fmt: skip
    assert frames[0][0] == frames[1][0] and np.array_equal(frames[0][1], frames[1][1])


def test_nothing_is_left_of_a_stream_that_breaks(tmp_path):
    def broken():
        yield noise(1, 16, 24)[0]
        raise RuntimeError("decoder")

    with pytest.raises(RuntimeError):
        write_stream(tmp_path / "a.mp4", broken(), 16, 24, 8)
    assert list(tmp_path.iterdir()) == []
    for name, size, says in [("a.gif", (16, 24), "for a long video"), ("a.mp4", (15, 24), "even")]:
        with pytest.raises(BadInput, match=says):
            check_stream(tmp_path / name, *size, 8)
