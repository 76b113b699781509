"""The command `vidsim`: one subcommand a file; each file imports its heavy parts when it runs."""

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence

import vidsim
from vidsim.cli.huge_pages import ask_for_huge_pages
from vidsim.core.errors import BadInput, nearest
from vidsim.core.exits import RunEnded

COMMANDS = {
    "quickstart": "train a small VAE and denoiser on CPU, sample, score, write report.html",
    "index": "list every clip of a folder, manifest, TFDS data set or world in a Parquet index",
    "train": "train a VAE or a denoiser; the same command resumes",
    "encode": "write the latent cache of an index with a trained VAE",
    "sample": "text to video or image",
    "animate": "an image becomes the first frame of a video",
    "extend": "a video goes on, or gets a beginning",
    "loop": "seamless loops, from a clip or from a prompt alone",
    "long": "a minute and more by rolling windows; the same command goes on where it stopped",
    "join": "connect two clips, or blend two prompts or clips along time",
    "edit": "a video under a new prompt, as far from itself as --strength says",
    "eval": "score a checkpoint; table, results.json, report.html",
    "gallery": "one page with an example of everything a model does",
    "export": "a trained model as one folder of bfloat16 weights with a model card",
    "inspect": "parameters, optimizers, FLOPs and bytes of a config; row length for an index",
    "plan": "compile for a TPU slice without having one: memory, FLOPs, collectives, fits or not",
    "scaling": "train base, 4x, 16x of a family and compare them; scaling.json, report.html",
    "bench": "packing, worlds, data, vae, attention, step, sample: a table with ratios",
    "launch": "job files and commands for gcloud, gke, skypilot, slurm; local processes",
    "run": "supervises another command: restarts after crashes and preemptions, goodput ledger",
}


def entry() -> int:
    """The process `vidsim`: `main`, with memory in huge pages."""
    ask_for_huge_pages(sys.argv[1:])
    return main()


def build_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The complete parser; only the named subcommand's file is imported when argv names one."""
    parser = argparse.ArgumentParser(prog="vidsim", description=vidsim.__doc__)
    parser.add_argument("--version", action="version", version=vidsim.__version__)
    sub = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        child = sub.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if argv is None or name in argv:
            module = importlib.import_module(f"vidsim.cli.{name}")
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Exits: 0 done, 1 requirement failed, 2 bad use, 42-47 core/exits.py."""
    words = split_settings(list(sys.argv[1:] if argv is None else argv))
    _quiet()
    first = next((w for w in words if not w.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        print(f"vidsim: unknown command {first!r}; {nearest(first, COMMANDS)}", file=sys.stderr)
        return 2
    args = parse(words)
    try:
        return int(args.run(args) or 0)
    except RunEnded as end:
        print(f"vidsim {args.command}: {end}", file=sys.stderr)
        return end.code
    except BadInput as error:
        print(f"vidsim {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vidsim {args.command}: interrupted", file=sys.stderr)
        return 130


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. Settings a.b=value may stand anywhere among them, where
    argparse by itself takes only the first of several groups."""
    parser = build_parser(words)
    args, left = parser.parse_known_args(words)
    settings = getattr(args, "settings", None)
    strange = [w for w in left if settings is None or not re.match(r"[A-Za-z_][\w.]*=", w)]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if left:
        args.settings = [*settings, *left]  # type: ignore[misc]
    return args


def split_settings(words: list[str]) -> list[str]:
    """Turns --config.a.b=value and --a.b=value into the setting a.b=value; leaves the rest."""
    return [re.sub(r"^--(?:config\.(?=\w)|(?=\w+\.[\w.]*=))", "", w) for w in words]


def _quiet() -> None:
    """Keeps third-party chatter off the screen; our own progress is printed by the commands."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
