"""Settings of whatever samples: options over those of a file (--like) over defaults; and back."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidsim.core.errors import bad

if TYPE_CHECKING:
    from vidsim.generate.model import Model
    from vidsim.generate.pack import Request
    from vidsim.generate.sample import SamplerConfig

# What an option is when neither the command line nor a file says; its type is that of the value.
SAMPLING: dict[str, Any] = {
    "steps": 20, "guidance": 3.0, "guidance_range": "0:1", "rescale": 0.0, "solver": "heun",
    "sde": 1.0, "noise": "shared",
}  # fmt: skip
DEFAULTS: dict[str, Any] = {"size": "64x64", "fps": 8.0, "seed": 0, **SAMPLING, "negative": ""}
OTHERS = {"prompt": "", "frames": 0, "variations": 0}  # only types: without them nothing is assumed
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
FRAMES = 9

_RANGE = re.compile(r"^(\d*\.?\d+):(\d*\.?\d+)$")


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """The options of the one sampler. None stands for "not said"."""
    parser.add_argument("--negative", help="what to lead away from")
    parser.add_argument("--cut-prompt", action="store_true",
                        help="cut prompts that are too long instead of refusing them")  # fmt: skip
    parser.add_argument("--seed", type=int, help="same seed, same clip (default 0)")
    parser.add_argument("--steps", type=int, help="steps of the solver (default 20)")
    parser.add_argument("--guidance", type=float, help="1 switches it off (default 3; 1 of "
                        "animate, extend, join and loop)")  # fmt: skip
    parser.add_argument("--guidance-range", "--guidance-interval", metavar="LOW:HIGH",
                        help="noise times at which to guide (default 0:1, all)")  # fmt: skip
    parser.add_argument("--rescale", type=float,
                        help="0..1, pulls the spread of guided clips back (default 0)")  # fmt: skip
    parser.add_argument("--solver", help="euler, heun, dpm++2m, unipc, unipc-bh1, or with fresh "
                        "noise at each step sde-euler, sde-dpm++2m (default heun)")  # fmt: skip
    parser.add_argument("--sde", type=float, help="0..1, strength of that noise (default 1)")
    parser.add_argument("--noise", help="shared: a seed has one layout at all sizes; token: each "
                        "size its own (default shared)")  # fmt: skip


def settle(args: argparse.Namespace) -> dict[str, Any]:
    """Fills what `vidsim sample` leaves open. Returns the facts of the --like file, {} without.

    Raises  BadInput for neither a prompt nor a file, a file from elsewhere, settings of other kinds
    """
    facts = read_like(args.like, ("sample",)) if args.like else {}
    if args.prompts is None and args.prompt is None and "prompt" not in facts:
        raise bad("sample", "nothing to make", "--prompt, --prompts or --like")
    fill(args, facts, {**DEFAULTS, "prompt": None, "variations": None})
    if args.frames is None and args.seconds is None:
        still = str(args.out).lower().endswith(IMAGE_ENDINGS)
        args.frames = facts.get("frames", 1 if still else FRAMES)
    fill_checkpoint(args, facts)
    return facts


def fill(
    args: argparse.Namespace, facts: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:  # fmt: skip
    """Gives every option that was not said its value from a file, or else its default."""
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, facts.get(name, default))


def fill_checkpoint(args: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    """The checkpoint of a file where none is named. Raises BadInput when there is neither."""
    args.step = None
    if args.ckpt is None:
        if not isinstance(facts.get("checkpoint"), str):
            raise bad(args.command, "no checkpoint", "--ckpt")
        args.ckpt, step = facts["checkpoint"], facts.get("step")
        args.step = step if isinstance(step, int) else None


def read_like(path: str, commands: Sequence[str]) -> dict[str, Any]:
    """The facts of a file of one of these commands. Raises BadInput for any other file."""
    from vidsim.generate.provenance import read_settings

    facts = read_settings(path)
    if facts.get("command") not in commands:
        by = facts.get("command", facts.get("capability"))
        raise bad("--like", f"{path} was made by vidsim {by}",
                  f"a file of vidsim {' or '.join(commands)}")  # fmt: skip
    check_kinds(path, facts, {**DEFAULTS, **OTHERS})
    return facts


def check_kinds(path: str, facts: Mapping[str, Any], examples: Mapping[str, Any]) -> None:
    """Raises BadInput when a setting of a file is of another kind than its example."""
    for name, example in examples.items():
        value = facts.get(name)
        if example is None or value is None:
            continue
        kind = (int, float) if isinstance(example, float) else type(example)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(example, bool):
            raise bad("--like", f"{path}: {name} is {value!r}", f"like {example!r}")


def sampler(args: argparse.Namespace) -> "SamplerConfig":
    """The sampler of settled options. Raises BadInput for options that exclude each other."""
    from vidsim.diffusion.guidance import GuidanceConfig
    from vidsim.generate.sample import SamplerConfig, check_negative

    match = _RANGE.match(args.guidance_range)
    if not match:
        raise bad("--guidance-range", repr(args.guidance_range), "LOW:HIGH noise times, e.g. 0.2:1")
    low, high = float(match[1]), float(match[2])
    guidance = GuidanceConfig(args.guidance, low, high, args.rescale)
    check_negative(args.negative, guidance)
    return SamplerConfig(args.solver, args.steps, guidance, args.noise, args.sde)


def facts_of(args: argparse.Namespace, request: "Request", model: "Model") -> dict[str, Any]:
    """What is written into a file, so that --like makes the same again."""
    return {
        "command": "sample", "prompt": request.prompt, "negative": request.negative,
        "seed": request.seed, "size": f"{request.width}x{request.height}",
        "frames": request.num_frames, "fps": request.fps,
        **{name: getattr(args, name) for name in SAMPLING}, **model.facts,
    }  # fmt: skip


def compare(args: argparse.Namespace, facts: dict[str, Any], model: "Model") -> list[str]:
    """Lines on what keeps a --like from being the same video.

    Raises  BadInput when the file names its checkpoint, which now holds other weights
    """
    import vidsim

    lines = []
    then, now = facts.get("weights_id"), model.facts.get("weights_id")
    if facts and then != now:
        if args.step is not None:
            raise bad("--like", f"{args.like} was made with weights {then}",
                      f"{args.ckpt} at step {args.step} holds {now}",
                      "name a checkpoint with --ckpt")  # fmt: skip
        lines.append(f"{args.like} was made with weights {then}, these are {now}: it will differ")
    if facts and facts["vidsim"] != vidsim.__version__:
        lines.append(f"{args.like} was made by vidsim {facts['vidsim']}: it may differ")
    return lines
