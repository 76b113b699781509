"""`vidsim bench sample`: (text, data for --json, passed), as the functions of cli/benches.py."""

import argparse
from dataclasses import asdict
from typing import Any


def bench_sample(args: argparse.Namespace) -> tuple[str, dict[str, Any], bool]:
    """Clips of many sizes in packs against one at a time; passed when packs are faster."""
    from vidsim.generate.bench_sample import example_model, mixed_requests, run
    from vidsim.generate.model import load
    from vidsim.generate.sample import SamplerConfig

    model = load(args.ckpt) if args.ckpt else example_model()
    made = run(model, mixed_requests(args.requests), SamplerConfig("euler", 4), args.runs)
    data = asdict(made) | {"ratio": made.ratio, "runs": args.runs, **model.facts}
    return made.table(), data, made.ratio > 1.0
