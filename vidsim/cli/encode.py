"""`vidsim encode`: an index through a trained VAE into a latent cache."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--vae", required=True, help="work directory of a VAE, or its vae/ folder")
    parser.add_argument("--index", required=True, help="the index, NAME.parquet")
    parser.add_argument(
        "--out", required=True, help="folder of the cache; completed when it exists"
    )
    parser.add_argument("--process", type=int, default=0, help="number of this process")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the shards")
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="of EncodeConfig, e.g. geometry.max_frames=33")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Says what will be written and how large it is, then writes what is missing."""
    from vidsim.cli.progress import counter
    from vidsim.config import from_dict, override
    from vidsim.core.errors import bad
    from vidsim.data.index import ClipIndex
    from vidsim.runs import encode_index
    from vidsim.tasks.encoding import EncodeConfig

    if not 0 <= args.process < args.processes:
        raise bad("--process", f"{args.process} of {args.processes}", "0 to processes - 1")
    config = from_dict(EncodeConfig, override({}, args.settings), "encode")
    with counter("encode", "pieces") as show:
        encode_index(
            ClipIndex.open(args.index), args.vae, args.out, config, say=print, progress=show,
            process=args.process, processes=args.processes,
        )  # fmt: skip
    return 0
