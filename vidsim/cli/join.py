"""`vidsim join`: connect two clips, or blend two prompts or clips along time."""

import argparse
from typing import TYPE_CHECKING

from vidsim.cli import capability, settings
from vidsim.core.errors import bad

if TYPE_CHECKING:
    from vidsim.generate.made import Made
    from vidsim.generate.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    capability.add_common(parser)
    parser.add_argument("--a", metavar="FILE", help="the clip that comes first")
    parser.add_argument("--b", metavar="FILE", help="the clip that comes last")
    parser.add_argument("--frames", type=int, help="of the transition; with --blend, of the "
                        "whole clip (default 8)")  # fmt: skip
    parser.add_argument("--blend", action="store_true", default=None,
                        help="move from --prompt (and --a) to --prompt-b (and --b)")  # fmt: skip
    parser.add_argument("--prompt-b", help="what a blend shows at its end, or the end of the "
                        "transition between clips that share nothing")  # fmt: skip
    parser.add_argument("--strength", type=float,
                        help="of a blend of two clips: 1 forgets them (default 0.6)")  # fmt: skip
    capability.add_media(parser)
    capability.add_window(parser)


def run(args: argparse.Namespace) -> int:
    """Reads the clips, makes what lies between them, writes all."""
    usual = settings.SAMPLING["guidance"]  # a blend is led by its prompts
    capability.settle(args, a=None, b=None, frames=8, blend=False, prompt_b="", strength=0.6,
                      guidance=usual if args.blend else capability.GUIDANCE)  # fmt: skip
    if (args.a is None) != (args.b is None) or not (args.blend or args.a):
        raise bad("--a", "one clip", "two: --a and --b", "or --blend with two prompts")
    if args.blend and not args.a and not args.size:
        raise bad("--size", "none for a blend of prompts", "WIDTHxHEIGHT in pixels")
    paths = capability.outputs(args, args.frames if args.blend else args.frames + 2,
                               args.fps or 8.0)  # fmt: skip
    settings.sampler(args)
    model = capability.load_model(args)
    made = _blend(args, model) if args.blend else _join(args, model)
    capability.write(args, model, made, paths)
    return 0


def _join(args: argparse.Namespace, model: "Model") -> list["Made"]:
    from vidsim.cli.progress import stages
    from vidsim.generate.join import join
    from vidsim.generate.sample import lay_out

    a = capability.read(args, model, args.a)
    args.fps = args.fps or (None if a.still else a.fps)
    b = capability.read(args, model, args.b)
    asked = capability.requests(args, a.size, args.fps or 8.0)
    lay_out(model, asked[:1])
    with stages("join") as show:
        return join(model, a.video_THWC, b.video_THWC, asked, args.frames,
                    settings.sampler(args), capability.window(args), show,
                    args.prompt_b or None)  # fmt: skip


def _blend(args: argparse.Namespace, model: "Model") -> list["Made"]:
    from vidsim.cli.progress import stages
    from vidsim.generate.join import blend_clips, blend_prompts
    from vidsim.generate.sample import lay_out

    config = settings.sampler(args)
    if args.a is None:
        size = capability.size_of(args.size)
        assert size is not None
        asked = capability.requests(args, size, args.fps or 8.0, args.frames)
        lay_out(model, asked)
        with stages("blend") as show:
            return blend_prompts(model, asked, args.prompt_b, config, show)
    a = capability.read(args, model, args.a)
    args.fps = args.fps or (None if a.still else a.fps)
    b = capability.read(args, model, args.b)
    asked = capability.requests(args, a.size, args.fps or 8.0, args.frames)
    lay_out(model, asked)
    with stages("blend") as show:
        return blend_clips(model, a.video_THWC, b.video_THWC, asked, args.prompt_b, args.strength,
                           config, show)  # fmt: skip
