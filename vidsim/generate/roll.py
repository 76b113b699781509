"""Longer than one window: clean latents from the window before, new ones beside them.

A window is one clip of the denoiser. Its first latents (forward) or last ones (backward) are those
that the window before made, at noise level 0; the others start from noise. Latents are never
decoded and encoded again on the way. A window that does not reach the start of the video begins
mid-stream: its first position in time is 1, there is no latent of a lone first frame. What drifts
from window to window is held by a reference: a model that was trained with them
(`MaskConfig.reference`) is shown the video's first frame in every later window that has room.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.generate.conditions import Condition, blend_pair, given_frames
from vidsim.generate.model import Model
from vidsim.generate.pack import MAX_SEED, Request
from vidsim.generate.sample import Progress, SamplerConfig, sample_latents

UNTRAINED_LATENTS = 9  # latent frames of a window when the checkpoint does not say what it has seen
Latents = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How a video longer than a clip is cut.

    frames   of one window; 0: the longest that the model was trained on
    overlap  latent frames taken over from the window before; 0: a third of the window
    """

    frames: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.frames < 0 or self.overlap < 0:
            raise bad("WindowConfig", f"{self}", "0 or more")


@dataclasses.dataclass(frozen=True)
class Window:
    """Latent frames of a window, and how many of them the window before gives."""

    latents: int
    overlap: int


