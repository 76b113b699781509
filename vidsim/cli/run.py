"""`vidsim run`: another vidsim command, started again for as long as that can help."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--restarts", type=int, required=True, help="starts after the first; 0 and more")
    add("--grace", type=float, default=120.0, help="seconds from SIGTERM to SIGKILL")
    add("--ledger", help="file; by default goodput.jsonl in the --workdir of the command")
    add("--announce", action="store_true", help="tell the other hosts of a final end (ended.json)")
    add("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="e.g. -- train --config=...")


def run(args: argparse.Namespace) -> int:
    """Starts the command, passes signals on, restarts it, keeps the ledger; its last exit code."""
    from pathlib import Path

    from vidsim.cli.main import COMMANDS
    from vidsim.core.errors import bad, nearest
    from vidsim.launch.group import vidsim_command
    from vidsim.launch.ledger import Ledger
    from vidsim.launch.supervise import Board, Patience, first_host, supervise

    words = args.words[1:] if args.words[:1] == ["--"] else list(args.words)
    if not words or words[0] not in COMMANDS or words[0] == "run":
        name = words[0] if words else ""
        raise bad("run", f"command {name!r}", nearest(name, set(COMMANDS) - {"run"}),
                  "vidsim run --restarts N -- train ...")  # fmt: skip
    workdir = _option(words, "--workdir")
    if workdir is None and (args.ledger or args.announce):
        raise bad("run", f"{words[0]} without --workdir", "a command with one",
                  "leave out --ledger and --announce")  # fmt: skip
    ledger = board = None
    if workdir is not None:
        folder = Path(workdir)
        board = Board(folder) if args.announce else None
        if first_host():
            ledger = Ledger(folder, Path(args.ledger) if args.ledger else None)
    return supervise(
        lambda: [vidsim_command(words)], Patience(args.restarts, args.grace),
        ledger=ledger, board=board, say=lambda line: print(f"vidsim run: {line}", flush=True),
    )  # fmt: skip


def _option(words: list[str], name: str) -> str | None:
    """Value of an option among the words of a command."""
    for i, word in enumerate(words):
        if word == name and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
