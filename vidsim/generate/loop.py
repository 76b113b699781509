"""Seamless loops: from a clip that returns to its own start, and from a prompt alone.

A loop from a prompt has no first frame. Its latents are all mid-stream, and time is a circle: each
time the network looks at them, they begin one latent frame later, so that wherever it sees a seam
once, it next sees both sides beside each other (arXiv:2502.20307). What they show is held by a
reference, a picture made of the same prompt, where the model was trained with references.
Pixels come from a decoder whose memory holds the end of the loop when it reaches the beginning: the
loop is decoded over and over until one more period changes nothing.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.conditions import Condition, given_frames
from vidsim.generate.join import transition
from vidsim.generate.made import Made, assemble, require_training
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import WindowConfig, numbered, trained_reference
from vidsim.generate.sample import Progress, SamplerConfig, decode, lay_out, sample_latents
from vidsim.models.codec import to_uint8
from vidsim.models.vae_stream import decode_stream

MAX_PERIODS = 12  # of a loop that pass the decoder at most before its pixels are taken
SETTLED = 1  # 8-bit steps by which one more period may still change a pixel: rounding


@dataclasses.dataclass(frozen=True)
class Seam:
    """How a clip closes when it is repeated. Mean absolute differences of 8-bit values.

    wrap    last frame to first frame
    median  median over the other pairs of neighbouring frames
    motion  their mean: a frozen clip has perfect seams and none of this
    """

    wrap: float
    median: float
    motion: float

    @property
    def ratio(self) -> float:
        """The seam in units of the median change; 1 cannot be told from any other step."""
        return self.wrap / self.median if self.median > 0 else float("inf" if self.wrap else "nan")

    def line(self, name: str) -> str:
        """For people."""
        return (f"{name}: seam {self.wrap:.2f} at the wrap, median frame change "
                f"{self.median:.2f} (ratio {self.ratio:.2f}), "
                f"motion {self.motion:.2f}")  # fmt: skip


def seam(video_THWC: np.ndarray) -> Seam:
    """Measures the seam of a repeated clip, uint8 [T,H,W,3], T >= 3. Raises BadInput."""
    if len(video_THWC) < 3:
        raise bad("seam", f"{len(video_THWC)} frames", "at least 3")
    video = video_THWC.astype(np.float32)
    steps = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
    wrap = float(np.abs(video[0] - video[-1]).mean())
    return Seam(wrap, float(np.median(steps)), float(steps.mean()))


def loop_clip(
    model: Model,
    video_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """The clip, then `frames` new frames that lead back to its first one.

    frames  a multiple of the VAE's time stride
    """
    require_training(model, "join")
    middles = transition(model, video_THWC, video_THWC, requests, frames, config, window, progress)
    made = []
    for request, middle in zip(requests, middles, strict=True):
        whole, given = assemble([(video_THWC, True), (middle, False)])
        made.append(Made(whole, request.fps, request, given, (seam(whole).line("loop"),)))
    return made


def loop_prompt(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Loops from prompts alone. Their pixels wrap: frame 0 follows the last one as any other.

    requests  num_frames is the period: a multiple of the VAE's time stride, at least two of it
    """
    latents = loop_latents(model, requests, config, progress)
    made = []
    for number, (request, latent) in enumerate(zip(requests, latents, strict=True)):
        video, periods, change = decode_circular(model, latent)
        lines = [seam(video).line("loop")]
        if not trained_reference(model):
            lines.append("without a picture to refer to: the model was not trained with references "
                         "(denoising.masks.reference)")  # fmt: skip
        if change > SETTLED:
            lines.append(f"the decoder had not settled after {periods} periods: one more still "
                         f"changes a pixel by {change} of 255")  # fmt: skip
        made.append(Made(video, request.fps, request, (), tuple(lines)))
        if progress:
            progress("decode", number + 1, len(latents))
    return made


def decode_circular(model: Model, latent_thwc: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Pixels of one period of latents on a circle: uint8 [t * time_stride,H,W,3].

    Returns  the pixels, the periods that were decoded, and the largest 8-bit change of a pixel from
             the last but one to the last of them
    """
    t, stride = latent_thwc.shape[0], model.grid.time_stride
    again = itertools.repeat(latent_thwc[None], MAX_PERIODS)
    pieces = decode_stream(model.vae.vae, model.vae.params, again, latent_frames=min(t, 4))
    frames: list[np.ndarray] = []
    before, periods, change = None, 0, 255
    for piece in pieces:
        frames += list(to_uint8(np.asarray(piece.video_BTHWC[0])))
        # The first latent of all gives one frame, so that the first period is short.
        length = t * stride if periods else 1 + (t - 1) * stride
        while len(frames) >= length:
            period, frames = np.stack(frames[:length]), frames[length:]
            periods += 1
            if before is not None and before.shape == period.shape:
                change = int(np.abs(period.astype(np.int16) - before).max())
                if change <= SETTLED:
                    return period, periods, change
            before, length = period, t * stride
    assert before is not None
    return before, periods, change


def naive_loop(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """The same requests as ordinary clips that are merely repeated: an image latent at the seam.

    Each has one frame more than the time stride allows a loop of its period, which is cut.
    """
    stride = model.grid.time_stride
    whole = [dataclasses.replace(r, num_frames=1 + _period(r, stride) * stride) for r in requests]
    latents = sample_latents(model, whole, config, progress)
    videos = decode(model, latents, config, progress)
    made = []
    for request, video in zip(requests, videos, strict=True):
        clip = video[: request.num_frames]
        made.append(Made(clip, request.fps, request, (), (seam(clip).line("naive"),)))
    return made


def loop_latents(
    model: Model,
    requests: Sequence[Request],
    config: SamplerConfig,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Latents f32[t,h,w,c] of one period of each loop; none of them stands for a lone frame."""
    patch, channels = model.task.cfg.latent.patch, model.vae.vae.cfg.latent_channels
    stride, shown = model.grid.time_stride, trained_reference(model)
    # A request's clip has a first frame of its own; only its latent grid is read here.
    asked = [
        dataclasses.replace(r, num_frames=1 + (_period(r, stride) + shown - 1) * stride)
        for r in requests
    ]
    lay_out(model, asked, config.long_rows)
    windows, firsts = 2 if shown else 1, [np.zeros((0, 1, 1, channels), np.float32)] * len(asked)
    if shown:
        pictures = [dataclasses.replace(request, num_frames=1) for request in requests]
        firsts = sample_latents(model, pictures, config, numbered(progress, 0, windows))
    conditions = []
    for clip, first in zip(asked, firsts, strict=True):
        t, h, w = (n * q for n, q in zip(model.grid.grid(clip), patch, strict=True))
        latent = np.zeros((t, h, w, channels), np.float32)
        latent[:shown] = first
        given = given_frames(latent, shown, 0, patch)
        conditions.append(
            Condition(latent, given, 0 if shown else 1, reference=shown > 0, circle=True)
        )
    made = sample_latents(
        model, asked, config, numbered(progress, windows - 1, windows), conditions
    )
    return [latent[shown:] for latent in made]


def _period(request: Request, stride: int) -> int:
    """Latent frames of a loop. Raises BadInput off the grid, naming the nearest period."""
    T = request.num_frames
    if T < 2 * stride or T % stride:
        near = max(2, round(T / stride)) * stride
        raise bad("--frames", f"{T} of a loop", f"a multiple of {stride}, at least {2 * stride}",
                  f"nearest {near}")  # fmt: skip
    return T // stride
