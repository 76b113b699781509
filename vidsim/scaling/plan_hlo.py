"""Collectives of a compiled program, read from its HLO text: what, how often, how much, over what.

Text, because that is what a compiler hands out; loops are counted as often as they run where the
text says so.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_OP = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<op>[a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9]\w*)?)\[([0-9,]*)\]")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program, as one device sees it.

    kind    one of KINDS
    bytes   of the larger side of one run: what is gathered, reduced, exchanged or passed on
    times   how often it runs
    group   devices of the first group (for a permutation, of its first pair)
    size    devices that take part together
    """

    kind: str
    bytes: int
    times: int
    group: tuple[int, ...]
    size: int

    @property
    def sent(self) -> float:
        """Bytes that a device must at least send in one run (ring of `size` devices)."""
        share = (self.size - 1) / max(self.size, 1)
        if self.kind == "all-reduce":
            return 2.0 * share * self.bytes
        whole = self.kind in ("collective-permute", "collective-broadcast")
        return float(self.bytes) if whole else share * self.bytes

    def axes(self, shape: Mapping[str, int]) -> tuple[str, ...]:
        """Mesh axes (name -> size, in the order of the mesh) along which the group lies."""
        at = np.stack(np.unravel_index(np.asarray(self.group), tuple(shape.values())))
        return tuple(name for name, line in zip(shape, at, strict=True) if len(set(line)) > 1)


@dataclasses.dataclass(frozen=True)
class Program:
    """What the text of a program holds.

    collectives    every one, inner ones of loops with the runs of their loops
    kernels        calls of hand-written kernels, loops not multiplied
    unknown_loops  loops with collectives inside whose count the text does not say (taken as one)
    """

    collectives: tuple[Collective, ...]
    kernels: int
    unknown_loops: int

    def by_kind(self) -> dict[str, dict[str, float]]:
        """kind -> count (runs), bytes and sent (bytes) of a device a step."""
        total: dict[str, dict[str, float]] = {}
        for c in self.collectives:
            row = total.setdefault(c.kind, {"count": 0, "bytes": 0, "sent": 0.0})
            row["count"] += c.times
            row["bytes"] += c.times * c.bytes
            row["sent"] += c.times * c.sent
        return dict(sorted(total.items()))

    def largest(self) -> Collective | None:
        """The one with the most bytes in one run."""
        return max(self.collectives, key=lambda c: c.bytes, default=None)


def read_hlo(text: str) -> Program:
    """Parses the text of an optimised module (`compiled.as_text()`)."""
    parts, entry = _computations(text)
    found: dict[tuple[str, int, tuple[int, ...], int], int] = collections.Counter()
    unknown = 0
    for times, unsure, name, line, op in _walk(parts, entry, 1, False):
        kind = op.removesuffix("-start")
        if kind not in KINDS:
            continue
        group, size = _group(line)
        if size < 2:
            continue
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # TPU fuses the sum with the cut
        found[kind, _payload(line, op, size), group, size] += times
        unknown += unsure
    kernels = text.count('custom_call_target="tpu_custom_call"')
    rows = (Collective(k, b, n, g, s) for (k, b, g, s), n in found.items())
    return Program(tuple(sorted(rows, key=lambda c: -c.bytes * c.times)), kernels, unknown)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the one that is run."""
    parts: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = head.group(2)
            parts[current] = []
            entry = current if head.group(1) else entry
        elif line.rstrip() == "}":  # not a prefix: metadata of kernels has lines that begin with }
            current = None
        elif current is not None:
            parts[current].append(line)
    return parts, entry


def _walk(
    parts: Mapping[str, list[str]], name: str, times: int, unsure: bool
) -> Iterator[tuple[int, bool, str, str, str]]:
    """(runs, whether a loop's count was guessed, computation, line, operation) of every line."""
    for line in parts.get(name, ()):
        match = _OP.match(line)
        if match is None:
            continue
        op = match.group("op")
        yield times, unsure, name, line, op
        if op == "while":
            trips = _trips(line, parts)
            inner = times * (1 if trips is None else trips)
            yield from _walk(parts, _named(line, "body"), inner, unsure or trips is None)
        elif op in ("fusion", "call", "async-start"):
            for key in ("calls", "to_apply"):
                if target := _named(line, key):
                    yield from _walk(parts, target, times, unsure)
        elif op == "conditional":
            for target in _branches(line):
                yield from _walk(parts, target, times, unsure)


def _named(line: str, key: str) -> str:
    match = re.search(rf"\b{key}=%?([\w.\-]+)", line)
    return match.group(1) if match else ""


def _branches(line: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", line)
    if listed:
        return [name.strip().lstrip("%") for name in listed.group(1).split(",")]
    return [n for key in ("true_computation", "false_computation") if (n := _named(line, key))]


def _trips(line: str, parts: Mapping[str, list[str]]) -> int | None:
    """How often a loop runs: as annotated, else the one bound that its condition compares with."""
    if known := _TRIPS.search(line):
        return int(known.group(1))
    condition = "\n".join(parts.get(_named(line, "condition"), ()))
    bounds = re.findall(r"= s32\[\]\S* constant\((\d+)\)", condition)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in condition else None


def _payload(line: str, op: str, size: int) -> int:
    """Bytes of the larger side."""
    match = _OP.match(line)
    assert match is not None
    shapes = [s for s in _SHAPE.findall(match.group("type")) if s[0] in _BITS or "e" in s[0]]
    if op == "collective-permute-start":  # (operand, result, two flags)
        shapes = [s for s in shapes if s[1]][1:2] or shapes[:1]
    elif op == "all-gather-start":  # (operands, results)
        shapes = shapes[len(shapes) // 2 :]
    total = sum(math.ceil(_count(dims) * _BITS.get(kind, 8) / 8) for kind, dims in shapes)
    return total * size if op.removesuffix("-start") == "reduce-scatter" else total


def _count(dims: str) -> int:
    return math.prod(int(n) for n in dims.split(",") if n)


def _group(line: str) -> tuple[tuple[int, ...], int]:
    """The first group and its size, from any of the four ways of writing groups."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        a, b = int(pairs.group(1)), int(pairs.group(2))
        moved = re.findall(r"\{(\d+),(\d+)\}", line.split("source_target_pairs=")[1])
        a, b = next(((int(x), int(y)) for x, y in moved if x != y), (a, b))
        return (a, b), 2 if a != b else 1
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        first = tuple(int(n) for n in listed.group(1).split(","))
        return first, len(first)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        ids = np.arange(math.prod(_ints(iota.group(3)))).reshape(_ints(iota.group(3)))
        ids = ids.transpose(_ints(iota.group(4))) if iota.group(4) else ids
        groups = ids.reshape(int(iota.group(1)), int(iota.group(2)))
        return tuple(groups[0].tolist()), groups.shape[1]
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        return _mesh_group(mesh.group(1), mesh.group(2))
    return (), 0


def _mesh_group(mesh: str, chosen: str) -> tuple[tuple[int, ...], int]:
    """mesh['a'=2,'b'=4] {'b'}: devices counted along the axes, groups along the chosen ones."""
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
    along = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", chosen)]
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    rest = [i for i in range(len(sizes)) if i not in along]
    size = math.prod(ids.shape[i] for i in along)
    groups = ids.transpose(*rest, *along).reshape(-1, size)
    return tuple(groups[0].tolist()), size


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(","))
