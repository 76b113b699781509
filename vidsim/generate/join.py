"""Join two clips by a transition, and blend two prompts or two clips gradually along time."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.conditions import blend_pair, given_frames
from vidsim.generate.extend import head_latents, tail_latents
from vidsim.generate.made import Made, assemble, require_training
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import Window, WindowConfig, fill, plan_window
from vidsim.generate.sample import Progress, SamplerConfig, decode, sample_latents
from vidsim.models.codec import encode_clips


def join(
    model: Model,
    first_THWC: np.ndarray,
    second_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    towards: str | None = None,
) -> list[Made]:
    """The first clip, a transition, the second clip; the two need share nothing but their size.

    first_THWC, second_THWC  uint8, sides on the model's grid
    requests                 one a video: prompt (of the transition), seed, rate, size
    frames                   of the transition: a multiple of the VAE's time stride
    towards                  prompt into which the requests' is blended along the transition, for
                             clips that share nothing; None: theirs throughout
    Raises                   BadInput for clips of different sizes or a transition off the grid
    """
    _check_sizes(first_THWC, second_THWC)
    require_training(model, "join")
    spans = transition(
        model, first_THWC, second_THWC, requests, frames, config, window, progress, towards
    )
    made = []
    for request, middle in zip(requests, spans, strict=True):
        parts = [(first_THWC, True), (middle, False), (second_THWC, True)]
        whole, given = assemble(parts)
        made.append(Made(whole, request.fps, request, given))
    return made


def transition(
    model: Model,
    first_THWC: np.ndarray,
    second_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    config: SamplerConfig,
    window: WindowConfig,
    progress: Progress | None,
    towards: str | None = None,
) -> list[np.ndarray]:
    """The frames between two clips, uint8 [frames,H,W,3] for each request."""
    plan = plan_window(model, first_THWC.shape[1], first_THWC.shape[2], window)
    new = transition_latents(frames, plan, model.grid.time_stride)
    room = plan.latents - new
    tail = tail_latents(model, second_THWC, room // 2)
    head, used = head_latents(model, first_THWC, room - tail.shape[0])
    count = len(requests)
    made = fill(model, requests, [head] * count, [tail] * count, new, config, progress, towards)
    videos = decode(model, [np.concatenate([head, one]) for one in made], config, progress)
    return [video[used:] for video in videos]


def transition_latents(frames: int, window: Window, stride: int) -> int:
    """Latent frames of a transition. Raises BadInput off the grid or beyond the window."""
    most = (window.latents - 2) * stride
    if most < stride:
        raise bad("--window", f"{window.latents} latent frames", "at least 3: one of each clip and "
                  "one between", "ask for a smaller size")  # fmt: skip
    if frames < 1 or frames % stride:
        near = min(most, max(stride, round(frames / stride) * stride))
        raise bad("--frames", f"{frames} between two clips", f"a multiple of {stride}",
                  f"nearest {near}")  # fmt: skip
    if frames > most:
        raise bad("--frames", f"{frames} between two clips", f"at most {most} in a window",
                  "extend the first clip, then join")  # fmt: skip
    return frames // stride


def blend_prompts(
    model: Model,
    requests: Sequence[Request],
    prompt: str,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Clips that move from each request's prompt to a second one along time.

    Every latent frame is denoised under both prompts; the share of the second one's prediction
    rises from 0 in the first frame to 1 in the last.
    """
    latents = _blended(model, requests, prompt, None, 1.0, config, progress)
    videos = decode(model, latents, config, progress)
    return [Made(v, r.fps, r) for v, r in zip(videos, requests, strict=True)]


def blend_clips(
    model: Model,
    first_THWC: np.ndarray,
    second_THWC: np.ndarray,
    requests: Sequence[Request],
    prompt: str,
    strength: float = 0.6,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Clips that look like the first one at their start and like the second at their end.

    The latents of the two, cross-faded along time, are noised to `strength` and denoised under
    both prompts, shared out along time like the latents.

    requests  one a video: prompt of the first clip, seed, rate, size; num_frames is of the blend
    prompt    of the second clip
    Raises    BadInput for clips of different sizes or shorter than the blend
    """
    _check_sizes(first_THWC, second_THWC)
    if not 0.0 < strength <= 1.0:
        raise bad("--strength", f"{strength}", "above 0 and at most 1")
    T = requests[0].num_frames
    for name, video in (("first", first_THWC), ("second", second_THWC)):
        if len(video) < T:
            raise bad("blend", f"the {name} clip has {len(video)} frames", f"at least {T}",
                      "give fewer --frames")  # fmt: skip
    model.grid.grid(requests[0])
    pair = encode_clips(
        model.vae.vae, model.vae.params, [first_THWC[:T], second_THWC[len(second_THWC) - T :]]
    )
    share = _ramp(pair[0].shape[0])[:, None, None, None]
    base = (1 - share) * pair[0] + share * pair[1]
    latents = _blended(model, requests, prompt, base, strength, config, progress)
    videos = decode(model, latents, config, progress)
    return [Made(v, r.fps, r) for v, r in zip(videos, requests, strict=True)]


def _blended(
    model: Model,
    requests: Sequence[Request],
    prompt: str,
    base: np.ndarray | None,
    start: float,
    config: SamplerConfig,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Latents of one blend for each request, denoised as pairs of equal clips side by side."""
    patch, channels = model.task.cfg.latent.patch, model.vae.vae.cfg.latent_channels
    made = []
    for request in requests:
        t, h, w = (n * p for n, p in zip(model.grid.grid(request), patch, strict=True))
        latent = np.zeros((t, h, w, channels), np.float32) if base is None else base
        if t < 2:
            raise bad("--frames", f"{request.num_frames}", "a video: a blend moves along time")
        nothing, share = given_frames(latent, 0, 0, patch), _ramp(t)
        pair = [request, dataclasses.replace(request, prompt=prompt)]
        conditions = blend_pair(latent, nothing, share, start)
        both = dataclasses.replace(config, max_rows=max(2, config.rows_at_once))
        made.append(sample_latents(model, pair, both, progress, conditions)[0])
    return made


def _ramp(t: int) -> np.ndarray:
    """From 0 to 1 over t latent frames."""
    return np.linspace(0.0, 1.0, t, dtype=np.float32)


def _check_sizes(first_THWC: np.ndarray, second_THWC: np.ndarray) -> None:
    (h, w), (h2, w2) = first_THWC.shape[1:3], second_THWC.shape[1:3]
    if (h, w) != (h2, w2):
        raise bad("join", f"clips of {w}x{h} and {w2}x{h2}", "one size",
                  f"--size {w}x{h} aligns both")  # fmt: skip
