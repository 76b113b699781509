"""`vidsim animate`: an image becomes the first frame of a video."""

import argparse
import dataclasses

from vidsim.cli import capability, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--image", help="image or video; its first frame is taken")
    parser.add_argument("--frames", type=int,
                        help="of the video, the image among them (default 9)")  # fmt: skip
    capability.add_media(parser)
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Reads the image, makes the videos, writes them."""
    from vidsim.cli.progress import stages
    from vidsim.generate.extend import animate
    from vidsim.generate.sample import lay_out

    capability.settle(args, ["image"], frames=9, guidance=capability.GUIDANCE)
    fps = args.fps or 8.0
    paths = capability.outputs(args, args.frames, fps)
    config, window = settings.sampler(args), capability.window(args)
    model = capability.load_model(args)
    args.fps = None  # a rate would resample a video, of which one frame is wanted
    given = capability.read(args, model, args.image, "0:1")
    asked = capability.requests(args, given.size, fps, args.frames)
    lay_out(model, [dataclasses.replace(asked[0], num_frames=1)])
    with stages("animate") as show:
        made = animate(model, given.video_THWC[0], asked, config, window, show)
    capability.write(args, model, made, paths)
    return 0
