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


def bench_prototype(args: argparse.Namespace) -> tuple[str, dict[str, Any], bool]:
    """How alike a prototype and its full size are, with and without shared noise; passed when a
    shared seed beats another one beyond doubt."""
    from vidsim.core.errors import bad
    from vidsim.eval.stats import paired_bootstrap
    from vidsim.generate.bench_prototype import measure
    from vidsim.generate.model import load
    from vidsim.generate.sample import SamplerConfig

    if not args.ckpt:
        raise bad("bench prototype", "no model", "--ckpt, a trained denoiser")
    model = load(args.ckpt)
    lines = [f"{'noise':<10}{'same seed':>12}{'other seed':>12}{'difference':>14}   95% interval"]
    data: dict[str, Any] = {"requests": args.requests, **model.facts}
    passed = False
    for noise in ("shared", "token"):
        config = SamplerConfig("euler", 16, noise=noise)
        made = measure(model, _prompts(args.requests), config, (48, 48), 2)
        gap = paired_bootstrap(made.same, made.other)
        data[noise] = {"same": made.same.tolist(), "other": made.other.tolist(),
                       "difference": [gap.value, gap.low, gap.high]}  # fmt: skip
        lines.append(f"{noise:<10}{made.same.mean():>12.2f}{made.other.mean():>12.2f}"
                     f"{gap.value:>14.2f}   {gap.low:.2f} to {gap.high:.2f}")  # fmt: skip
        passed |= noise == "shared" and gap.high < 0.0
    lines.append(f"mean absolute pixel difference of 255 between a 48x48 prototype and the 96x96 "
                 f"picture averaged down to it; n = {args.requests} prompts")  # fmt: skip
    return "\n".join(lines), data, passed


def _prompts(count: int) -> list[str]:
    """Captions of the shapes world that leave places and sizes open."""
    colours, shapes = ("orange", "green", "red", "black", "white", "cyan"), ("star", "square")
    grounds = ("mauve", "sand", "clay", "slate")
    return [
        f"a {colours[i % 6]} {shapes[i // 6 % 2]}, plain {grounds[i % 4]} background"
        for i in range(count)
    ]
