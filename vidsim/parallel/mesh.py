"""The only place that builds a device mesh. Axes: data, fsdp, context, tensor.

Devices of one slice (a TPU pod slice, whose chips talk over their own links) are laid out together;
slices are strung along `data`, the only axis that may cross the data-centre network, since it moves
one sum of gradients a step and nothing inside a layer.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from vidsim.core.errors import bad, nearest

AXES = ("data", "fsdp", "context", "tensor")


class Layout(Protocol):
    """What `build_mesh` needs: sizes along AXES for a number of devices, and slices."""

    @property
    def slices(self) -> int:
        """Groups of devices joined by the data-centre network."""
        ...

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes along AXES."""
        ...


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one entry may be -1 and takes what the others leave.

    slices  groups of devices joined by the data-centre network; divides `data`
    """

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1
    slices: int = 1

    def __post_init__(self) -> None:
        sizes = self._sizes()
        if sum(n == -1 for n in sizes) > 1 or any(n == 0 or n < -1 for n in sizes):
            raise bad(
                "mesh", f"sizes {dict(zip(AXES, sizes, strict=True))}", "positive, at most one -1"
            )
        if self.slices < 1:
            raise bad("mesh", f"slices={self.slices}", "at least 1")

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes along AXES for this many devices. Raises BadInput when they do not multiply up."""
        sizes = self._sizes()
        fixed = math.prod(n for n in sizes if n != -1)
        if -1 in sizes and num_devices % fixed == 0:
            sizes[sizes.index(-1)] = num_devices // fixed
        if math.prod(sizes) != num_devices:
            named = ", ".join(f"{a}={n}" for a, n in zip(AXES, sizes, strict=True))
            raise bad(
                "mesh", f"{named} on {num_devices} devices", "sizes must multiply to the devices"
            )
        if sizes[0] % self.slices:
            raise bad("mesh", f"data={sizes[0]} over {self.slices} slices",
                      "slices must divide data", "set data to a multiple")  # fmt: skip
        return tuple(sizes)

    def _sizes(self) -> list[int]:
        return [getattr(self, axis) for axis in AXES]


class Preset(NamedTuple):
    """fill: the axis that takes the devices left over; axes: those that may be larger than 1."""

    fill: str
    axes: tuple[str, ...]


PRESETS: dict[str, Preset] = {
    "data": Preset("data", ("data",)),
    "fsdp": Preset("fsdp", ("data", "fsdp")),
    "tensor": Preset("data", ("data", "tensor")),
    "fsdp_tensor": Preset("fsdp", ("data", "fsdp", "tensor")),
    "context": Preset("data", ("data", "context")),
    "context_tensor": Preset("data", ("data", "context", "tensor")),
    "fsdp_context": Preset("fsdp", ("data", "fsdp", "context")),
    "fsdp_context_tensor": Preset("fsdp", AXES),
}


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over devices, by a named preset and the sizes that it leaves open.

    preset  key of PRESETS. `data` copies the weights to every device and splits rows; `fsdp` splits
            weights, moments and average as well; `context` also splits the tokens of each row;
            `tensor` also splits heads and MLP. Joined names do all that they name
    data, fsdp, context, tensor
            devices along each axis. None: the preset's open axis takes the devices left over, and
            any other is 1 (`data` is `slices`). An axis that the preset names beyond its open one
            and `data` must be given
    slices  groups of devices joined by the data-centre network, all along `data`
    """

    preset: str = "data"
    data: int | None = None
    fsdp: int | None = None
    context: int | None = None
    tensor: int | None = None
    slices: int = 1

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise bad("parallel.preset", repr(self.preset), nearest(self.preset, PRESETS))
        if self.slices < 1:
            raise bad("parallel.slices", f"{self.slices}", "at least 1")
        fill, axes = PRESETS[self.preset]
        for axis in AXES:
            size = getattr(self, axis)
            if size is not None and (size == 0 or size < -1):
                raise bad(f"parallel.{axis}", f"{size}", "at least 1, or -1 for what is left")
            if axis not in axes and size not in (None, 1):
                having = ", ".join(name for name, p in PRESETS.items() if axis in p.axes)
                raise bad(f"parallel.{axis}", f"{size} with preset {self.preset!r}", "1",
                          f"set parallel.preset to one of {having}")  # fmt: skip
            if axis in axes and axis not in (fill, "data") and size is None:
                raise bad(f"parallel.{axis}", f"not given with preset {self.preset!r}",
                          "devices along it", f"set parallel.{axis}")  # fmt: skip
        self.sizes()

    def sizes(self) -> MeshConfig:
        """The sizes that preset and settings come to, at most one of them open."""
        fill = PRESETS[self.preset].fill
        start = {axis: 1 for axis in AXES} | {"data": self.slices}
        given = {a: getattr(self, a) for a in AXES if getattr(self, a) is not None}
        if -1 not in given.values():
            start[fill] = -1
        return MeshConfig(**(start | given), slices=self.slices)

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes along AXES for this many devices. Raises BadInput when they do not multiply up."""
        return self.sizes().shape(num_devices)


def build_mesh(config: Layout, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (all by default), with automatic axis types; see `arrange`."""
    chosen = jax.devices() if devices is None else list(devices)
    return Mesh(arrange(config, chosen), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(config: Layout, chosen: Sequence[Any]) -> np.ndarray:
    """The devices in the order of the mesh, one axis for each of AXES.

    Raises BadInput when the sizes do not multiply to the devices, when the devices lie in other
    slices than `config` says, or when their links cannot be cut into such a mesh
    """
    shape = config.shape(len(chosen))
    groups = _slices(chosen, config.slices)
    inner = (shape[0] // config.slices, *shape[1:])
    try:
        grids = [_grid(inner, group) for group in groups]
    except (NotImplementedError, ValueError) as error:
        named = ", ".join(f"{a}={n}" for a, n in zip(AXES, inner, strict=True))
        raise bad("mesh", f"{named} on {len(groups[0])} x {groups[0][0].device_kind}",
                  "sizes that follow the topology", str(error)[:200]) from None  # fmt: skip
    return np.concatenate(grids, 0)


def _grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices of one slice, neighbours on their links beside each other where the shape allows."""
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # an axis of the topology must serve two of ours
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _slices(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """Devices by slice. Those that know no slice (CPU, GPU) are cut into equal runs."""
    numbers = [getattr(d, "slice_index", None) for d in devices]
    found = sorted({n for n in numbers if n is not None})
    if len(found) <= 1 and devices[0].platform != "tpu":
        if len(devices) % slices:
            raise bad("mesh", f"{len(devices)} devices in {slices} slices", "equal slices")
        size = len(devices) // slices
        return [list(devices[i : i + size]) for i in range(0, len(devices), size)]
    if len(found or [0]) != slices:
        raise bad("mesh", f"{slices} slices on devices of {len(found or [0])}",
                  "as many as there are", "set parallel.slices")  # fmt: skip
    groups = [[d for d, n in zip(devices, numbers, strict=True) if n == s] for s in found]
    return groups if groups else [list(devices)]
