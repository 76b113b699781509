"""What a job runs on: "v5e:4x4", "gpu:2x8", "cpu:2", and how the clouds name and cut it."""

import dataclasses
import itertools
import math

from vidsim.core.errors import bad, nearest


@dataclasses.dataclass(frozen=True)
class Generation:
    """Facts of one TPU generation.

    axes         of a slice's torus
    most_chips   in one slice
    accelerator  prefix of Cloud TPU names; they count cores where `cores` is 2, else chips
    cores        tensor cores a chip, as Cloud TPU names count them
    devices      JAX devices a chip
    runtime      TPU VM software version; None: there are no TPU VMs, only GKE
    gke          value of the node selector cloud.google.com/gke-tpu-accelerator
    """

    axes: int
    most_chips: int
    accelerator: str
    cores: int
    devices: int
    runtime: str | None
    gke: str


# Names, cores and sizes: Cloud TPU's pages of each version and "Manage queued resources" (which
# says that Ironwood is had through GKE alone); node selectors: GKE's "Plan TPUs".
TPUS = {
    "v4": Generation(3, 4096, "v4", 2, 1, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": Generation(2, 256, "v5litepod", 1, 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": Generation(3, 6144, "v5p", 2, 1, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": Generation(2, 256, "v6e", 1, 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
    "tpu7x": Generation(3, 9216, "tpu7x", 2, 2, None, "tpu7x"),
}
HOSTS = ("gpu", "cpu")
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


@dataclasses.dataclass(frozen=True)
class Shape:
    """One slice of TPUs, or a number of hosts with devices.

    kind  a key of TPUS, "gpu" or "cpu"
    dims  chips along each axis of the slice; for gpu and cpu (hosts, devices of each)
    """

    kind: str
    dims: tuple[int, ...]

    @property
    def tpu(self) -> Generation | None:
        """The TPU generation; None for gpu and cpu."""
        return TPUS.get(self.kind)

    @property
    def chips(self) -> int:
        """Chips (or devices) of one slice."""
        return math.prod(self.dims)

    @property
    def devices(self) -> int:
        """JAX devices of one slice."""
        return self.chips * (self.tpu.devices if self.tpu else 1)

    @property
    def chips_per_host(self) -> int:
        """TPU hosts carry 4 chips; flat slices of up to 8 chips are one host."""
        if self.tpu is None:
            return self.dims[1]
        return self.chips if self.tpu.axes == 2 and self.chips <= 8 else 4

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

        Raises  BadInput for slices that this name cannot tell from another of the same size
        """
        assert self.tpu is not None
        usual = min(_cubes(self.tpu, self.chips), key=lambda d: d[-1] - d[0], default=self.dims)
        if self.dims not in (*FLAT, *SMALL, usual):
            least = "x".join(map(str, usual))
            raise bad("--topology", f"{self} has no Cloud TPU name of its own",
                      f"{self.kind}:{least} for {self.chips} chips", "or use gke")  # fmt: skip
        return f"{self.tpu.accelerator}-{self.chips * self.tpu.cores}"

    def __str__(self) -> str:
        return f"{self.kind}:{self.grid}"


def parse_shape(text: str) -> Shape:
    """Reads "v5e:4x4", "gpu:HOSTSxDEVICES", "cpu:HOSTS". Raises BadInput."""
    kind, colon, rest = text.partition(":")
    if kind not in (*TPUS, *HOSTS):
        raise bad("--topology", f"unknown kind {kind!r}", nearest(kind, (*TPUS, *HOSTS)))
    words = rest.split("x")
    if not colon or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise bad("--topology", f"{text!r}", "KIND:AxB, e.g. v5e:4x4, v5p:4x4x4, gpu:2x8, cpu:2")
    dims = tuple(map(int, words))
    if kind in HOSTS:
        if len(dims) > 2:
            raise bad("--topology", f"{text!r}", f"{kind}:HOSTS or {kind}:HOSTSxDEVICES")
        return Shape(kind, (*dims, 1)[:2])
    facts = TPUS[kind]
    known = FLAT if facts.axes == 2 else (*SMALL, *_cubes(facts, math.prod(dims)))
    if dims not in known or math.prod(dims) > facts.most_chips:
        shown = ", ".join("x".join(map(str, d)) for d in (FLAT if facts.axes == 2 else SMALL))
        more = "" if facts.axes == 2 else ", or rising multiples of 4 such as 4x4x8"
        raise bad("--topology", f"no slice {text!r}", f"{kind}: {shown}{more}, "
                  f"at most {facts.most_chips} chips")  # fmt: skip
    return Shape(kind, dims)


def _cubes(facts: Generation, chips: int) -> list[tuple[int, ...]]:
    """All slices of this many chips made of whole 4x4x4 cubes."""
    if facts.axes == 2 or chips % 64:
        return []
    parts = [n for n in range(1, chips // 64 + 1) if chips // 64 % n == 0]
    triples = itertools.combinations_with_replacement(parts, 3)
    return [tuple(4 * n for n in t) for t in triples if math.prod(t) * 64 == chips]
