"""`vidsim bench`: speed with something to compare it to."""

import argparse

NAMES = ("packing", "worlds", "data", "vae", "attention", "step", "sample", "prototype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--clips", type=int, default=200_000, help="packing: clips planned")
    parser.add_argument("--sweep", action="store_true", help="packing: fill for 64K to 256K rows")
    parser.add_argument("--long", choices=("truncate", "split"), default="truncate",
                        help="packing: clips over the frame limit")  # fmt: skip
    parser.add_argument("--index", help="data: an index (default: the shapes world)")
    parser.add_argument("--runs", type=int, default=10, help="repetitions of what is timed")
    parser.add_argument("--tokens", type=int, default=16_384, help="attention: tokens of the row")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="attention: of queries, keys and values")  # fmt: skip
    parser.add_argument("--ckpt", help="sample, prototype: a denoiser (sample: or "
                        "random weights)")  # fmt: skip
    parser.add_argument("--requests", type=int, default=24, help="sample, prototype: clips")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 when a target that a bench has is missed."""
    import json
    import pathlib

    from vidsim.cli import benches, benches_sample

    home = benches_sample if args.name in ("sample", "prototype") else benches
    text, data, passed = getattr(home, f"bench_{args.name}")(args)
    print(text)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(data, indent=1, default=str) + "\n")
    return 0 if passed else 1
