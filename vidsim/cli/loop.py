"""`vidsim loop`: seamless loops, from a clip or from a prompt alone."""

import argparse

from vidsim.cli import capability, settings
from vidsim.core.errors import bad


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--video", help="clip that shall return to its own start; without it the "
                        "loop is made from the prompt alone")  # fmt: skip
    parser.add_argument("--frames", type=int, help="of the loop; with --video, new ones that "
                        "lead back (default 16)")  # fmt: skip
    parser.add_argument("--naive", metavar="FILE",
                        help="also write an ordinary clip, merely repeated")  # fmt: skip
    capability.add_media(parser)
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the loops, reports their seams, writes them."""
    from vidsim.cli.progress import stages
    from vidsim.generate.loop import loop_clip, loop_prompt, naive_loop
    from vidsim.generate.sample import lay_out
    from vidsim.generate.write import check_media, write_media

    capability.settle(args, frames=16, video=None, guidance=capability.GUIDANCE)
    size = capability.size_of(args.size)
    if args.video is None and size is None:
        raise bad("--size", "none for a loop from a prompt", "WIDTHxHEIGHT in pixels")
    if args.naive and args.video:
        raise bad("--naive", "with --video", "only for a loop from a prompt")
    fps = args.fps or 8.0
    paths = capability.outputs(args, args.frames + (args.video is not None), fps)
    naive = check_media(args.naive, args.frames, fps) if args.naive else None
    config, window = settings.sampler(args), capability.window(args)
    model = capability.load_model(args)
    with stages("loop") as show:
        if args.video is not None:
            given = capability.read(args, model, args.video)
            fps = args.fps or (8.0 if given.still else given.fps)
            asked = capability.requests(args, given.size, fps)
            lay_out(model, asked[:1])
            made = loop_clip(model, given.video_THWC, asked, args.frames, config, window, show)
        else:
            assert size is not None
            asked = capability.requests(args, size, fps, args.frames)
            made = loop_prompt(model, asked, config, show)
    capability.write(args, model, made, paths)
    if naive is not None:
        with stages("naive") as show:
            (plain,) = naive_loop(model, asked[:1], config, show)
        print("\n".join([str(write_media(naive, plain.video_THWC, fps).path), *plain.notices]))
    return 0
