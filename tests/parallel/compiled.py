"""Reads a compiled program: every result a device holds, and what its collectives bring in."""

import math
import re
from typing import NamedTuple

RESULT = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.+?) ([\w\-]+)\(")
SHAPE = re.compile(r"\b(?:pred|[suf]\d+|bf16)\[([\d,]*)\]")
GATHERS = ("all-gather", "all-to-all", "collective-permute", "all-gather-start")


class Result(NamedTuple):
    """One array that an instruction makes on one device."""

    kind: str
    dims: tuple[int, ...]
    source: str

    @property
    def size(self):
        return math.prod(self.dims)


def results(text):
    """Every array of every instruction of the per-device program."""
    found = []
    for line in text.splitlines():
        match = RESULT.match(line)
        if match is None:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        for dims in SHAPE.findall(match[1]):
            shape = tuple(int(n) for n in dims.split(",")) if dims else ()
            found.append(Result(match[2], shape, name[1] if name else ""))
    return found


def gathered(text):
    """What collectives bring together, largest first."""
    chosen = [r for r in results(text) if r.kind in GATHERS]
    return sorted(chosen, key=lambda r: -r.size)


def holding(text, sizes):
    """Results with an axis of one of these sizes."""
    return [r for r in results(text) if set(r.dims) & set(sizes)]
