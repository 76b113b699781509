"""`vidsim gallery`: one page with an example of everything a model does."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--ckpt", required=True, help="work directory, exported folder, or demo")
    parser.add_argument("--out", required=True, help="folder for samples and report.html")
    parser.add_argument("settings", nargs="*", metavar="a.b=value",
                        help="of the gallery, e.g. size=48,48 sampler.steps=10")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Makes the examples and the page."""
    from dataclasses import asdict

    from vidsim.cli.progress import stages
    from vidsim.config import from_dict, override
    from vidsim.eval.gallery import GalleryConfig, gallery
    from vidsim.eval.result import save_result
    from vidsim.eval.runner import REPORT, check_out, page_facts, run_facts, write_report
    from vidsim.generate.model import load

    config = from_dict(GalleryConfig, override({}, args.settings), "gallery")
    folder = check_out(args.out, "gallery")
    model = load(args.ckpt)
    with stages("gallery") as show:
        result = gallery(model, config, show)
    facts = run_facts(model, asdict(config))
    saved = save_result(folder, result, facts)
    page = write_report(folder / REPORT, "vidsim gallery", str(args.ckpt), [saved],
                        facts=page_facts(facts))  # fmt: skip
    print(page)
    return 0
