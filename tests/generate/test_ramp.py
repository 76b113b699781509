"""A window whose noise rises along time: every frame goes the whole road once, alone or resumed."""

import numpy as np
import pytest

from tests.generate.test_extend import SMALL, asked
from tests.generate.tiny_generator import make_model, self_conditioned_model
from vidsim.core.errors import BadInput
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.solvers import integrate, make_solver
from vidsim.generate import long
from vidsim.generate.long import finished, make_windows
from vidsim.generate.ramp import Ramp, State, begin, ramp_latents, roll
from vidsim.generate.roll import Window
from vidsim.generate.sample import SamplerConfig, sample_latents

CONFIG = SamplerConfig("euler", 4, GuidanceConfig(2.0))
MEAN, STD = 0.7, 0.5  # of the Gaussian data below
ROUNDING = 1e-5  # float32, a few dozen operations on numbers near 1


def times_of(ramp):
    return np.linspace(1, 0, ramp.steps + 1).astype(np.float32) ** 1.5


def noise_of(frame):
    return np.random.default_rng(frame).normal(size=(2, 3)).astype(np.float32)


def posterior(x, t):
    """E[x_0 | x_t] for data of N(MEAN, STD^2) on the straight line."""
    gain = (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2)
    return MEAN + gain * (x - (1 - t) * MEAN)


@pytest.mark.parametrize(("steps", "window"), [(8, Window(5, 1)), (7, Window(6, 3)),
                                               (3, Window(4, 0)), (2, Window(7, 2))])  # fmt: skip
@pytest.mark.parametrize("total", [1, 3, 11])
def test_every_frame_goes_the_whole_road_once_and_clean_ones_are_never_touched(
    steps, window, total
):
    ramp = Ramp.of(window, steps)
    assert ramp.steps >= steps and ramp.steps == ramp.delay * (window.latents - window.overlap)
    times, seen, clean_then = times_of(ramp), {j: [] for j in range(total)}, {}

    def denoise(x, t, clean, first, said):
        assert len(x) == len(t) <= window.latents and clean == min(first, window.overlap)
        assert (np.diff(t) >= 0).all(), "later frames are never cleaner"
        assert (t[:clean] == 0).all() and (t[clean:] > 0).all()
        for k in range(clean):
            number = first - clean + k
            np.testing.assert_array_equal(x[k], clean_then[number])
        for k, time in enumerate(t[clean:].tolist()):
            seen[first + k].append(time)
        return np.where((t == 0)[:, None, None], x, posterior(x, t[:, None, None])), said

    state = begin(ramp, total, noise_of)
    for number, (frame, _) in enumerate(roll(ramp, times, denoise, noise_of, total, state)):
        clean_then[number] = frame
    assert list(clean_then) == list(range(total))
    for number, road in seen.items():
        waiting = [t for t in road if t == 1.0]
        # each time of the road once, in order; before that the frame waits as pure noise
        assert road[len(waiting) - 1 :] == times[:-1].tolist(), number


def test_frames_that_do_not_see_each_other_are_what_one_alone_would_be():
    """On a Gaussian of independent frames, against Euler's solver on a single frame."""
    ramp = Ramp.of(Window(5, 2), 9)
    times = times_of(ramp)

    def denoise(x, t, clean, first, said):
        return posterior(x, t[:, None, None]).astype(np.float32), said

    state = begin(ramp, 7, noise_of)
    for number, (frame, _) in enumerate(roll(ramp, times, denoise, noise_of, 7, state)):
        alone = integrate(posterior, noise_of(number), times, make_solver("euler"), lambda t: t)
        np.testing.assert_allclose(frame, alone, atol=ROUNDING)


