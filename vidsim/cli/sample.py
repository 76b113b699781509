"""`vidsim sample`: text to video or image files."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--ckpt", required=True, help="work directory of a denoiser")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="what the clip shows")
    what.add_argument("--prompts", metavar="FILE",
                      help="a prompt a line, or JSON lines")  # fmt: skip
    parser.add_argument(
        "--size", default="64x64", metavar="WxH", help="pixels, on the model's grid"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="1 makes an image (default 9)")
    length.add_argument("--seconds", type=float, help="duration at --fps")
    parser.add_argument("--fps", type=float, default=8.0, help="frames a second")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same clip")
    parser.add_argument("--steps", type=int, default=20, help="steps of the solver")
    parser.add_argument("--guidance", type=float, default=3.0, help="1 switches guidance off")
    parser.add_argument("--solver", default="heun", help="euler, heun, ...")
    parser.add_argument("--negative", default="", help="what to lead away from")
    parser.add_argument("--out", required=True,
                        help="NAME.mp4 .webm .mkv .gif or .png; with --prompts a name whose stem "
                        "gets a number")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Makes the clips and writes them; everything is checked before anything is compiled."""
    from vidsim.cli.progress import stages
    from vidsim.cli.prompts import numbered, read_requests
    from vidsim.diffusion.guidance import GuidanceConfig
    from vidsim.generate.model import load
    from vidsim.generate.sample import SamplerConfig, lay_out, sample
    from vidsim.generate.write import check_media, write_media

    requests = read_requests(args)
    paths = [args.out] if args.prompts is None else numbered(args.out, len(requests))
    for path, request in zip(paths, requests, strict=True):
        check_media(path, request.num_frames, request.fps)
    config = SamplerConfig(args.solver, args.steps, GuidanceConfig(args.guidance))
    model = load(args.ckpt)
    lay_out(model, requests)
    with stages("sample") as show:
        videos = sample(model, requests, config, show)
    for path, video in zip(paths, videos, strict=True):
        request = video.request
        facts = {
            "prompt": request.prompt, "negative": request.negative, "seed": request.seed,
            "size": f"{request.width}x{request.height}", "frames": request.num_frames,
            "fps": request.fps, "steps": args.steps, "guidance": args.guidance,
            "solver": args.solver, **{k: str(v) for k, v in model.facts.items()},
        }  # fmt: skip
        written = write_media(path, video.video_THWC, video.fps, facts)
        print("\n".join([str(written.path), *written.notices]))
    return 0
