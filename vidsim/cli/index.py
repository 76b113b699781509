"""`vidsim index`: every clip of a source, listed once."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("src", help="folder, manifest (.jsonl .csv .parquet), tfds:NAME[:SPLIT] "
                        "or world:shapes?size=1000")  # fmt: skip
    parser.add_argument("--out", required=True, help="the index, NAME.parquet")
    parser.add_argument("--min-frames", type=int, default=1, help="leave out shorter clips")
    parser.add_argument("--min-side", type=int, default=1, help="leave out smaller frames, pixels")
    parser.add_argument("--max-s", type=float, default=0.0, help="leave out longer clips, seconds")
    parser.add_argument("--require-caption", action="store_true", help="leave out silent clips")
    parser.add_argument("--workers", type=int, default=2, help="threads that examine media")


def run(args: argparse.Namespace) -> int:
    """Builds the index and prints its report."""
    from vidsim.cli.progress import counter
    from vidsim.data.index import IndexConfig, build_index

    rules = IndexConfig(args.min_frames, args.min_side, args.max_s, args.require_caption)
    with counter("index", "clips") as show:
        report = build_index(
            args.src, args.out, rules, workers=args.workers,
            progress=lambda done, bad_clips: show(done, None, bad_clips=bad_clips),
        )  # fmt: skip
    print("\n".join(report.lines()))
    return 0
