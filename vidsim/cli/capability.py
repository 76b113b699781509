"""What animate, extend, loop, join and edit share: their options, given media, writing results."""

import argparse
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidsim.cli import settings
from vidsim.core.errors import bad

if TYPE_CHECKING:
    from vidsim.generate.made import Made
    from vidsim.generate.media import Given
    from vidsim.generate.model import Model
    from vidsim.generate.pack import Request
    from vidsim.generate.roll import WindowConfig

# Where given frames say most, and in loops: the prediction itself, at half the cost of a guided
# one; more makes fewer clips right (experiments/RESULTS.md, versions 6 and 12, and towards
# version 14).
GUIDANCE = 1.0

_SIZE = re.compile(r"^(\d+)x(\d+)$")
_SPAN = re.compile(r"^(\d*):(\d*)$")


# Options that every capability may have, for those that were not said. Those of the sampler are in
# cli/settings.py; what a command adds of its own it names in its call of `settle`.
SHARED: dict[str, Any] = {"prompt": "", "negative": "", "seed": 0, **settings.SAMPLING}
MEDIA: dict[str, Any] = {"size": None, "align": "crop", "fps": None, "window": 0, "overlap": 0}


def add_common(parser: argparse.ArgumentParser, prompt: bool = True) -> None:
    """Checkpoint, prompt, seeds, sampler, output. None stands for "not said"."""
    parser.add_argument("--ckpt", help="work directory, exported folder, or demo")
    parser.add_argument("--like", metavar="FILE",
                        help="a file of this command (all its settings) or of vidsim sample "
                        "(prompt, seed, sampler), unless said here")  # fmt: skip
    if prompt:
        parser.add_argument("--prompt", help="what the clip shows (default: nothing said)")
    settings.add_sampler(parser)
    parser.add_argument("--n", type=int, default=1, help="so many, with seeds seed, seed + 1, ...")
    parser.add_argument("--out", required=True,
                        help="NAME.mp4 .webm .mkv (lossless) .gif or .png; with --n above 1 a name "
                        "whose stem gets a number")  # fmt: skip


def settle(args: argparse.Namespace, needed: Sequence[str] = (), **own: Any) -> None:
    """Fills what the command line leaves open, from the --like file or with defaults.

    needed   options without a default
    own      options of the command itself with their defaults; None where there is none. Of those
             that all share, the defaults that differ here
    Raises   BadInput for a file from elsewhere, settings of other kinds, a needed option missing
    """
    facts = settings.read_like(args.like, (args.command, "sample")) if args.like else {}
    mine = facts.get("options", {}) if facts.get("command") == args.command else {}
    shared = {name: own.pop(name, default) for name, default in SHARED.items()}
    options = {k: v for k, v in MEDIA.items() if hasattr(args, k)} | own | dict.fromkeys(needed)
    if not isinstance(mine, Mapping):
        raise bad("--like", f"{args.like}: options are {mine!r}", "a file that vidsim wrote")
    kinds = {name: "" if value is None else value for name, value in options.items()}
    settings.check_kinds(args.like, mine, kinds | ({"fps": 8.0} if "fps" in kinds else {}))
    settings.fill(args, facts, shared)
    settings.fill(args, mine, options)
    for name in needed:
        if getattr(args, name) is None:
            raise bad(f"--{name.replace('_', '-')}", "missing", "a value, or --like")
    settings.fill_checkpoint(args, facts)
    args.options = {name: getattr(args, name) for name in options}  # as said, before media are read
    args.facts = facts


def load_model(args: argparse.Namespace) -> "Model":
    """The model of settled options; says what keeps a --like from being the same video.

    --cut-prompt cuts texts that are too long; words that the model does not know are named.
    Raises BadInput as `load` does.
    """
    from vidsim.generate.fit import cut_text, unknown_words
    from vidsim.generate.model import load

    model = load(args.ckpt, args.step)
    lines = settings.compare(args, args.facts, model)
    for name in ("prompt", "negative", "prompt_b"):
        if text := getattr(args, name, None):
            option = f"--{name.replace('_', '-')}"
            text, said = cut_text(model, text, option) if args.cut_prompt else (text, "")
            setattr(args, name, text)
            lines += [line for line in (said, unknown_words(model, text, option)) if line]
    print("\n".join(lines), end="\n" * bool(lines), flush=True)
    return model


def add_media(parser: argparse.ArgumentParser) -> None:
    """How given media reach the model's grid."""
    parser.add_argument("--size", metavar="WxH", help="pixels; default: the media's own, cropped "
                        "to the model's grid")  # fmt: skip
    parser.add_argument("--align", help="crop (fills the frame, the default) or letterbox "
                        "(keeps the whole picture)")  # fmt: skip
    parser.add_argument("--fps", type=float, help="frames a second; default: the media's own")


def add_window(parser: argparse.ArgumentParser) -> None:
    """How a video longer than a clip is cut."""
    parser.add_argument("--window", type=int, metavar="FRAMES",
                        help="frames of a window; default: the longest trained on")  # fmt: skip
    parser.add_argument("--overlap", type=int, metavar="LATENTS",
                        help="latent frames a window takes over; default: a third")  # fmt: skip


def outputs(args: argparse.Namespace, frames: int, fps: float) -> list[pathlib.Path]:
    """Where the clips go. Raises BadInput when a file of that name cannot hold them."""
    from vidsim.cli.prompts import numbered
    from vidsim.generate.write import check_media

    if args.n < 1:
        raise bad("--n", f"{args.n}", "at least 1")
    names = [args.out] if args.n == 1 else numbered(args.out, args.n)
    return [check_media(name, frames, fps) for name in names]


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


def facts_of(args: argparse.Namespace, request: "Request", model: "Model") -> dict[str, Any]:
    """What is written into a file, so that --like makes the same again: as `vidsim sample` writes
    it, and the command's own options."""
    return {
        **settings.facts_of(args, request, model), "command": args.command,
        "options": args.options,
    }  # fmt: skip


def write(
    args: argparse.Namespace, model: "Model", made: Sequence["Made"], paths: Sequence[pathlib.Path]
) -> None:  # fmt: skip
    """Writes the clips with what made them, and prints names and notices."""
    from vidsim.generate.provenance import COMPOSITE, GENERATED, signed
    from vidsim.generate.write import write_media

    for path, one in zip(paths, made, strict=True):
        r = one.request
        T, H, W, _ = one.video_THWC.shape
        about = facts_of(args, r, model) | {
            "size": f"{W}x{H}", "frames": T, "fps": one.fps,
            "given frames": [list(span) for span in one.given],
        }  # fmt: skip
        written = write_media(
            path, one.video_THWC, one.fps, signed(about), COMPOSITE if one.given else GENERATED
        )
        spans = ", ".join(f"{a} to {b - 1}" for a, b in one.given)
        line = f"{written.path}: {T} frames of {W}x{H}"
        print("\n".join([line + (f", given {spans}" if spans else ""), *one.notices,
                         *written.notices]))  # fmt: skip
