"""A rolling window whose noise rises along time: the nearest new frame is nearly done, the last one
is pure noise, and the window moves on by a frame whenever one is finished.

Every new frame takes the same road of times from 1 to 0, each `delay` steps behind the one before,
so that at any moment a window's worth of frames is under way. Before them stand finished frames,
clean and never touched again. Nothing is made in blocks: no frame sees a seam. Source: rolling
diffusion (arXiv:2402.09470 section 3), with the clean frames before the window and one road for all
frames from the start, as in arXiv:2405.11473.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.patching import patchify, unpatchify
from vidsim.diffusion.guidance import GuidanceConfig
from vidsim.diffusion.times import time_grid
from vidsim.generate.model import Model
from vidsim.generate.noise import shared_noise
from vidsim.generate.pack import Request, build_batch, noise_key
from vidsim.generate.roll import Window, window_seed
from vidsim.generate.sample import Progress, SamplerConfig, check_negative, lay_out
from vidsim.models.latents import denormalise
from vidsim.tasks.base import Batch, Params
from vidsim.tasks.denoising import Denoising
from vidsim.tasks.prompting import Text

# (x f32[f,n,P], times f32[f], clean frames, number of the first new frame, said f32[b,f,n,P])
# -> clean x f32[f,n,P], what is said of it f32[b,f,n,P]
FrameDenoise = Callable[
    [np.ndarray, np.ndarray, int, int, np.ndarray], tuple[np.ndarray, np.ndarray]
]


@dataclasses.dataclass(frozen=True)
class Ramp:
    """The schedule of a rolling window.

    steps    each frame's way from noise to data: `frames` times `delay`
    delay    steps by which a frame is behind the one before it
    frames   new frames in the window
    overlap  finished frames before them, at most
    """

    steps: int
    delay: int
    frames: int
    overlap: int

    @classmethod
    def of(cls, window: Window, steps: int) -> "Ramp":
        """The ramp of a window; steps are rounded up so that all frames are equally far apart."""
        frames = window.latents - window.overlap
        delay = -(-steps // frames)
        return cls(delay * frames, delay, frames, window.overlap)

    def place(self, step: int, frame: np.ndarray) -> np.ndarray:
        """How many steps each new frame (0, 1, ...) has gone when `step` steps are over."""
        return np.clip(step - self.delay * np.asarray(frame), 0, self.steps)

    def finished(self, frames: int) -> int:
        """Steps after which so many new frames are at time 0."""
        return self.steps + self.delay * (frames - 1) if frames else 0


class State(NamedTuple):
    """Between two frames.

    done       new frames that are finished
    x_fnP      normalised patches f32 of the window, finished frames first
    said_bfnP  what a network that reads its own answer said of them, f32; nothing (0) of frames it
               has not seen. b: 1, or 0 for other networks
    """

    done: int
    x_fnP: np.ndarray
    said_bfnP: np.ndarray

    def packed(self) -> np.ndarray:
        """One array f32[1+b,f,n,P] for a file."""
        return np.concatenate([self.x_fnP[None], self.said_bfnP])

    @classmethod
    def unpacked(cls, done: int, array: np.ndarray) -> "State":
        """From `packed`, or the patches alone f32[f,n,P] that files held before."""
        every = array.reshape(-1, *array.shape[-3:])
        return cls(done, every[0], every[1:])


def begin(ramp: Ramp, total: int, noise: Callable[[int], np.ndarray], said: int = 0) -> State:
    """The first window, before any step, with nothing before it and nothing said (b of `State`)."""
    x_fnP = np.stack([noise(j) for j in range(min(ramp.frames, total))])
    return State(0, x_fnP, np.zeros((said, *x_fnP.shape), np.float32))


def roll(
    ramp: Ramp,
    times: np.ndarray,
    denoise: FrameDenoise,
    noise: Callable[[int], np.ndarray],
    total: int,
    state: State,
    report: Callable[[int], None] | None = None,
) -> Iterator[tuple[np.ndarray, State]]:
    """Finishes new frames one by one, from any state.

    times    f32[steps + 1] from 1 to 0, the road of every frame
    noise    f32[n,P] where a frame starts
    total    new frames
    report   called with the steps that are over
    Yields   the finished frame f32[n,P], and the state from which the next one goes on
    """
    while state.done < total:
        first = state.done
        new = np.arange(first, min(first + ramp.frames, total))
        x, said, clean = state.x_fnP, state.said_bfnP, len(state.x_fnP) - len(new)
        for step in range(ramp.finished(first), ramp.finished(first + 1)):
            t, t_next = times[ramp.place(step, new)], times[ramp.place(step + 1, new)]
            times_f = np.concatenate([np.zeros(clean, np.float32), t])
            now, said = denoise(x, times_f, clean, first, said)
            # Euler's step along the straight line; exactly the prediction where t_next is 0
            ratio = (t_next / t)[:, None, None]
            x = np.concatenate([x[:clean], ratio * x[clean:] + (1 - ratio) * now[clean:]])
            if report:
                report(step + 1)
        frame, gone = x[clean], max(0, clean + 1 - ramp.overlap)
        x, said = x[gone:], said[:, gone:]
        if first + ramp.frames < total:
            x = np.concatenate([x, noise(first + ramp.frames)[None]])
            said = np.concatenate([said, np.zeros_like(said[:, :1])], axis=1)
        state = State(first + 1, x, said)
        yield frame, state


def ramp_latents(
    model: Model,
    request: Request,
    total: int,
    window: Window,
    config: SamplerConfig,
    progress: Progress | None = None,
    state: State | None = None,
) -> Iterator[tuple[np.ndarray, State]]:
    """The latent frames of a video from its start, one by one.

    total    latent frames
    state    goes on from here; None: from the start
    Yields   raw latents f32[1,h,w,c], and the state after them
    Raises   BadInput for a solver other than euler and noise other than shared
    """
    check_ramp(config)
    ramp, run = Ramp.of(window, config.steps), _Rows(model, request, window, config)
    times = np.asarray(time_grid(model.task.cfg.times, ramp.steps, jnp.asarray(run.tokens)))
    of = ramp.finished(total)

    def report(done: int) -> None:
        if progress:
            progress("denoise", done, of)

    state = state or begin(ramp, total, run.noise, run.said)
    for frame_nP, after in roll(ramp, times, run.denoise, run.noise, total, state, report):
        raw = np.asarray(denormalise(model.task.cfg.latent, jnp.asarray(frame_nP)))
        yield unpatchify(raw, (1, *run.grid[1:]), run.patch), after


def check_ramp(config: SamplerConfig) -> None:
    """Raises BadInput for settings that a ramp does not have."""
    if config.solver != "euler":
        raise bad("--solver", f"{config.solver} with --ramp", "euler")
    if config.noise != "shared":
        raise bad("--noise", f"{config.noise} with --ramp", "shared")


def ramp_notice() -> str:
    """What the user should know."""
    return ("--ramp: noise that rises along a window is not what training shows (one noise time a "
            "clip, beside clean frames)")  # fmt: skip


class _Rows:
    """The window as a packed row of one clip, whatever part of the video it shows."""

    def __init__(
        self, model: Model, request: Request, window: Window, config: SamplerConfig
    ) -> None:
        self.model, self.request, self.guidance = model, request, config.guidance
        self.patch = model.task.cfg.latent.patch
        check_negative(request.negative, config.guidance)
        self.layout = lay_out(model, [self._asked(window.latents)])
        self.grid = self.layout.grids[0]
        self.tokens, self.window = int(np.prod(self.grid)), window
        self._facts: dict[tuple[int, int], Batch] = {}
        both = (self.layout.prompts, self.layout.negatives)[: 1 + config.guidance.needed]
        self.said = int(model.task.cfg.dit.self_condition)  # b of `State`
        batches = [self._batch(window.latents, text) for text in both]
        texts = [_encode(model.task, model.params, batch) for batch in batches]
        self.text: Text = jax.tree.map(lambda *parts: jnp.concatenate(parts), *texts)

    def noise(self, frame: int) -> np.ndarray:
        """Where a latent frame of the video starts, f32[n,P]; a function of seed and frame."""
        _, h, w = self.grid
        key = noise_key(window_seed(self.request.seed, frame))
        size = 1, h * self.patch[1], w * self.patch[2]
        channels = self.model.patch_width // int(np.prod(self.patch))
        return patchify(shared_noise(key, size, channels), self.patch)

    def denoise(
        self, x_fnP: np.ndarray, t_f: np.ndarray, clean: int, first: int, said_bfnP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network on the window; finished frames are told to be clean and answered as given."""
        frames, n, P = x_fnP.shape
        facts = self._at(frames, first - clean)
        row_RNP = np.zeros((1, self.layout.limits.tokens, P), np.float32)
        row_RNP[0, : frames * n] = x_fnP.reshape(-1, P)
        group_RN = np.zeros(row_RNP.shape[:2], np.int32)
        group_RN[0, : frames * n] = 1 + np.repeat(np.arange(frames), n)
        t_RG = np.ones((1, self.window.latents), np.float32)
        t_RG[0, :frames] = t_f
        given_RN = (group_RN > 0) & (group_RN <= clean)
        said_RNP = None
        if self.said:
            said_RNP = np.zeros_like(row_RNP)
            said_RNP[0, : frames * n] = said_bfnP.reshape(-1, P)
        made = _denoise(self.model.task, self.guidance, self.model.params, facts,
                        self.text, row_RNP, t_RG, given_RN, group_RN, said_RNP)  # fmt: skip
        answer_fnP = np.asarray(made)[0, : frames * n].reshape(frames, n, P)
        made_fnP = np.concatenate([x_fnP[:clean], answer_fnP[clean:]])
        return made_fnP, answer_fnP[None][: self.said]

    def _at(self, frames: int, start: int) -> Batch:
        """The row of a window of so many frames: at the video's start, or mid-stream."""
        place = frames, min(start, 1)
        if place not in self._facts:
            batch = self._batch(frames, self.layout.prompts)
            batch["patch_position"][:, : frames * int(np.prod(self.grid[1:])), 0] += place[1]
            self._facts[place] = {k: jnp.asarray(v) for k, v in batch.items() if k != "patches"}
        return self._facts[place]

    def _batch(self, frames: int, text: list[np.ndarray]) -> dict[str, np.ndarray]:
        grid = frames // self.patch[0], *self.grid[1:]
        return build_batch([self._asked(frames)], [grid], text, [[0]], self.layout.limits, 1,
                           self.model.patch_width)  # fmt: skip

    def _asked(self, latents: int) -> Request:
        frames = 1 + (latents - 1) * self.model.grid.time_stride
        return dataclasses.replace(self.request, num_frames=frames)


@functools.partial(jax.jit, static_argnames=("task", "guidance"))
def _denoise(
    task: Denoising,
    guidance: GuidanceConfig,
    params: Params,
    batch: Batch,
    text: Text,
    x_RNP: jax.Array,
    t_RG: jax.Array,
    given_RN: jax.Array,
    group_RN: jax.Array,
    said_RNP: jax.Array | None,
) -> jax.Array:
    return task.denoise(params, batch, text, guidance, x_RNP, t_RG, given_RN, group_RN, said_RNP)


@functools.partial(jax.jit, static_argnames=("task",))
def _encode(task: Denoising, params: Params, batch: Batch) -> Text:
    return task.encode_text(params, batch, jnp.zeros(batch["clip_key"].shape, bool))
