"""Edit a video under a new prompt: noise it to a chosen strength, then denoise it.

Source: SDEdit, arXiv:2108.01073. Where a mask says so, pixels are kept: tokens that lie wholly
inside it are given to the network clean, and the kept pixels are those of the input, bit for bit.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.generate.conditions import Condition
from vidsim.generate.made import Made, require_training
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import WindowConfig, plan_window
from vidsim.generate.sample import Progress, SamplerConfig, decode, sample_latents
from vidsim.models.codec import encode_clips, encode_midstream


def edit(
    model: Model,
    video_THWC: np.ndarray,
    requests: Sequence[Request],
    strength: float,
    keep_THW: np.ndarray | None = None,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Made]:
    """Videos of the same frames under other prompts.

    video_THWC  uint8, sides on the model's grid, any number of frames up to a window's
    requests    one a video: the new prompt, seed, rate, size of the video
    strength    noise time 0..1 from which it is denoised: 0 returns the input, 1 forgets it
    keep_THW    bool [T,H,W], or [1,H,W] for all frames: these pixels stay as they are
    Raises      BadInput for a strength outside 0..1, a mask of another size, a video that is longer
                than a window
    """
    check_strength(strength)
    T, H, W, _ = video_THWC.shape
    keep = None if keep_THW is None else _mask(keep_THW, T, H, W)
    if strength == 0.0 or (keep is not None and keep.all()):
        return [Made(video_THWC.copy(), r.fps, r, ((0, T),)) for r in requests]
    if keep is not None and keep.any():
        require_training(model, "edit with a mask")
    latents, stride = -(-(T - 1) // model.grid.time_stride) + 1, model.grid.time_stride
    if latents == 1:  # a picture may have a row of its own length, as in sampling
        config = dataclasses.replace(config, long_rows=True)
    elif latents > (most := plan_window(model, H, W, window).latents):
        raise bad("edit", f"{T} frames of {W}x{H}", f"at most {1 + (most - 1) * stride}",
                  "take a part with --frames-of, or a larger --window")  # fmt: skip
    filled = np.concatenate([video_THWC, np.repeat(video_THWC[-1:], 1 + (latents - 1) * stride - T,
                                                   0)])  # fmt: skip
    condition = _condition(model, filled, keep, strength)
    asked = [dataclasses.replace(r, num_frames=len(filled)) for r in requests]
    made = sample_latents(model, asked, config, progress, [condition] * len(asked))
    videos = decode(model, made, config, progress)
    results = []
    for request, video in zip(requests, videos, strict=True):
        video = video[:T]
        if keep is not None:
            video = np.where(keep[..., None], video_THWC, video)
        results.append(Made(video, request.fps, request, (), _notices(keep)))
    return results


def check_strength(strength: float) -> None:
    """Raises BadInput outside 0..1."""
    if not 0.0 <= strength <= 1.0:
        raise bad("--strength", f"{strength}", "0 (the input itself) to 1 (the prompt alone)")


def read_mask(video_THWC: np.ndarray) -> np.ndarray:
    """bool [T,H,W] of a mask's frames: pixels of at least half brightness are kept."""
    return video_THWC.astype(np.float32).mean(-1) >= 127.5


def kept_tokens(keep_THW: np.ndarray, stride: int, cell: tuple[int, int]) -> np.ndarray:
    """bool[t,h,w]: tokens all of whose pixels are kept.

    keep_THW  T = 1 + k * stride frames; the first frame is a token alone
    cell      pixels (height, width) of a token
    """
    T, H, W = keep_THW.shape
    cells = keep_THW.reshape(T, H // cell[0], cell[0], W // cell[1], cell[1])
    blocks: np.ndarray = np.all(cells, axis=(2, 4))
    rest = blocks[1:].reshape((T - 1) // stride, stride, *blocks.shape[1:]).all(1)
    return np.concatenate([blocks[:1], rest])


def _condition(
    model: Model, video_THWC: np.ndarray, keep: np.ndarray | None, strength: float
) -> Condition:
    vae, params = model.vae.vae, model.vae.params
    (latent,) = encode_clips(vae, params, [video_THWC])
    stride, (_, ph, pw) = model.grid.time_stride, model.grid.patch
    cell = model.grid.space_stride * ph, model.grid.space_stride * pw
    T, H, W, _ = video_THWC.shape
    if keep is None:
        given = np.zeros((latent.shape[0], H // cell[0], W // cell[1]), bool)
        return Condition(latent, given, start=strength)
    missing = np.repeat(keep[-1:], T - len(keep), 0)
    given = kept_tokens(np.concatenate([keep, missing]), stride, cell)
    whole = given.all((1, 2))
    head = int(np.argmin(whole))
    late = [int(f) for f in np.flatnonzero(whole) if f >= max(head, 1)]
    latent = latent.copy()
    if late:
        groups = [video_THWC[1 + (f - 1) * stride : 1 + f * stride] for f in late]
        for f, one in zip(late, encode_midstream(vae, params, groups), strict=True):
            latent[f] = one[0]
    return Condition(latent, given, start=strength)


def _mask(keep: np.ndarray, T: int, H: int, W: int) -> np.ndarray:
    if keep.shape[1:] != (H, W) or len(keep) not in (1, T):
        size = f"{keep.shape[2]}x{keep.shape[1]}, {len(keep)} frames"
        raise bad("--keep", f"a mask of {size}", f"{W}x{H}, 1 frame or {T}",
                  "make the mask from the video's own frames")  # fmt: skip
    return np.broadcast_to(keep, (T, H, W))


def _notices(keep: np.ndarray | None) -> tuple[str, ...]:
    if keep is None:
        return ()
    return (f"{keep.mean():.1%} of the pixels are kept exactly",)
