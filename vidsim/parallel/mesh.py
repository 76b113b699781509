"""The only place that builds a device mesh. Axes: data, fsdp, context, tensor."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from vidsim.core.errors import bad

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one entry may be -1 and takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sum(n == -1 for n in sizes) > 1 or any(n == 0 or n < -1 for n in sizes):
            raise bad(
                "mesh", f"sizes {dict(zip(AXES, sizes, strict=True))}", "positive, at most one -1"
            )

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes along AXES for this many devices. Raises BadInput when they do not multiply up."""
        sizes = list(dataclasses.astuple(self))
        fixed = math.prod(n for n in sizes if n != -1)
        if -1 in sizes and num_devices % fixed == 0:
            sizes[sizes.index(-1)] = num_devices // fixed
        if math.prod(sizes) != num_devices:
            named = ", ".join(f"{a}={n}" for a, n in zip(AXES, sizes, strict=True))
            raise bad(
                "mesh", f"{named} on {num_devices} devices", "sizes must multiply to the devices"
            )
        return tuple(sizes)


def build_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (all by default), with automatic axis types."""
    chosen = jax.devices() if devices is None else list(devices)
    shape = config.shape(len(chosen))
    return jax.make_mesh(shape, AXES, devices=chosen, axis_types=(AxisType.Auto,) * len(AXES))
