"""`vidsim extend`: a video goes on, or gets a beginning."""

import argparse

from vidsim.cli import capability, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--video", help="video or image to extend")
    parser.add_argument("--frames-of", metavar="FIRST:END", help="part of the video to extend")
    parser.add_argument("--frames", type=int, help="new frames, any number (default 8)")
    parser.add_argument("--direction", help="forward (default) or backward")
    capability.add_media(parser)
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Reads the video, makes the new frames, writes all."""
    from vidsim.cli.progress import stages
    from vidsim.generate.extend import check_extension, extend
    from vidsim.generate.sample import lay_out

    capability.settle(args, ["video"], frames=8, direction="forward", frames_of=None,
                      guidance=capability.GUIDANCE)  # fmt: skip
    check_extension(args.frames, args.direction)
    paths = capability.outputs(args, args.frames + 1, args.fps or 8.0)
    config, window = settings.sampler(args), capability.window(args)
    model = capability.load_model(args)
    given = capability.read(args, model, args.video, args.frames_of)
    fps = args.fps or (8.0 if given.still else given.fps)
    asked = capability.requests(args, given.size, fps)
    lay_out(model, asked[:1])
    with stages("extend") as show:
        made = extend(model, given.video_THWC, asked, args.frames, args.direction, config, window,
                      show)  # fmt: skip
    capability.write(args, model, made, paths)
    return 0