def test_each_frame_is_told_what_was_said_of_it_and_a_new_one_nothing():
    ramp, told, answers = Ramp.of(Window(5, 2), 6), [], []

    def denoise(x, t, clean, first, said):
        numbers = range(first - clean, first - clean + len(x))
        told.append(dict(zip(numbers, said.swapaxes(0, 1), strict=True)))
        answer = said + 1.0 + np.arange(2)[:, None, None, None]
        answers.append(dict(zip(numbers, answer.swapaxes(0, 1), strict=True)))
        return x, answer

    state = begin(ramp, 7, noise_of, said=2)
    for _, after in roll(ramp, times_of(ramp), denoise, noise_of, 7, state):
        back = State.unpacked(after.done, after.packed())
        np.testing.assert_array_equal(back.said_bfnP, after.said_bfnP)
        np.testing.assert_array_equal(back.x_fnP, after.x_fnP)
    for now, before in zip(told, [{}, *answers], strict=False):
        for number, said in now.items():
            np.testing.assert_array_equal(said, before.get(number, np.zeros_like(said)))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_lone_frame_is_the_samplers_also_for_a_network_that_reads_its_answer(scale):
    model, (request,) = self_conditioned_model(), asked([3], frames=1)
    config = SamplerConfig("euler", 4, GuidanceConfig(scale))
    ((frame, after),) = ramp_latents(model, request, 1, Window(1, 0), config)
    (alone,) = sample_latents(model, [request], config)
    assert after.said_bfnP.shape[:2] == (1, 0)
    np.testing.assert_allclose(frame, alone, atol=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """19 frames as 10 latents, windows of 5 of which one is clean: four under way at once."""
    folder = tmp_path_factory.mktemp("ramp") / "parts"
    (request,) = asked([3], frames=19)
    events = []
    more = {"progress": lambda *event: events.append(event), "ramp": True}
    assert make_windows(make_model(), request, folder, CONFIG, SMALL, **more) == 0
    return request, folder, np.concatenate([np.load(p) for p in finished(folder)]), events


def test_a_long_video_has_its_latents_in_order_and_one_state(whole):
    _, folder, latents, events = whole
    assert latents.shape == (10, 4, 6, 3) and np.isfinite(latents).all()
    assert len({frame.tobytes() for frame in latents}) == 10
    assert [p.name for p in folder.glob("state-*")] == ["state-00009.npy"]
    assert events[-1][1:] == (4 + 9, 4 + 9), "four steps for the first frame, one for each other"


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """The same by a network that reads its own answer."""
    folder = tmp_path_factory.mktemp("reading") / "parts"
    (request,) = asked([3], frames=19)
    make_windows(self_conditioned_model(), request, folder, CONFIG, SMALL, ramp=True)
    return request, folder, np.concatenate([np.load(p) for p in finished(folder)])


@pytest.mark.parametrize(("killed_after", "made", "model"), [
    (1, "whole", make_model), (6, "whole", make_model), (6, "reading", self_conditioned_model),
])  # fmt: skip
def test_a_kill_resumes_bit_for_bit(request, tmp_path, monkeypatch, killed_after, made, model):
    clip, _, latents, *_ = request.getfixturevalue(made)
    plain, model = long.ramp_latents, model()

    def stopped(*args):
        for number, made in enumerate(plain(*args)):
            if number == killed_after:
                raise KeyboardInterrupt
            yield made

    folder = tmp_path / "p"
    monkeypatch.setattr(long, "ramp_latents", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_windows(model, clip, folder, CONFIG, SMALL, ramp=True)
    monkeypatch.setattr(long, "ramp_latents", plain)
    assert make_windows(model, clip, folder, CONFIG, SMALL, ramp=True) == killed_after
    again = np.concatenate([np.load(path) for path in finished(folder)])
    np.testing.assert_array_equal(again, latents)


def test_what_a_ramp_does_not_have_is_refused(whole, tmp_path):
    request, folder, _, _ = whole
    model = make_model()
    token = SamplerConfig("euler", 4, noise="token")
    for config, says in ((SamplerConfig("heun", 4), "heun with --ramp; euler"),
                         (token, "token with --ramp")):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            make_windows(model, request, tmp_path / "p", config, SMALL, ramp=True)
    assert not (tmp_path / "p").exists()
    with pytest.raises(BadInput, match="another video"):
        make_windows(model, request, folder, CONFIG, SMALL)
