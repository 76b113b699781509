"""`vidsim quickstart`: the whole road on embedded data, to a score table and a page."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--workdir", default="runs/quickstart", help="folder of everything it makes"
    )
    parser.add_argument("--minutes", type=float, default=15.0,
                        help="about how long on this machine; less trains less")  # fmt: skip
    parser.add_argument("--require", action="append", default=[], metavar="METRIC>=X",
                        help="exit 1 unless it holds, e.g. prompts/colour>=0.9")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Trains, samples, scores, writes report.html; the same command goes on where it stopped."""
    from vidsim.cli.progress import counter, stages
    from vidsim.core.exits import DONE, REQUIREMENT_FAILED
    from vidsim.quickstart import Quickstart

    road = Quickstart(args.workdir, args.minutes, lambda line: print(line, flush=True), counter)
    road.run()
    return DONE if road.score(args.require, stages) else REQUIREMENT_FAILED
