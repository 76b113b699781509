"""`vidsim scaling`: members of a family at multiples of compute, trained and compared."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--presets", default="base,4x,16x",
        help="two or more of base, 2x, 4x, 8x, 16x, 32x; those between them are trained along for "
        "the fit (default base,4x,16x)")  # fmt: skip
    add("--family", default="laptop",
        help="laptop or gpu, on the embedded shapes world (default laptop)")  # fmt: skip
    add("--workdir", required=True,
        help="folder of everything it makes; the same command goes on where it stopped, and "
        "several processes may share it")  # fmt: skip
    add("--by", default="steps",
        help="steps: one model, branched and cooled down; size: separate models "
        "(default steps)")  # fmt: skip
    add("--seeds", type=int, default=3,
        help="of the members up to 4x; larger ones have one (default 3)")  # fmt: skip
    add("--sweep", action="store_true",
        help="with --by size: the learning rate is swept at the smallest and the largest member, "
        "which costs three times both or more")  # fmt: skip
    add("--debug", action="store_true", help="the same road in minutes; little is learnt")


def run(args: argparse.Namespace) -> int:
    """Trains what is missing, measures, writes scaling.json and report.html."""
    from vidsim.cli.progress import counter, stages
    from vidsim.scaling.run import make_comparison, run_comparison

    presets = [name.strip() for name in args.presets.split(",") if name.strip()]
    what, protocol = make_comparison(
        args.family, presets, args.by, args.seeds, args.debug, args.sweep
    )
    page = run_comparison(what, protocol, args.workdir, lambda line: print(line, flush=True),
                          counter, stages)  # fmt: skip
    if page is not None:
        print(f"page: {page}")
    return 0
