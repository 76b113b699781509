"""Animate an image, extend a video forward or backward by any number of frames.

Given frames are encoded once, alone, and come back bit for bit: new frames are decoded from latents
that continue the given ones, and only the new ones are taken from the decoder.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.made import (
    Made,
    assemble,
    check_frames,
    midstream_notice,
    require_training,
)
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import (
    Window,
    WindowConfig,
    plan_window,
    roll_backward,
    roll_forward,
)
from vidsim.generate.sample import Progress, SamplerConfig, decode
from vidsim.models.codec import encode_clips, encode_midstream

DIRECTIONS = ("forward", "backward")


def animate(
    model: Model,
    image_HWC: np.ndarray,
    requests: Sequence[Request],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Videos that begin with an image.

    image_HWC  uint8, sides on the model's grid; it becomes the first frame, exactly
    requests   one a video: prompt, seed, rate, size of the image; num_frames counts the image
    Raises     BadInput when the model was not trained to, or a size is off the grid
    """
    require_training(model, "animate")
    _check(model, image_HWC[None], requests)
    frames = requests[0].num_frames
    if any(request.num_frames != frames for request in requests):
        raise bad("animate", "requests of different durations", "one duration")
    model.grid.grid(requests[0])
    if frames == 1:
        return [Made(image_HWC[None].copy(), r.fps, r, ((0, 1),)) for r in requests]
    return _forward(model, image_HWC[None], requests, frames - 1, config, window, progress)


def extend(
    model: Model,
    video_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    direction: str = "forward",
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Videos that continue a given one, or lead up to it.

    video_THWC  uint8, sides on the model's grid
    requests    one a video: prompt, seed, rate, size of the video
    frames      new frames, any number of at least 1
    direction   "forward" or "backward"
    Returns     given and new frames in order of time
    """
    check_extension(frames, direction)
    require_training(model, f"extend {direction}")
    _check(model, video_THWC, requests)
    way: Callable[..., list[Made]] = _forward if direction == "forward" else _backward
    return way(model, video_THWC, requests, frames, config, window, progress)


def check_extension(frames: int, direction: str) -> None:
    """Raises BadInput for an unknown direction or no new frame."""
    if direction not in DIRECTIONS:
        raise bad("--direction", repr(direction), " or ".join(DIRECTIONS))
    check_frames(frames)


def head_latents(model: Model, video_THWC: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Latents of a video's last frames as a clip of their own, and how many frames these are.

    most  latent frames, at least 1
    """
    stride = model.grid.time_stride
    groups = min((len(video_THWC) - 1) // stride, most - 1)
    frames = 1 + groups * stride
    (latent,) = encode_clips(model.vae.vae, model.vae.params, [video_THWC[-frames:]])
    return latent, frames


def tail_latents(model: Model, video_THWC: np.ndarray, most: int) -> np.ndarray:
    """Mid-stream latents of a video's first frames, at most `most` of them.

    Frames too few for one latent are filled up with the last one, which lies after all of them.
    """
    stride = model.grid.time_stride
    groups = max(1, min(len(video_THWC) // stride, most))
    frames = video_THWC[: groups * stride]
    missing = groups * stride - len(frames)
    if missing:
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, 0)])
    return encode_midstream(model.vae.vae, model.vae.params, [frames])[0]


def _forward(
    model: Model,
    video_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    config: SamplerConfig,
    window: WindowConfig,
    progress: Progress | None,
) -> list[Made]:
    plan = plan_window(model, video_THWC.shape[1], video_THWC.shape[2], window)
    new = -(-frames // model.grid.time_stride)
    latent, used = head_latents(model, video_THWC, _context(plan, new))
    parts = [[latent] for _ in requests]
    known = [latent] * len(requests)
    for fresh in roll_forward(model, requests, known, new, plan, config, progress):
        for part, one in zip(parts, fresh, strict=True):
            part.append(one)
    videos = decode(model, [np.concatenate(part) for part in parts], config, progress)
    notices = _notices(model, latent.shape[0] + new > plan.latents)
    made = []
    for request, video in zip(requests, videos, strict=True):
        whole, given = assemble([(video_THWC, True), (video[used:][:frames], False)])
        made.append(Made(whole, request.fps, request, given, notices))
    return made


def _backward(
    model: Model,
    video_THWC: np.ndarray,
    requests: Sequence[Request],
    frames: int,
    config: SamplerConfig,
    window: WindowConfig,
    progress: Progress | None,
) -> list[Made]:
    plan = plan_window(model, video_THWC.shape[1], video_THWC.shape[2], window)
    stride = model.grid.time_stride
    new = 1 + -(-(frames - 1) // stride)
    tail = tail_latents(model, video_THWC, _context(plan, new))
    latents = roll_backward(model, requests, [tail] * len(requests), new, plan, config, progress)
    videos = decode(model, latents, config, progress)
    notices = _notices(model, tail.shape[0] + new > plan.latents)
    made = []
    for request, video in zip(requests, videos, strict=True):
        whole, given = assemble([(video[-frames:], False), (video_THWC, True)])
        made.append(Made(whole, request.fps, request, given, notices))
    return made


def _context(plan: Window, new: int) -> int:
    """Latents of given frames that a window takes: as many as leave room, at least the overlap."""
    return max(plan.overlap, plan.latents - new)


def _notices(model: Model, rolls: bool) -> tuple[str, ...]:
    line = midstream_notice(model) if rolls else ""
    return (line,) if line else ()


def _check(model: Model, video_THWC: np.ndarray, requests: Sequence[Request]) -> None:
    if not requests:
        raise bad("extend", "no requests", "at least one")
    for request in requests:
        if (request.height, request.width) != video_THWC.shape[1:3]:
            T, H, W, _ = video_THWC.shape
            raise bad("extend", f"given frames of {W}x{H} for a request of "
                      f"{request.width}x{request.height}", "one size", "align them")  # fmt: skip
