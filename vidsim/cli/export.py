"""`vidsim export`: a trained model as one folder of bfloat16 weights with a model card."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--ckpt", required=True, help="work directory of a denoiser")
    parser.add_argument("--out", required=True, help="new folder; --ckpt takes it")
    parser.add_argument("--name", help="of the model, on its card (default: the folder's)")
    parser.add_argument("--step", type=int, help="checkpoint; the newest whole one by default")
    parser.add_argument("--raw", action="store_true", help="the weights, not their average")
    parser.add_argument("--decoder", metavar="DIR", default="", help="another decoder of the same "
                        "latents: a VAE trained with autoencoding.learn=decoder")  # fmt: skip
    parser.add_argument("--vae-run", metavar="DIR", help="work directory of the VAE's training, "
                        "for the card")  # fmt: skip
    parser.add_argument("--scores", action="append", default=[], metavar="DIR",
                        help="results of vidsim eval on this model, for the card; may be given "
                        "several times")  # fmt: skip
    parser.add_argument("--license", metavar="SPDX", help="writes a model card under this licence")
    parser.add_argument("--max-mb", type=float, help="refuse weights of more million bytes")


def run(args: argparse.Namespace) -> int:
    """Rounds, describes and writes the model."""
    import pathlib

    from vidsim.core.errors import bad
    from vidsim.eval.card import card_facts, card_text, training_history
    from vidsim.eval.result import load_result
    from vidsim.generate.export import export, num_bytes, rounded

    if args.license is None and (args.scores or args.vae_run):
        raise bad("--license", "none, so there is no card for the scores", "e.g. Apache-2.0")
    results = [load_result(folder) for folder in args.scores]
    model = rounded(args.ckpt, args.step, not args.raw, args.decoder)
    facts, card = {}, ""
    if args.license is not None:
        name = args.name or pathlib.Path(args.out).name
        training = training_history(args.vae_run, "autoencoder") if args.vae_run else {}
        training |= training_history(args.ckpt)
        facts = card_facts(name, args.license, model, training, results)
        card = card_text(facts, results)
    path = export(model, args.out, facts, card, args.max_mb)
    print(f"{path}: {num_bytes(model) / 1e6:.2f} MB of weights in bfloat16, weights "
          f"{model.weights_id}")  # fmt: skip
    return 0
