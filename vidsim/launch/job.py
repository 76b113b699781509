"""One description of a job, from which every backend renders its files."""

import dataclasses
import re
import shlex
from pathlib import PurePosixPath

from vidsim.core.errors import bad
from vidsim.launch.flags import flag_variables
from vidsim.launch.shape import Shape

MOUNTS = "/gcs"  # buckets appear below this folder on every host
_BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(/.*)?")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Job:
    """A training run on a number of slices.

    name      lower-case letters, digits and dashes; names every resource
    config    experiment file and variant, as `vidsim train --config` takes it
    workdir   gs://bucket/folder, or a folder that every host sees
    shape     one slice; `slices` of them
    settings  "a.b=value", as `vidsim train` takes them; gs:// paths are read from the mount
    restarts  times that a crash, a watchdog or a preemption is answered with another start
    image     container with vidsim and its configurations inside
    spot      capacity that may be taken away
    """

    name: str
    config: str
    workdir: str
    shape: Shape
    slices: int = 1
    settings: tuple[str, ...] = ()
    restarts: int = 20
    image: str | None = None
    spot: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise bad("--name", f"{self.name!r}", "a letter, then up to 39 letters, digits, dashes")
        if self.slices < 1:
            raise bad("--slices", f"{self.slices}", "at least 1")
        if self.slices > 1 and self.shape.tpu is None:
            raise bad("--slices", f"{self.slices} of {self.shape}", "1",
                      f"write the hosts as --topology {self.shape.kind}:HOSTSxDEVICES")  # fmt: skip
        if self.restarts < 0:
            raise bad("--restarts", f"{self.restarts}", "0 or more")
        for text in (self.workdir, *self.settings):
            if any(c in text for c in "\n\r\0"):
                raise bad("launch", f"{text!r} has a line break")
        self.buckets  # noqa: B018 - refuses bad addresses now

    @property
    def hosts(self) -> int:
        """Machines of all slices."""
        return self.shape.hosts * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.shape.devices * self.slices

    @property
    def buckets(self) -> tuple[str, ...]:
        """Every bucket that the command names, once."""
        texts = (self.workdir, *(s.partition("=")[2] for s in self.settings))
        return tuple(dict.fromkeys(_bucket(t)[0] for t in texts if "://" in t))

    def train_words(self) -> list[str]:
        """`train ...`, with mounted paths."""
        settings = [f"{k}={mounted(v)}" for k, _, v in (s.partition("=") for s in self.settings)]
        return ["train", f"--config={self.config}", f"--workdir={mounted(self.workdir)}", *settings]

    def run_words(self, restarts: int, announce: bool) -> list[str]:
        """`vidsim run ...` around the training: it keeps the ledger and may tell other hosts."""
        options = [f"--restarts={restarts}", *(["--announce"] if announce else [])]
        return ["vidsim", "run", *options, "--", *self.train_words()]

    def environment(self) -> dict[str, str]:
        """Variables of every process: compiler flags, and a compile cache that all starts share."""
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{mounted(self.workdir)}/compile_cache"}
        return {**flag_variables(self.shape.kind, self.slices), **cache}

    def in_image(self) -> str:
        """The image. Raises BadInput when none is named or it cannot hold the configuration."""
        if not self.image:
            raise bad("--image", "missing", "a container image with vidsim inside",
                      "build one with launch/Dockerfile")  # fmt: skip
        path = PurePosixPath(self.config.partition(":")[0])
        if path.is_absolute() or ".." in path.parts:
            raise bad("--config", f"{path}", "a path inside the project, as the image has it")
        return self.image

    def in_bucket(self) -> str:
        """The work directory's address. Raises BadInput when it does not outlive the machines."""
        if "://" not in self.workdir:
            raise bad("--workdir", f"{self.workdir!r} lies on machines that go away",
                      "gs://BUCKET/FOLDER")  # fmt: skip
        return self.workdir

    def on_shared_disk(self) -> str:
        """The work directory's folder. Raises BadInput for addresses in a bucket."""
        if self.buckets:
            what = f"gs://{self.buckets[0]} is not a folder of these hosts"
            raise bad("launch", what, "a path that all of them see", "mount it, name its folder")
        return self.workdir


def mounted(text: str) -> str:
    """gs://bucket/path as the path it is mounted at; everything else unchanged."""
    if "://" not in text:
        return text
    bucket, path = _bucket(text)
    return f"{MOUNTS}/{bucket}{path}"


def shell(words: list[str]) -> str:
    """One command line for bash."""
    return shlex.join(words)


def _bucket(text: str) -> tuple[str, str]:
    match = _BUCKET.fullmatch(text)
    if match is None:
        raise bad("launch", f"address {text!r}", "gs://BUCKET/FOLDER or a path")
    return match[1], (match[2] or "").rstrip("/")
