"""`vidsim edit`: a video under a new prompt, as far from itself as --strength says."""

import argparse
import dataclasses

from vidsim.cli import capability, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--video", help="video or image to edit")
    parser.add_argument("--frames-of", metavar="FIRST:END", help="part of the video to edit")
    parser.add_argument("--strength", type=float,
                        help="0 returns the input, 1 forgets it (default 0.6)")  # fmt: skip
    parser.add_argument("--keep", metavar="MASK",
                        help="image or video of the video's own size: bright pixels stay as they "
                        "are")  # fmt: skip
    capability.add_media(parser)
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Reads video and mask, edits, writes."""
    from vidsim.cli.progress import stages
    from vidsim.generate.edit import check_strength, edit, read_mask
    from vidsim.generate.media import count_frames, same_size
    from vidsim.generate.memory import fit_memory

    capability.settle(args, ["video"], strength=0.6, keep=None, frames_of=None)
    check_strength(args.strength)
    config, window = settings.sampler(args), capability.window(args)
    if args.keep:
        same_size(args.video, args.keep, "--keep")
    model = capability.load_model(args)
    given = capability.read(args, model, args.video, args.frames_of)
    fps = args.fps or (8.0 if given.still else given.fps)
    paths = capability.outputs(args, len(given.video_THWC), fps)
    keep = None
    if args.keep:
        part = args.frames_of if count_frames(args.keep) > 1 else None
        mask = capability.read(args, model, args.keep, part)
        keep = read_mask(mask.video_THWC)
    asked = capability.requests(args, given.size, fps)
    # a picture may have a row of its own length
    config = dataclasses.replace(config, long_rows=len(given.video_THWC) == 1)
    config, lines = fit_memory(model, asked[:1], config, grows=False)
    print("\n".join(lines), end="\n" * bool(lines), flush=True)
    with stages("edit") as show:
        made = edit(model, given.video_THWC, asked, args.strength, keep, config, window, show)
    capability.write(args, model, made, paths)
    return 0
