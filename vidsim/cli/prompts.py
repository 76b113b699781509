"""Requests from the command line or from a file of prompts."""

import argparse
import json
import pathlib
import re
from typing import Any

from vidsim.core.errors import bad, nearest
from vidsim.generate.pack import Request

_SIZE = re.compile(r"^(\d+)x(\d+)$")
KEYS = ("prompt", "size", "frames", "seconds", "fps", "seed", "negative")


def read_requests(args: argparse.Namespace) -> list[Request]:
    """The request of --prompt, or those of the lines of --prompts; options fill what lines lack."""
    common = {name: getattr(args, name) for name in KEYS[1:]}
    if args.prompts is None:
        return [_request({**common, "prompt": args.prompt}, "--prompt")]
    path = pathlib.Path(args.prompts)
    if not path.is_file():
        raise bad("--prompts", f"no file {path}", "a prompt a line, or JSON lines")
    requests: list[Request] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            where = f"{path.name} line {number}"
            own = {"seed": args.seed + len(requests), **_line(line.strip(), where)}
            duration = {k for k in ("frames", "seconds") if k in own}
            base = {k: None if duration and k in ("frames", "seconds") else v
                    for k, v in common.items()}  # fmt: skip
            requests.append(_request({**base, **own}, where))
    if not requests:
        raise bad("--prompts", f"{path} has no prompts", "a prompt a line")
    return requests


def numbered(out: str, count: int) -> list[str]:
    """NAME-001.mp4, NAME-002.mp4, ... beside `out`."""
    path = pathlib.Path(out)
    digits = max(3, len(str(count)))
    return [str(path.with_name(f"{path.stem}-{i:0{digits}d}{path.suffix}"))
            for i in range(1, count + 1)]  # fmt: skip


def _line(line: str, where: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"prompt": line}
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise bad(where, f"not JSON ({error.msg})", 'a prompt, or {"prompt": ..., ...}') from None
    for key in found:
        if key not in KEYS:
            raise bad(where, f"unknown key {key!r}", nearest(key, KEYS))
    if "prompt" not in found:
        raise bad(where, "no prompt", 'a key "prompt"')
    return found


def _request(values: dict[str, Any], where: str) -> Request:
    match = _SIZE.match(str(values["size"]))
    if not match:
        raise bad("--size", f"{values['size']!r}", "WIDTHxHEIGHT in pixels, e.g. 96x64")
    fps = float(values["fps"])
    frames = values["frames"]
    if values["seconds"] is not None:
        frames = max(1, round(float(values["seconds"]) * fps))
    if not isinstance(values["prompt"], str):
        raise bad(where, f"prompt {values['prompt']!r}", "a text")
    return Request(
        values["prompt"], height=int(match[2]), width=int(match[1]),
        num_frames=9 if frames is None else int(frames), fps=fps, seed=int(values["seed"]),
        negative=values["negative"] or "",
    )  # fmt: skip
