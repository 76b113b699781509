"""`vidsim long`: a minute and more by rolling windows; resumes from the last finished window."""

import argparse
import pathlib

from vidsim.cli import capability
from vidsim.core.errors import bad


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--size", default="64x64", metavar="WxH", help="pixels")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration")
    parser.add_argument("--fps", type=float, default=8.0, help="frames a second")
    parser.add_argument("--one-clip", action="store_true",
                        help="as one clip of the denoiser instead of windows")  # fmt: skip
    parser.add_argument("--parts", metavar="DIR",
                        help="where finished windows wait (default NAME.parts)")  # fmt: skip
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the windows, then streams their pixels into the file."""
    from vidsim.cli.progress import stages
    from vidsim.generate import long
    from vidsim.generate.model import load
    from vidsim.generate.pack import Request
    from vidsim.generate.provenance import GENERATED, signed
    from vidsim.generate.roll import plan_window
    from vidsim.generate.sample import lay_out
    from vidsim.generate.write_stream import check_stream, write_stream

    size = capability.size_of(args.size)
    assert size is not None
    if args.n != 1:
        raise bad("--n", f"{args.n} long videos", "1 a command")
    if not args.seconds > 0:
        raise bad("--seconds", f"{args.seconds}", "above 0")
    path = check_stream(args.out, *size, args.fps)
    config, window = capability.sampler(args), capability.window(args)
    model = load(args.ckpt)
    frames = max(1, round(args.seconds * args.fps))
    if args.one_clip:
        stride = model.grid.time_stride
        frames = 1 + round((frames - 1) / stride) * stride
    request = Request(args.prompt, *size, frames, args.fps, args.seed, args.negative)
    plan_window(model, *size, window)
    lay_out(model, [Request(args.prompt, *size, 1, args.fps, args.seed, args.negative)])
    about = signed({
        "capability": "long", "prompt": args.prompt, "negative": args.negative, "seed": args.seed,
        "size": args.size, "frames": frames, "fps": args.fps, "steps": args.steps,
        "guidance": args.guidance, "solver": args.solver, "one clip": args.one_clip,
        **{k: str(v) for k, v in model.facts.items()},
    })  # fmt: skip
    if args.one_clip:
        with stages("long") as show:
            made = long.one_clip(model, request, config, show)
        print(write_stream(path, made.video_THWC, *size, args.fps, about, GENERATED).path)
        return 0
    parts = pathlib.Path(args.parts or path.with_suffix(".parts"))
    with stages("long") as show:
        found = long.make_windows(model, request, parts, config, window, show)
        if found:
            print(f"{parts}: went on after {found} finished windows")
        pixels = long.stream_frames(model, parts, frames, show)
        written = write_stream(path, pixels, *size, args.fps, about, GENERATED)
    long.discard(parts)
    print(f"{written.path}: {written.num_frames} frames of {size[1]}x{size[0]}")
    return 0
