"""`vidsim plan`: would it fit a TPU slice, and how long would a step take at best?"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = (
        "Compiles the real program ahead of time with the TPU compiler of the extra `tpu`; no TPU "
        "is needed. Exits with 1 when it does not fit."
    )
    parser.add_argument("--config", metavar="FILE[:VARIANT]", required=True,
                        help="a training configuration")  # fmt: skip
    parser.add_argument("--topology", metavar="GEN:AxB[xC]", required=True,
                        help="slice, e.g. v5e:4x4, v6e:16x16, v5p:4x4x4, tpu7x:4x4x4")  # fmt: skip
    parser.add_argument("--slices", type=int, default=1, metavar="N",
                        help="slices joined by the data-centre network, along data")  # fmt: skip
    parser.add_argument("--what", default="train", metavar="PROGRAM",
                        help="train (default), sample, encode or decode")  # fmt: skip
    parser.add_argument("--search", action="store_true",
                        help="most tokens a device, cheapest remat policy that fits")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="compile with least effort: a quarter of the time, peak within a few "
                        "percent; for checks")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the plan as JSON on standard output")
    parser.add_argument("--check", metavar="FILE",
                        help="compare with a plan stored by --json; exit 1 beyond 5%%")  # fmt: skip
    parser.add_argument("--mfu", type=float, default=None, metavar="SHARE",
                        help="assumed share of the peak (default 0.4)")  # fmt: skip
    parser.add_argument("--clips", type=int, metavar="N",
                        help="assume N equal clips a row for FLOPs, in place of the cache's or the "
                        "preset family's")  # fmt: skip
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a sampling call")
    parser.add_argument("--guidance", type=float, default=None, metavar="SCALE",
                        help="of sampling (default 3); 1 halves the work")  # fmt: skip
    parser.add_argument("--size", metavar="WxH", help="pixels of one clip to sample, en- or decode")
    parser.add_argument("--frames", type=int, metavar="N", help="one clip: its frames")
    parser.add_argument("--vae", metavar="PRESET[:DTYPE]",
                        help="of a denoiser's latents, e.g. wan21:bfloat16")  # fmt: skip
    parser.add_argument("--chunk", type=int, default=1, metavar="N",
                        help="latent frames of one call of encode and decode")  # fmt: skip
    parser.add_argument("settings", nargs="*", metavar="a.b=value", help="of the configuration")


def run(args: argparse.Namespace) -> int:
    """Checks what can be checked without a compiler, then plans in a process prepared for it."""
    from vidsim.scaling.topology import environment, parse_topology, require_libtpu

    topology = parse_topology(args.topology, args.slices)
    require_libtpu()
    wanted = environment(topology, os.environ)
    if wanted != dict(os.environ):
        code = "import sys; from vidsim.cli.main import main; sys.exit(main(sys.argv[1:]))"
        words = [sys.executable, "-c", code, *words_of(args)]
        return subprocess.run(words, env=wanted).returncode
    return _plan(args, topology)


def words_of(args: argparse.Namespace) -> list[str]:
    """The command line that these arguments came from."""
    words = ["plan"]
    for name, value in vars(args).items():
        if name in ("command", "run", "settings", "version") or value is None or value is False:
            continue
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return [*words, *args.settings]


def _plan(args: argparse.Namespace, topology: Any) -> int:
    from vidsim.cli import plan_tables
    from vidsim.config import load_experiment, override
    from vidsim.runs import build_run
    from vidsim.scaling import plan, plan_compare, plan_search

    ask = plan_tables.ask_of(args)
    before = plan_compare.stored_plan(args.check) if args.check else None
    config = build_run(override(load_experiment(args.config), args.settings))
    if args.search:
        found = plan_search.search(config, topology, ask, lambda line: print(line, file=sys.stderr))
        plan_tables.show_search(found, args.json)
        return 0 if found.best else 1
    summary = plan.make_plan(config, topology, ask)
    plain = argparse.Namespace(**vars(args) | {"json": False, "check": None})
    new = summary.to_dict() | {"command": shlex.join(["vidsim", *words_of(plain)])}
    if args.json:
        print(json.dumps(new, indent=1))
    else:
        plan_tables.show(summary)
    if before is not None:
        lines = plan_compare.differences(before, new)
        print("\n".join(lines) or f"as {args.check} says", file=sys.stderr)
        return 1 if lines else 0
    return 0 if summary.fits else 1
