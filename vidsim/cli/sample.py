"""`vidsim sample`: text to video or image files."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidsim.cli import settings
from vidsim.core.errors import bad

if TYPE_CHECKING:
    import numpy as np

    from vidsim.generate.model import Model
    from vidsim.generate.pack import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command. None stands for "not said": see cli/settings.py."""
    parser.add_argument("--ckpt", help="work directory, exported folder, or demo")
    parser.add_argument("--like", metavar="FILE",
                        help="a file of this command: its settings, unless said here")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="what the clip shows")
    what.add_argument("--prompts", metavar="FILE", help="a prompt a line, or JSON lines")
    parser.add_argument("--size", metavar="WxH",
                        help="pixels (default 64x64); off the grid: cropped")  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="1 makes an image (default 9, .png 1)")
    length.add_argument("--seconds", type=float, help="duration at --fps")
    parser.add_argument("--fps", type=float, help="frames a second (default 8)")
    parser.add_argument("--variations", "--n", type=int, metavar="N",
                        help="N seeds of one prompt; contact sheet NAME-sheet.png")  # fmt: skip
    settings.add_sampler(parser)
    parser.add_argument(
        "--long-rows",
        action="store_true",
        help="videos longer than any in training as one clip (images may be)",
    )
    parser.add_argument("--out", required=True,
                        help="NAME.mp4 .webm .mkv .gif or .png; several clips: a name whose stem "
                        "gets a number")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Makes the clips and writes them; everything is checked before anything is compiled."""
    from vidsim.cli.progress import stages
    from vidsim.cli.prompts import numbered, read_requests
    from vidsim.generate.fit import fit
    from vidsim.generate.grow import notice, sample_grown
    from vidsim.generate.made import variations
    from vidsim.generate.memory import fit_memory
    from vidsim.generate.model import load
    from vidsim.generate.provenance import GENERATED, signed
    from vidsim.generate.write import check_media, write_media

    facts = settings.settle(args)
    asked = read_requests(args)
    if args.variations is not None:
        if args.prompts is not None:
            raise bad("--variations", "of a file of prompts", "of one --prompt")
        asked = variations(asked[0], args.variations)
    several = args.prompts is not None or args.variations is not None
    paths = numbered(args.out, len(asked)) if several else [args.out]
    for path, request in zip(paths, asked, strict=True):
        check_media(path, request.num_frames, request.fps)
    config = settings.sampler(args)
    model = load(args.ckpt, args.step)
    notices = settings.compare(args, facts, model)
    if args.cut_prompt:
        asked = cut_prompts(model, asked, notices)
    notices += unknown(model, asked)
    fitted = [fit(model.grid, request) for request in asked]
    requests = [one.sampled for one in fitted]
    if args.long_rows or all(request.num_frames == 1 for request in requests):
        config = dataclasses.replace(config, long_rows=True)
    config, lines = fit_memory(model, requests, config)
    notices += lines
    notices += dict.fromkeys(one.notice for one in fitted if one.notice)
    said = (notice(model, request) for request in requests)
    notices += dict.fromkeys(line for line in said if line)
    print("\n".join(notices), end="\n" * bool(notices), flush=True)
    with stages("sample") as show:
        videos = sample_grown(model, requests, config, show)
    pixels = [one.cut(video.video_THWC) for one, video in zip(fitted, videos, strict=True)]
    for path, request, video_THWC in zip(paths, asked, pixels, strict=True):
        about = signed(settings.facts_of(args, request, model))
        written = write_media(path, video_THWC, request.fps, about, GENERATED)
        print("\n".join([str(written.path), *written.notices]))
    if args.variations is not None:
        about = signed(settings.facts_of(args, asked[0], model) | {"variations": len(asked)})
        print(write_media(sheet_path(args.out), sheet(pixels, asked), 1, about, GENERATED).path)
    return 0


def sheet_path(out: str) -> pathlib.Path:
    """NAME-sheet.png beside `out`."""
    path = pathlib.Path(out)
    return path.with_name(f"{path.stem}-sheet.png")


def sheet(pixels: "Sequence[np.ndarray]", requests: "Sequence[Request]") -> "np.ndarray":
    """The contact sheet of variations, uint8 [1,H,W,3]."""
    from vidsim.generate.contact import contact_sheet

    captions = [f"seed {request.seed}: {request.prompt}" for request in requests]
    return contact_sheet(pixels, captions)[None]


def unknown(model: "Model", asked: "Sequence[Request]") -> list[str]:
    """What there is to say of words that the model does not know, each line once."""
    from vidsim.generate.fit import unknown_words

    lines = [unknown_words(model, request.prompt) for request in asked]
    lines += [unknown_words(model, request.negative, "--negative") for request in asked]
    return [line for line in dict.fromkeys(lines) if line]


def cut_prompts(model: "Model", asked: "Sequence[Request]", notices: list[str]) -> "list[Request]":
    """Requests whose texts fit; what is cut is added to the notices."""
    from vidsim.generate.fit import cut_text

    made: list[Request] = []
    for request in asked:
        prompt, said = cut_text(model, request.prompt)
        negative, said_too = cut_text(model, request.negative, "--negative")
        made.append(dataclasses.replace(request, prompt=prompt, negative=negative))
        notices += [line for line in (said, said_too) if line and line not in notices]
    return made
