"""`vidsim train`: a configuration to a work directory; the same command resumes."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]",
                        help="experiments/NAME.py[:variant], or a config.json")  # fmt: skip
    parser.add_argument(
        "--workdir", required=True, help="folder of the run; resumed when it exists"
    )
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="replaces a setting; also --config.a.b=value")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Trains to the end of the configuration, or from where the work directory stands."""
    from vidsim.config import load_experiment, override
    from vidsim.runs import build_run, run_training

    data = override(load_experiment(args.config), args.settings)
    run_training(build_run(data), args.workdir)
    return 0
