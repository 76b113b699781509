"""Settings of `vidsim sample`: options over those of a file (--like) over defaults; and back."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from vidsim.core.errors import bad

if TYPE_CHECKING:
    from vidsim.generate.model import Model
    from vidsim.generate.pack import Request
    from vidsim.generate.sample import SamplerConfig

# What an option is when neither the command line nor a file says; its type is that of the value.
DEFAULTS: dict[str, Any] = {
    "size": "64x64", "fps": 8.0, "seed": 0, "steps": 20, "guidance": 3.0, "guidance_range": "0:1",
    "rescale": 0.0, "solver": "heun", "sde": 1.0, "noise": "shared", "negative": "",
}  # fmt: skip
SAMPLER = ("steps", "guidance", "guidance_range", "rescale", "solver", "sde", "noise")
OTHERS = {"prompt": "", "frames": 0, "variations": 0}  # only types: without them nothing is assumed
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
FRAMES = 9

_RANGE = re.compile(r"^(\d*\.?\d+):(\d*\.?\d+)$")


def settle(args: argparse.Namespace) -> dict[str, Any]:
    """Fills what the command line leaves open. Returns the facts of the --like file, {} without.

    Raises  BadInput for neither a prompt nor a file, a file from elsewhere, settings of other kinds
    """
    facts = _read(args.like) if args.like else {}
    if args.prompts is None and args.prompt is None and "prompt" not in facts:
        raise bad("sample", "nothing to make", "--prompt, --prompts or --like")
    for name in (*DEFAULTS, "prompt", "variations"):
        if getattr(args, name) is None:
            setattr(args, name, facts.get(name, DEFAULTS.get(name)))
    if args.frames is None and args.seconds is None:
        still = str(args.out).lower().endswith(IMAGE_ENDINGS)
        args.frames = facts.get("frames", 1 if still else FRAMES)
    args.step = None
    if args.ckpt is None:
        if not isinstance(facts.get("checkpoint"), str):
            raise bad("sample", "no checkpoint", "--ckpt")
        args.ckpt, step = facts["checkpoint"], facts.get("step")
        args.step = step if isinstance(step, int) else None
    return facts


def _read(path: str) -> dict[str, Any]:
    from vidsim.generate.provenance import read_settings

    facts = read_settings(path)
    if facts.get("command") != "sample":
        by = facts.get("command", facts.get("capability"))
        raise bad("--like", f"{path} was made by vidsim {by}",
                  "a file of vidsim sample")  # fmt: skip
    for name, example in {**DEFAULTS, **OTHERS}.items():
        if name in facts:
            kind = (int, float) if isinstance(example, float) else type(example)
            if not isinstance(facts[name], kind) or isinstance(facts[name], bool):
                raise bad("--like", f"{path}: {name} is {facts[name]!r}",
                          f"like {example!r}")  # fmt: skip
    return facts


def sampler(args: argparse.Namespace) -> "SamplerConfig":
    """The sampler of settled options."""
    from vidsim.diffusion.guidance import GuidanceConfig
    from vidsim.generate.sample import SamplerConfig

    match = _RANGE.match(args.guidance_range)
    if not match:
        raise bad("--guidance-range", repr(args.guidance_range), "LOW:HIGH noise times, e.g. 0.2:1")
    low, high = float(match[1]), float(match[2])
    guidance = GuidanceConfig(args.guidance, low, high, args.rescale)
    return SamplerConfig(args.solver, args.steps, guidance, args.noise, args.sde)


def facts_of(args: argparse.Namespace, request: "Request", model: "Model") -> dict[str, Any]:
    """What is written into a file, so that --like makes the same again."""
    return {
        "command": "sample", "prompt": request.prompt, "negative": request.negative,
        "seed": request.seed, "size": f"{request.width}x{request.height}",
        "frames": request.num_frames, "fps": request.fps,
        **{name: getattr(args, name) for name in SAMPLER}, **model.facts,
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
