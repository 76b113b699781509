"""A supervisor as a process of its own, so that tests can send it signals."""

import argparse
import pathlib
import sys

from vidsim.launch.group import Command
from vidsim.launch.ledger import Ledger
from vidsim.launch.supervise import Board, Patience, supervise

FAKE = pathlib.Path(__file__).with_name("fake_run.py")


def fake(folder, plan, *words):
    """The command of one fake run."""
    return Command([sys.executable, str(FAKE), str(folder), "--plan", plan, *words])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--grace_s", type=float, default=5.0)
    args = parser.parse_args()
    patience = Patience(9, grace_s=args.grace_s, delay_s=0.01)
    command = fake(args.folder, args.plan)
    code = supervise(
        lambda: [command], patience, ledger=Ledger(args.folder), board=Board(args.folder),
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    sys.exit(code)