def plan_window(model: Model, height: int, width: int, config: WindowConfig) -> Window:
    """The window for frames of a size.

    Raises  BadInput when it does not fit a row, or has no room for new frames
    """
    grid = model.grid
    _, h, w = grid.grid(Request("", height, width))
    room = model.limits.tokens // (h * w)
    if room < 2:
        raise bad("--size", f"{width}x{height}", f"two latent frames in {model.limits.tokens} "
                  "tokens", "ask for a smaller size")  # fmt: skip
    latents = min(room, longest(model))
    if config.frames:
        grid.grid(Request("", height, width, config.frames))
        latents = grid.latent_frames(config.frames)
        if latents > room:
            most = 1 + (room - 1) * grid.time_stride
            raise bad("--window", f"{config.frames} frames of {width}x{height}", f"at most {most}")
    overlap = config.overlap or max(1, latents // 3)
    if overlap >= latents:
        raise bad("--overlap", f"{overlap} latent frames", f"below the window's {latents}")
    return Window(latents, overlap)


def longest(model: Model) -> int:
    """Latent frames of the longest clip that the model was trained on."""
    return int(model.config.get("longest", 0)) or UNTRAINED_LATENTS


def trained_reference(model: Model) -> int:
    """Latents of the reference of a clip that begins mid-stream: those of one token in time; 0 for
    a model that was not trained with references."""
    cfg = model.task.cfg
    return cfg.latent.patch[0] if cfg.masks.reference > 0.0 else 0


def reference_latents(model: Model, window: Window) -> int:
    """`trained_reference`, or 0 for a window with no room for one."""
    t = trained_reference(model)
    return t if window.overlap + t < window.latents else 0


def roll_forward(
    model: Model,
    requests: Sequence[Request],
    known: Sequence[np.ndarray],
    new: int,
    window: Window,
    config: SamplerConfig,
    progress: Progress | None = None,
    *,
    number: int = 0,
    whole: bool = True,
    references: Sequence[np.ndarray] | None = None,
) -> Iterator[Latents]:
    """New latents after known ones, a window at a time, for several clips side by side.

    requests  prompt, size, rate and seed of each clip; their durations are not read
    known     latents f32[t,h,w,c] of each clip, equally many; t = 0 begins a video
    new       latent frames to make
    number    windows made before; each window draws noise of its own
    whole     known[...][0] is the latent of the video's first frame
    references  first latents of each video (`reference_latents` of them), where known has them not
    Yields    the new latents of each clip
    """
    tails, done = list(known), 0
    shown = reference_latents(model, window)
    left = _windows(new, tails[0].shape[0], window, 0 if whole else shown, shown)
    for index in range(left):
        g = tails[0].shape[0]
        head = references if shown and not whole else None
        m = min(window.latents - g - (0 if head is None else shown), new - done)
        made = _one(
            model, requests, tails, m, True, 0 if whole else 1, number + index, config,
            numbered(progress, index, left), head,
        )  # fmt: skip
        fresh = [latent[-m:] for latent in made]
        yield fresh
        done += m
        joined = [np.concatenate([t, f]) for t, f in zip(tails, fresh, strict=True)]
        if whole:
            references = [latent[:shown] for latent in joined]
        whole = whole and joined[0].shape[0] <= window.overlap
        tails = [latent[-window.overlap :] for latent in joined]


def roll_backward(
    model: Model,
    requests: Sequence[Request],
    known: Sequence[np.ndarray],
    new: int,
    window: Window,
    config: SamplerConfig,
    progress: Progress | None = None,
) -> Latents:
    """New latents before known ones: the last window made holds the video's first frame.

    known    mid-stream latents of the frames that follow
    new      latent frames to make, the first of which stands for one frame
    Returns  the new latents of each clip, in order of time
    """
    tails, parts, done = list(known), [], 0
    left = _windows(new, tails[0].shape[0], window)
    for index in range(left):
        k = tails[0].shape[0]
        m = min(window.latents - k, new - done)
        first = 0 if done + m == new else 1
        made = _one(
            model, requests, tails, m, False, first, index, config, numbered(progress, index, left)
        )
        parts.append([latent[:m] for latent in made])
        done += m
        tails = [latent[: window.overlap] for latent in made]
    return [np.concatenate([p[i] for p in reversed(parts)]) for i in range(len(requests))]


def fill(
    model: Model,
    requests: Sequence[Request],
    head: Sequence[np.ndarray],
    tail: Sequence[np.ndarray],
    new: int,
    config: SamplerConfig,
    progress: Progress | None = None,
    towards: str | None = None,
) -> Latents:
    """New latents between a head (from the start of its clip) and a mid-stream tail, one window.

    towards  prompt into which each request's is blended along the new latents: the first of them
             is made under the one, the last under the other; None: one prompt
    """
    g, k = head[0].shape[0], tail[0].shape[0]
    t = g + new + k
    patch = model.task.cfg.latent.patch
    conditions, asked = [], []
    for request, a, b in zip(requests, head, tail, strict=True):
        base = np.concatenate([a, np.zeros((new, *a.shape[1:]), np.float32), b])
        conditions.append(Condition(base, given_frames(base, g, k, patch)))
        asked.append(_lasting(model, request, t))
    if towards is None:
        made = sample_latents(model, asked, config, progress, conditions)
        return [latent[g : g + new] for latent in made]
    share = np.interp(np.arange(0, t, patch[0]), [g, g + max(new - patch[0], 1)], [0.0, 1.0])
    both, made = dataclasses.replace(config, max_rows=max(2, config.rows_at_once)), []
    for number, (request, one) in enumerate(zip(asked, conditions, strict=True)):
        pair = blend_pair(one.latent_thwc, one.given_thw, share.astype(np.float32))
        prompts = [request, dataclasses.replace(request, prompt=towards)]
        show = numbered(progress, number, len(asked))
        made.append(sample_latents(model, prompts, both, show, pair)[0])
    return [latent[g : g + new] for latent in made]


def window_seed(seed: int, number: int) -> int:
    """The seed of a window's noise; the first window keeps the request's own."""
    return seed if number == 0 else stable_hash("window", seed, number) % MAX_SEED


def _one(
    model: Model,
    requests: Sequence[Request],
    known: Sequence[np.ndarray],
    m: int,
    forward: bool,
    first: int,
    number: int,
    config: SamplerConfig,
    progress: Progress | None,
    references: Sequence[np.ndarray] | None = None,
) -> Latents:
    """The latents of one window: of its reference if there is one, known ones, m new ones."""
    if references is not None:  # given like the known ones, which follow it
        known = [np.concatenate(pair) for pair in zip(references, known, strict=True)]
        first = 0
    g = known[0].shape[0]
    patch = model.task.cfg.latent.patch
    conditions: list[Condition | None] = []
    asked = []
    for request, latent in zip(requests, known, strict=True):
        blank = np.zeros((m, *latent.shape[1:]), np.float32)
        base = np.concatenate([latent, blank] if forward else [blank, latent])
        given = given_frames(base, g if forward else 0, 0 if forward else g, patch)
        one = Condition(base, given, first, reference=references is not None)
        conditions.append(one if g or first else None)
        seed = window_seed(request.seed, number)
        asked.append(dataclasses.replace(_lasting(model, request, g + m), seed=seed))
    return sample_latents(model, asked, config, progress, conditions)


def _lasting(model: Model, request: Request, latents: int) -> Request:
    return dataclasses.replace(request, num_frames=1 + (latents - 1) * model.grid.time_stride)


def _windows(new: int, known: int, window: Window, shown: int = 0, later: int = 0) -> int:
    """How many windows make `new` latents after (or before) `known` ones, when the first window
    holds `shown` latents of a reference and the others `later`."""
    count, overlap = 0, known + shown
    if known >= window.latents:
        raise bad("window", f"{known} given latent frames", f"below the window's {window.latents}")
    while new > 0:
        new -= window.latents - overlap
        overlap = min(window.overlap, window.latents) + later
        count += 1
    return count


def numbered(progress: Progress | None, index: int, windows: int) -> Progress | None:
    """Progress over all windows, so that the time left is that of the whole."""
    if progress is None or windows == 1:
        return progress
    report: Callable[[str, int, int], None] = progress

    def show(stage: str, done: int, of: int) -> None:
        report(stage, index * of + done, windows * of)

    return show
