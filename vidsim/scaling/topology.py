"""TPU slices by name, what their chips can do, and devices to compile for without having one.

The compiler of `libtpu` (extra `tpu`) describes a slice on any Linux x86-64 machine, if the process
started with `ENVIRONMENT` set before jax was imported.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vidsim.core.errors import bad
from vidsim.core.peaks import TPU_CHIP_FLOPS as FLOPS

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # asks no metadata server, which exists on TPU machines only
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",  # arrays, of which there are none, would live here
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process otherwise dies over a lock file
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# libtpu 0.0.42.1 aborts while it compiles reductions for the sparse cores of tpu7x ahead of time
# (offload_collective_strategies.cc: inc < core_count()): there they stay on the tensor cores.
COMPILER_FLAGS = {
    "tpu7x": " ".join(
        f"--xla_tpu_enable_sparse_core_collective_offload_{name}=false"
        for name in ("all_reduce", "reduce_scatter", "all_gather")
    )
}
GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation.

    name               as libtpu and jax know it
    devices            jax devices a chip
    flops              peak bfloat16 operations a second of a chip
    hbm_bytes          memory of a chip as published
    usable_bytes       of it, what the compiler of the pinned libtpu lets a program use
    hbm_bytes_per_s    its bandwidth
    ici_bytes_per_s    of all links between chips together, in one direction
    dcn_bytes_per_s    of a chip's share of the data-centre network
    shapes             the slices that exist, smallest first (chips along each axis)
    cubes              whether any A <= B <= C, all multiples of 4, up to the last shape exists too
    """

    name: str
    devices: int
    flops: float
    hbm_bytes: int
    usable_bytes: int
    hbm_bytes_per_s: float
    ici_bytes_per_s: float
    dcn_bytes_per_s: float
    shapes: tuple[tuple[int, ...], ...]
    cubes: bool


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, shape.split("x"))) for shape in text.split())


_FLAT = _shapes("1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16")
_DEEP = _shapes("2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24")
# Read on 2026-11-21. ICI is published for both directions together, so half of it counts here;
# DCN is published in bits, for v5e by the pod of 256 chips (6.4 Tbit/s).
# v5e    https://docs.cloud.google.com/tpu/docs/v5e
# v5p    https://docs.cloud.google.com/tpu/docs/v5p
# v6e    https://docs.cloud.google.com/tpu/docs/v6e
# tpu7x  https://docs.cloud.google.com/tpu/docs/tpu7x (the Ironwood generation)
# `usable_bytes` is what libtpu 0.0.42.1 says when it refuses a program ("exceeds available HBM").
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v5e", 1, FLOPS["v5e"], 16 * GIB, int(15.75 * GIB), 819 * GB, 200 * GB, 3.125 * GB,
             _FLAT, False),
        Chip("v5p", 1, FLOPS["v5p"], 95 * GIB, int(95.74 * GIB), 2765 * GB, 600 * GB, 6.25 * GB,
             _DEEP, True),
        Chip("v6e", 1, FLOPS["v6e"], 32 * GIB, int(31.25 * GIB), 1638 * GB, 400 * GB, 12.5 * GB,
             _FLAT, False),
        Chip("tpu7x", 2, FLOPS["tpu7x"], 192 * GIB, int(189.5 * GIB), 7380 * GB, 600 * GB,
             12.5 * GB, _DEEP, True),
    )
}  # fmt: skip
ALIASES = {"trillium": "v6e", "ironwood": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one shape, joined by the data-centre network where there are several."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """As written: v5p:4x4x4."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """In all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """As jax counts them, in all slices."""
        return self.chips * self.chip.devices

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Axes whose ends are joined: all of a slice of whole cubes, 16 chips of a flat one."""
        if len(self.shape) == 3:
            return (min(self.shape) >= 4,) * 3
        return self.shape[0] == 16, self.shape[1] == 16, False


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology named `generation:AxB` or `generation:AxBxC`.

    Raises  BadInput listing the generations, or the shapes of the generation, that exist
    """
    generation, _, wanted = text.strip().lower().partition(":")
    generation = ALIASES.get(generation, generation)
    if generation not in CHIPS:
        known = f"{', '.join(CHIPS)} (also {', '.join(f'{a} = {c}' for a, c in ALIASES.items())})"
        raise bad("--topology", f"generation {generation!r}", f"known: {known}")
    chip = CHIPS[generation]
    if slices < 1:
        raise bad("--slices", f"{slices}", "at least 1")
    shape = tuple(map(int, wanted.split("x"))) if re.fullmatch(r"\d+(x\d+)*", wanted) else ()
    if shape not in chip.shapes and not _is_cubes(chip, shape):
        listed = ", ".join("x".join(map(str, s)) for s in chip.shapes)
        more = " and larger multiples of 4x4x4 between them" if chip.cubes else ""
        raise bad("--topology", f"{text!r}", f"{generation} has {listed}{more}")
    return Topology(chip, shape, slices)


def _is_cubes(chip: Chip, shape: tuple[int, ...]) -> bool:
    if not chip.cubes or len(shape) != 3 or any(n < 4 or n % 4 for n in shape):
        return False
    return list(shape) == sorted(shape) and math.prod(shape) <= math.prod(chip.shapes[-1])


def require_libtpu() -> None:
    """Raises BadInput where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise bad("plan", "the TPU compiler (libtpu) is not installed", "Linux x86-64",
                  "pip install 'vidsim[tpu]'")  # fmt: skip


def is_prepared() -> bool:
    """Whether this process started with what the TPU compiler needs."""
    return all(os.environ.get(name) == value for name, value in ENVIRONMENT.items())


def environment(topology: Topology, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that compiles for the topology; what is given comes last in the
    compiler's flags and so holds. An environment that has all of it is returned as it is."""
    flags, text = COMPILER_FLAGS.get(topology.chip.name, ""), given.get("LIBTPU_INIT_ARGS", "")
    if flags not in text:
        text = f"{flags} {text}".strip()
    return {**given, **ENVIRONMENT, **({"LIBTPU_INIT_ARGS": text} if text else {})}


def describe(topology: Topology) -> list[Any]:
    """Devices of the topology, to build a mesh of and compile for; nothing runs on them.

    Raises BadInput without libtpu or when it does not know the topology, RuntimeError in a process
    that did not start with `ENVIRONMENT`.
    """
    require_libtpu()
    if not is_prepared():
        raise RuntimeError("the TPU compiler needs topology.ENVIRONMENT set before jax is imported")
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {"wrap": topology.wrap}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with _quiet():
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.name, **options
            )
    except jax.errors.JaxRuntimeError as error:
        raise bad("--topology", f"{topology.name}: {error}", "one that libtpu knows") from None
    return list(found.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libtpu writes while it looks for machines off standard error."""
    kept, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(void)
