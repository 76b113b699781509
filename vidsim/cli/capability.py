"""What animate, extend, loop, join and edit share: their options, given media, writing results."""

import argparse
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidsim.core.errors import bad

if TYPE_CHECKING:
    from vidsim.generate.made import Made
    from vidsim.generate.media import Given
    from vidsim.generate.model import Model
    from vidsim.generate.pack import Request
    from vidsim.generate.roll import WindowConfig
    from vidsim.generate.sample import SamplerConfig

_SIZE = re.compile(r"^(\d+)x(\d+)$")
_SPAN = re.compile(r"^(\d*):(\d*)$")


def add_common(parser: argparse.ArgumentParser, prompt: bool = True) -> None:
    """Checkpoint, prompt, seeds, sampler, output."""
    parser.add_argument("--ckpt", required=True, help="work directory of a denoiser")
    if prompt:
        parser.add_argument("--prompt", default="", help="what the clip shows")
    parser.add_argument("--negative", default="", help="what to lead away from")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same clip")
    parser.add_argument("--n", type=int, default=1, help="so many, with seeds seed, seed + 1, ...")
    parser.add_argument("--steps", type=int, default=20, help="steps of the solver")
    parser.add_argument("--guidance", type=float, default=3.0, help="1 switches guidance off")
    parser.add_argument("--solver", default="heun", help="euler, heun, ...")
    parser.add_argument("--out", required=True,
                        help="NAME.mp4 .webm .mkv (lossless) .gif or .png; with --n above 1 a name "
                        "whose stem gets a number")  # fmt: skip


def add_media(parser: argparse.ArgumentParser) -> None:
    """How given media reach the model's grid."""
    parser.add_argument("--size", metavar="WxH", help="pixels; default: the media's own, cropped "
                        "to the model's grid")  # fmt: skip
    parser.add_argument("--align", default="crop", help="crop (fills the frame) or letterbox "
                        "(keeps the whole picture)")  # fmt: skip
    parser.add_argument("--fps", type=float, help="frames a second; default: the media's own")


def add_window(parser: argparse.ArgumentParser) -> None:
    """How a video longer than a clip is cut."""
    parser.add_argument("--window", type=int, default=0, metavar="FRAMES",
                        help="frames of a window; default: the longest trained on")  # fmt: skip
    parser.add_argument("--overlap", type=int, default=0, metavar="LATENTS",
                        help="latent frames a window takes over; default: a third")  # fmt: skip


def outputs(args: argparse.Namespace, frames: int, fps: float) -> list[pathlib.Path]:
    """Where the clips go. Raises BadInput when a file of that name cannot hold them."""
    from vidsim.cli.prompts import numbered
    from vidsim.generate.write import check_media

    if args.n < 1:
        raise bad("--n", f"{args.n}", "at least 1")
    names = [args.out] if args.n == 1 else numbered(args.out, args.n)
    return [check_media(name, frames, fps) for name in names]


def sampler(args: argparse.Namespace) -> "SamplerConfig":
    """The sampler of the options."""
    from vidsim.diffusion.guidance import GuidanceConfig
    from vidsim.generate.sample import SamplerConfig

    return SamplerConfig(args.solver, args.steps, GuidanceConfig(args.guidance))


def window(args: argparse.Namespace) -> "WindowConfig":
    """The window of the options."""
    from vidsim.generate.roll import WindowConfig

    return WindowConfig(args.window, args.overlap)


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of WxH. Raises BadInput."""
    if text is None:
        return None
    match = _SIZE.match(text)
    if not match:
        raise bad("--size", repr(text), "WIDTHxHEIGHT in pixels, e.g. 96x64")
    return int(match[2]), int(match[1])


def span_of(text: str | None, option: str) -> tuple[int, int] | None:
    """(first, end) of FIRST:END, where either may be left out. Raises BadInput."""
    if text is None:
        return None
    match = _SPAN.match(text)
    if not match:
        raise bad(option, repr(text), "FIRST:END in frames, e.g. 0:9 (the end is not included)")
    return int(match[1] or 0), int(match[2]) if match[2] else -1


def read(
    args: argparse.Namespace,
    model: "Model",
    path: str,
    frames: str | None = None,
    size: tuple[int, int] | None = None,
) -> "Given":
    """Given media on the model's grid; says what was done to them.

    frames  FIRST:END, or None for all
    size    (height, width) that the media must have in place of --size
    """
    from vidsim.generate.media import count_frames, read_given

    span = span_of(frames, "--frames-of")
    if span is not None and span[1] < 0:
        span = span[0], count_frames(path, args.fps)
    given = read_given(path, model.grid, size=size or size_of(args.size), how=args.align,
                       fps=args.fps, frames=span)  # fmt: skip
    print("\n".join(given.notices) or f"{path}: {given.size[1]}x{given.size[0]} as it is")
    return given


def requests(
    args: argparse.Namespace, size: tuple[int, int], fps: float, frames: int = 1
) -> list["Request"]:
    """The requests of --prompt under --n seeds."""
    from vidsim.generate.made import variations
    from vidsim.generate.pack import Request

    first = Request(args.prompt, *size, frames, fps, args.seed, args.negative)
    return variations(first, args.n)


def write(
    args: argparse.Namespace, model: "Model", made: Sequence["Made"], paths: Sequence[pathlib.Path],
    **facts: Any,
) -> None:  # fmt: skip
    """Writes the clips with what made them, and prints names and notices."""
    from vidsim.generate.provenance import COMPOSITE, GENERATED, signed
    from vidsim.generate.write import write_media

    for path, one in zip(paths, made, strict=True):
        r = one.request
        T, H, W, _ = one.video_THWC.shape
        about = {
            "capability": args.command, "prompt": r.prompt, "negative": r.negative, "seed": r.seed,
            "size": f"{W}x{H}", "frames": T, "fps": one.fps, "steps": args.steps,
            "guidance": args.guidance, "solver": args.solver,
            "given frames": [list(span) for span in one.given], **facts,
            **{k: str(v) for k, v in model.facts.items()},
        }  # fmt: skip
        written = write_media(
            path, one.video_THWC, one.fps, signed(about), COMPOSITE if one.given else GENERATED
        )
        spans = ", ".join(f"{a} to {b - 1}" for a, b in one.given)
        line = f"{written.path}: {T} frames of {W}x{H}"
        print("\n".join([line + (f", given {spans}" if spans else ""), *one.notices,
                         *written.notices]))  # fmt: skip
