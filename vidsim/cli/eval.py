"""`vidsim eval`: scores of a checkpoint on the screen and on a page."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--ckpt", required=True, help="work directory; for suite vae also a VAE's")
    parser.add_argument("--suite", required=True, help="vae, loss, prompts, capabilities or "
                        "retrieval")  # fmt: skip
    parser.add_argument("--out", required=True, help="folder for results.json and report.html")
    parser.add_argument("--step", type=int, help="checkpoint; the newest whole one by default")
    parser.add_argument("--raw", action="store_true", help="the weights, not their average")
    parser.add_argument("--require", action="append", default=[], metavar="METRIC>=X",
                        help="exit 1 unless it holds; may be given several times")  # fmt: skip
    parser.add_argument("--markdown", action="store_true",
                        help="print the table as Markdown, for a README")  # fmt: skip
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="of the suite, e.g. prompts=64 sampler.steps=10")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 when a requirement is not met."""
    from vidsim.cli.progress import stages
    from vidsim.config import override
    from vidsim.core.exits import DONE, REQUIREMENT_FAILED
    from vidsim.eval.markdown import markdown_table
    from vidsim.eval.runner import evaluate, show
    from vidsim.eval.score import verdict_line

    with stages(f"eval {args.suite}") as progress:
        saved = evaluate(
            args.suite, args.ckpt, args.out, override({}, args.settings), step=args.step,
            ema=not args.raw, requirements=args.require, progress=progress,
        )  # fmt: skip
    if args.markdown:
        print("\n".join(markdown_table(saved)))
        for outcome in saved.outcomes:
            print(verdict_line(outcome))
    else:
        show([saved])
    return DONE if all(o.passed for o in saved.outcomes) else REQUIREMENT_FAILED
