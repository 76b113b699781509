"""The folder of one run: its configuration, where it came from, and everything it writes.

config.json  provenance.json  metrics.jsonl  events.*  checkpoints/<step>/  samples/
"""

import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import jax

import vidsim
from vidsim.core.errors import bad
from vidsim.store.manifest import write_atomic

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_OURS = ("metrics.jsonl", "checkpoints")


class Workdir:
    """The work directory of one run; `open` makes or re-enters it."""

    def __init__(self, path: pathlib.Path, resumed: bool) -> None:
        self.path, self.resumed = path, resumed
        self._lock: IO[str] | None = None

    @classmethod
    def open(
        cls,
        path: str | pathlib.Path,
        config: Mapping[str, Any],
        data: Mapping[str, str] | None = None,
        free: Sequence[str] = (),
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> "Workdir":
        """Makes the folder for a run, or re-enters the folder of the same run.

        config   the whole configuration of the run (JSON)
        data     name -> hash of what the run reads, e.g. {"index": "9f..."}
        free     dotted keys (or prefixes) of the configuration that may change between starts
        read     a stored configuration as it is understood now: settings that are newer than the
                 folder get their defaults
        Raises   BadInput when the folder belongs to another run, naming the first key that differs
        """
        if "://" in str(path):
            raise bad(f"{path}", "a remote address", "a local folder", "mount the bucket")
        folder = pathlib.Path(path).absolute()
        plain = json.loads(json.dumps(config))
        known = folder / "config.json"
        if known.exists():
            _check_same(json.loads(json.dumps(read(_read(known)))), plain, f"{folder}", free)
            _check_data(folder, dict(data or {}))
        else:
            left = [name for name in _OURS if (folder / name).exists()]
            if left:
                raise bad(f"{folder}", f"has {left[0]} but no config.json", "a new folder")
        resumed = known.exists()
        workdir = cls(folder, resumed)
        if jax.process_index() != 0:  # process 0 writes for all
            return workdir
        folder.mkdir(parents=True, exist_ok=True)
        workdir._take_lock()
        if not resumed:
            body = {"data": dict(data or {}), "starts": []}
            write_atomic(folder / "provenance.json", json.dumps(body, indent=1).encode())
        write_atomic(known, json.dumps(plain, indent=1).encode())
        return workdir

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        """File of the metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> pathlib.Path:
        """Folder for samples; made when asked for."""
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        return folder

    def record_start(self, step: int, facts: Mapping[str, Any] | None = None) -> None:
        """Adds one start of the run (its step, code and libraries) to provenance.json."""
        if jax.process_index() != 0:
            return
        body = _read(self.path / "provenance.json")
        start = {"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **code_facts()}
        body["starts"].append({**start, **(facts or {})})
        write_atomic(self.path / "provenance.json", json.dumps(body, indent=1).encode())

    def close(self) -> None:
        """Lets another process enter."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        stream = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            stream.close()
            raise bad(f"{self.path}", f"in use by process {holder}", "one run at a time") from None
        except OSError:  # bucket mounts cannot lock; the run goes on without
            pass
        else:
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
        self._lock = stream


def code_facts() -> dict[str, Any]:
    """Version of vidsim, git id where it runs from a checkout, library versions, machine."""
    return {
        "vidsim": vidsim.__version__,
        "git": git_id(pathlib.Path(vidsim.__file__).parent),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def git_id(folder: pathlib.Path) -> str | None:
    """Commit of the checkout that holds `folder`, with "+changes" when edited; None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
    """The configuration of a work directory. Raises BadInput when there is none."""
    file = pathlib.Path(path) / "config.json"
    if not file.is_file():
        raise bad(f"{path}", "no config.json", "a work directory of vidsim train")
    return _read(file)


def read_provenance(path: str | pathlib.Path) -> dict[str, Any]:
    """Where a run came from: hashes of its data, one entry a start. Raises BadInput."""
    return _read(pathlib.Path(path) / "provenance.json")


def _check_same(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str, free: Sequence[str]
) -> None:
    before, now = dict(_flat(old)), dict(_flat(new))
    for key in sorted(before.keys() | now.keys()):
        if any(key == f or key.startswith(f"{f}.") for f in free):
            continue
        if before.get(key, "absent") != now.get(key, "absent"):
            raise bad(
                where,
                f"belongs to another run: {key} is {before.get(key, 'absent')!r} there",
                f"{now.get(key, 'absent')!r} here",
                "choose another work directory or the same configuration",
            )


def _check_data(folder: pathlib.Path, data: Mapping[str, str]) -> None:
    before = _read(folder / "provenance.json")["data"]
    for name in sorted(before.keys() | data.keys()):
        if before.get(name) != data.get(name):
            raise bad(
                f"{folder}",
                f"was trained on {name} {str(before.get(name))[:16]}",
                f"this is {str(data.get(name))[:16]}",
                "choose another work directory or the same data",
            )


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise bad(f"{path}", f"cannot be read ({error})", "the file that the run wrote") from None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
