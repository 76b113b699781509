"""What a job runs on: "v5e:4x4", "gpu:2x8", "cpu:2", and how the clouds name and cut it."""

import dataclasses
import math

from vidsim.core.errors import bad, nearest
from vidsim.scaling.topology import CHIPS, parse_topology


@dataclasses.dataclass(frozen=True)
class Cloud:
    """What Google's clouds call one TPU generation.

    accelerator  prefix of Cloud TPU names
    cores        a chip, as those names count
    runtime      TPU VM software version; None: there are no TPU VMs, only GKE
    gke          value of the node selector cloud.google.com/gke-tpu-accelerator
    """

    accelerator: str
    cores: int
    runtime: str | None
    gke: str


# Cloud TPU's pages of each version and "Manage queued resources" (which says that Ironwood is had
# through GKE alone); GKE's "Plan TPUs".
CLOUDS = {
    "v5e": Cloud("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": Cloud("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": Cloud("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
    "tpu7x": Cloud("tpu7x", 2, None, "tpu7x"),
}
HOSTS = ("gpu", "cpu")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One slice of TPUs, or a number of hosts with devices.

    kind  a key of CLOUDS, "gpu" or "cpu"
    dims  chips along each axis of the slice; for gpu and cpu (hosts, devices of each)
    """

    kind: str
    dims: tuple[int, ...]

    @property
    def tpu(self) -> Cloud | None:
        """The names of the TPU generation; None for gpu and cpu."""
        return CLOUDS.get(self.kind)

    @property
    def chips(self) -> int:
        """Chips (or devices) of one slice."""
        return math.prod(self.dims)

    @property
    def devices(self) -> int:
        """JAX devices of one slice."""
        return self.chips * (CHIPS[self.kind].devices if self.tpu else 1)

    @property
    def chips_per_host(self) -> int:
        """TPU hosts carry 4 chips; flat slices of up to 8 chips are one host."""
        if self.tpu is None:
            return self.dims[1]
        return self.chips if len(self.dims) == 2 and self.chips <= 8 else 4

    @property
    def hosts(self) -> int:
        """Machines of one slice."""
        return self.chips // self.chips_per_host

    @property
    def grid(self) -> str:
        """The dims as the clouds write them: 4x4."""
        return "x".join(map(str, self.dims))

    @property
    def accelerator(self) -> str:
        """Cloud TPU's name, e.g. v5litepod-16.

        Raises  BadInput for shapes that are not in Cloud TPU's tables: a name there says only how
                many cores there are
        """
        assert self.tpu is not None
        if self.dims not in CHIPS[self.kind].shapes:
            raise bad("--topology", f"{self} has no Cloud TPU name of its own",
                      ", ".join("x".join(map(str, s)) for s in CHIPS[self.kind].shapes),
                      "or use gke")  # fmt: skip
        return f"{self.tpu.accelerator}-{self.chips * self.tpu.cores}"

    def __str__(self) -> str:
        return f"{self.kind}:{self.grid}"


def parse_shape(text: str) -> Shape:
    """Reads "v5e:4x4" as `vidsim plan` does, and "gpu:HOSTSxDEVICES", "cpu:HOSTS"."""
    kind, _, rest = text.strip().lower().partition(":")
    if kind not in HOSTS:
        if ":" not in text:
            raise bad("--topology", f"{text!r}", "v5e:4x4, v5p:4x4x4, gpu:2x8, cpu:2",
                      nearest(kind, (*CLOUDS, *HOSTS)))  # fmt: skip
        topology = parse_topology(text)
        return Shape(topology.chip.name, topology.shape)
    words = rest.split("x")
    if len(words) > 2 or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise bad("--topology", f"{text!r}", f"{kind}:HOSTS or {kind}:HOSTSxDEVICES")
    return Shape(kind, (*map(int, words), 1)[:2])
