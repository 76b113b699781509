"""`vidsim inspect`: what a configuration or an index means, without an accelerator."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE[:VARIANT]", help="a training configuration")
    what.add_argument("--index", help="an index: recommends the row length of its packing")
    parser.add_argument("--all", action="store_true", help="every weight, not only the totals")
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="of the configuration, or of EncodeConfig with --index")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Prints tables; nothing is trained and no weight is made."""
    from rich.console import Console

    from vidsim.cli import inspection
    from vidsim.config import from_dict, load_experiment, override
    from vidsim.data.index import ClipIndex
    from vidsim.runs import build_run
    from vidsim.tasks.encoding import EncodeConfig

    console = Console()
    if args.index:
        encode = from_dict(EncodeConfig, override({}, args.settings), "encode")
        inspection.show_index(console, ClipIndex.open(args.index), encode)
    else:
        config = build_run(override(load_experiment(args.config), args.settings))
        inspection.show_run(console, config, args.all)
    return 0
