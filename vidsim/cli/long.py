"""`vidsim long`: a minute and more by rolling windows; resumes from the last finished window."""

import argparse
import pathlib

from vidsim.cli import capability, settings
from vidsim.core.errors import bad


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--size", metavar="WxH", help="pixels (default 64x64)")
    parser.add_argument("--seconds", type=float, help="duration (default 60)")
    parser.add_argument("--fps", type=float, help="frames a second (default 8)")
    parser.add_argument("--one-clip", action="store_true", default=None,
                        help="as one clip of the denoiser instead of windows")  # fmt: skip
    parser.add_argument("--ramp", action="store_true", default=None,
                        help="noise rises along the window, which moves on frame by frame; with "
                        "--solver euler")  # fmt: skip
    parser.add_argument("--parts", metavar="DIR",
                        help="where finished windows wait (default NAME.parts)")  # fmt: skip
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the windows, then streams their pixels into the file."""
    from vidsim.cli.progress import stages
    from vidsim.generate import long
    from vidsim.generate.pack import Request
    from vidsim.generate.provenance import GENERATED, signed
    from vidsim.generate.ramp import check_ramp, ramp_notice
    from vidsim.generate.roll import plan_window
    from vidsim.generate.sample import lay_out
    from vidsim.generate.write_stream import check_stream, write_stream

    capability.settle(args, size="64x64", seconds=60.0, fps=8.0, one_clip=False, ramp=False)
    size = capability.size_of(args.size)
    assert size is not None
    if args.n != 1:
        raise bad("--n", f"{args.n} long videos", "1 a command")
    if not args.seconds > 0:
        raise bad("--seconds", f"{args.seconds}", "above 0")
    if args.ramp and args.one_clip:
        raise bad("--ramp", "with --one-clip", "one of the two")
    path = check_stream(args.out, *size, args.fps)
    config, window = settings.sampler(args), capability.window(args)
    if args.ramp:
        check_ramp(config)
    model = capability.load_model(args)
    frames = max(1, round(args.seconds * args.fps))
    if args.one_clip:
        stride = model.grid.time_stride
        frames = 1 + round((frames - 1) / stride) * stride
    request = Request(args.prompt, *size, frames, args.fps, args.seed, args.negative)
    plan_window(model, *size, window)
    lay_out(model, [Request(args.prompt, *size, 1, args.fps, args.seed, args.negative)])
    about = signed(capability.facts_of(args, request, model))
    if args.one_clip:
        with stages("long") as show:
            made = long.one_clip(model, request, config, show)
        print(write_stream(path, made.video_THWC, *size, args.fps, about, GENERATED).path)
        return 0
    if args.ramp:
        print(ramp_notice(), flush=True)
    parts = pathlib.Path(args.parts or path.with_suffix(".parts"))
    with stages("long") as show:
        found = long.make_windows(model, request, parts, config, window, show, args.ramp)
        if found:
            print(f"{parts}: went on after {found} finished windows")
        pixels = long.stream_frames(model, parts, frames, show)
        written = write_stream(path, pixels, *size, args.fps, about, GENERATED)
    long.discard(parts)
    print(f"{written.path}: {written.num_frames} frames of {size[1]}x{size[0]}")
    return 0
