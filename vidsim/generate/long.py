"""A minute and more: windows kept on disk as they are finished, pixels streamed into the file.

Neither the latents nor the pixels of the whole video are ever in memory: a window's new latents go
to a folder beside the output, the next window needs only the overlap, and the decoder reads the
folder from its start with its memory carried along. A run that is killed goes on with the first
window that is not there.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vidsim.core.errors import bad
from vidsim.data.packing import RowLimits
from vidsim.generate.made import Made, check_frames
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.ramp import State, check_ramp, ramp_latents
from vidsim.generate.roll import (
    Window,
    WindowConfig,
    plan_window,
    reference_latents,
    roll_forward,
)
from vidsim.generate.sample import Progress, SamplerConfig, sample
from vidsim.models.codec import to_uint8
from vidsim.models.vae_stream import decode_stream
from vidsim.store.manifest import write_atomic

SETTINGS = "settings.json"


def make_windows(
    model: Model,
    request: Request,
    folder: str | os.PathLike[str],
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    window: WindowConfig = WindowConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    ramp: bool = False,
) -> int:
    """Makes the latents of a long video, one file a window; goes on where an earlier call stopped.

    request  num_frames is of the whole video, any number; fps, size, prompt, seed as always
    folder   made when missing
    ramp     noise rises along the window, which moves on frame by frame (generate/ramp.py); a file
             a latent frame
    Returns  windows that were already there
    Raises   BadInput when the folder holds windows of another video
    """
    check_frames(request.num_frames)
    plan = plan_window(model, request.height, request.width, window)
    total = 1 + -(-(request.num_frames - 1) // model.grid.time_stride)
    folder = Path(folder)
    settings = _settings(model, request, config, plan)
    settings["window"]["ramp"] = ramp or None  # folders from before there were ramps have no key
    if ramp:
        check_ramp(config)
    _claim(folder, settings)
    found = finished(folder)
    if ramp:
        _make_ramp(model, request, folder, total, plan, config, progress, len(found))
        return len(found)
    made = sum(np.load(path, mmap_mode="r").shape[0] for path in found)
    known = _tail(found, plan.overlap, model, request)
    rolled = roll_forward(
        model, [request], [known], total - made, plan, config, progress,
        number=len(found), whole=made <= plan.overlap,
        references=[np.load(found[0])[: reference_latents(model, plan)]] if found else None,
    )  # fmt: skip
    for number, (fresh,) in enumerate(rolled, len(found)):
        _write(folder / f"window-{number:05d}.npy", fresh)
    return len(found)


def _make_ramp(
    model: Model,
    request: Request,
    folder: Path,
    total: int,
    plan: Window,
    config: SamplerConfig,
    progress: Progress | None,
    found: int,
) -> None:
    """A file for each latent frame, and beside the newest one the window that goes on from it."""
    state = None
    if found:
        state = State.unpacked(found, np.load(folder / f"state-{found - 1:05d}.npy"))
    frames = ramp_latents(model, request, total, plan, config, progress, state)
    for number, (fresh, after) in enumerate(frames, found):
        _write(folder / f"state-{number:05d}.npy", after.packed())  # first: a frame needs its state
        _write(folder / f"window-{number:05d}.npy", fresh)
        (folder / f"state-{number - 1:05d}.npy").unlink(missing_ok=True)


def _write(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def finished(folder: Path) -> list[Path]:
    """The windows of a folder, up to the first that is missing."""
    paths: list[Path] = []
    while (path := folder / f"window-{len(paths):05d}.npy").exists():
        paths.append(path)
    return paths


def stream_frames(
    model: Model, folder: str | os.PathLike[str], frames: int, progress: Progress | None = None
) -> Iterator[np.ndarray]:
    """The video's first `frames` frames, uint8 [H,W,3] one by one, decoded as they are asked for.

    Memory does not grow with their number; pixels are those of decoding the latents whole.
    """
    windows = (np.load(path)[None] for path in finished(Path(folder)))
    done = 0
    for piece in decode_stream(model.vae.vae, model.vae.params, windows, latent_frames=4):
        for frame_HWC in to_uint8(np.asarray(piece.video_BTHWC[0])):
            if done == frames:
                return
            done += 1
            yield frame_HWC
        if progress:
            progress("decode", done, frames)
    if done < frames:
        raise bad(f"{folder}", f"latents of {done} frames", f"{frames}", "make the windows first")


def one_clip(
    model: Model,
    request: Request,
    config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> Made:
    """The same video as one clip of the denoiser, however long: attention over all of it at once.

    The row is made as long as the clip; the model was not trained on such rows unless it was.
    """
    tokens = int(np.prod(model.grid.grid(request)))
    length = max(model.limits.tokens, 1 << (tokens - 1).bit_length())
    limits = RowLimits(length, model.limits.text, model.limits.segments)
    (video,) = sample(dataclasses.replace(model, limits=limits), [request], config, progress)
    return Made(video.video_THWC, request.fps, request)


def discard(folder: str | os.PathLike[str]) -> None:
    """Removes the windows of a video that is written."""
    shutil.rmtree(folder)


def _tail(found: list[Path], overlap: int, model: Model, request: Request) -> np.ndarray:
    """The last `overlap` latents of the windows that are there; none when there are none."""
    parts: list[np.ndarray] = []
    count = 0
    for path in reversed(found):
        parts.insert(0, np.load(path))
        count += parts[0].shape[0]
        if count >= overlap:
            break
    if not parts:
        lone = dataclasses.replace(request, num_frames=1)
        _, h, w = (n * p for n, p in zip(model.grid.grid(lone), model.grid.patch, strict=True))
        return np.zeros((0, h, w, model.vae.vae.cfg.latent_channels), np.float32)
    return np.concatenate(parts)[-overlap:]


def _settings(
    model: Model, request: Request, config: SamplerConfig, plan: Window
) -> dict[str, Any]:
    """Everything that a window's latents depend on, but the length of the whole."""
    asked = dataclasses.asdict(request)
    del asked["num_frames"]
    facts = {name: str(value) for name, value in model.facts.items()} | {"vae": model.vae.hash}
    every = {"request": asked, "sampler": dataclasses.asdict(config),
             "window": dataclasses.asdict(plan), "model": facts}  # fmt: skip
    return json.loads(json.dumps(every))


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Takes a folder for these settings. Raises BadInput when it belongs to others."""
    path = folder / SETTINGS
    if path.exists():
        there = json.loads(path.read_text())
        for part in settings:
            for key, value in settings[part].items():
                if there.get(part, {}).get(key) != value:
                    raise bad(f"{folder}", f"holds windows of another video: {part}, {key} "
                              f"{there.get(part, {}).get(key)!r}", f"{value!r}",
                              "remove the folder, or name another --out")  # fmt: skip
        return
    if folder.exists() and any(folder.iterdir()):
        raise bad(f"{folder}", "holds other files", "a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(settings, indent=1).encode())
