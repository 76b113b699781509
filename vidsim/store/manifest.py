"""The list of what a checkpoint holds: files with sizes and hashes, arrays with digests.

A checkpoint without a valid manifest is not a checkpoint. The manifest carries a hash of itself.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

NAME = "VIDSIM_MANIFEST.json"
SCHEMA = 1
_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one checkpoint holds.

    files    relative path -> (bytes, sha256)
    arrays   "item/path" -> {"shape", "dtype", "digest"}
    extra    facts of the run that saved it (JSON)
    versions library -> version that wrote it
    """

    step: int
    files: Mapping[str, tuple[int, str]]
    arrays: Mapping[str, Mapping[str, Any]]
    extra: Mapping[str, Any]
    versions: Mapping[str, str]


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes the manifest into `folder`: temporary file, fsync, rename."""
    body = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    body["sha256"] = _self_hash(body)
    write_atomic(folder / NAME, json.dumps(body, indent=1).encode())


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Reads and checks the manifest. Raises ValueError with the reason when it is not valid."""
    path = folder / NAME
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{NAME} cannot be read ({type(error).__name__})") from None
    if not isinstance(body, dict) or body.get("sha256") != _self_hash(body):
        raise ValueError(f"{NAME} does not match its own hash")
    if body["schema"] != SCHEMA:
        raise ValueError(f"{NAME} has schema {body['schema']}, this version reads {SCHEMA}")
    files = {name: (size, sha) for name, (size, sha) in body["files"].items()}
    return Manifest(body["step"], files, body["arrays"], body["extra"], body["versions"])


def list_files(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file under `folder` except the manifest, by relative path."""
    names = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name != NAME
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda name: hash_file(folder / name), names))
    sizes = [(folder / name).stat().st_size for name in names]
    return {n: (s, h) for n, s, h in zip(names, sizes, hashes, strict=True)}


def damaged_files(folder: pathlib.Path, manifest: Manifest, check_hashes: bool = True) -> list[str]:
    """One line for each file that is missing or differs in size or hash; empty when whole."""

    def problem(name: str) -> str | None:
        size, sha = manifest.files[name]
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, expected {size}"
        if check_hashes and hash_file(path) != sha:
            return f"{name} has another sha256"
        return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [line for line in pool.map(problem, manifest.files) if line]


def hash_file(path: pathlib.Path) -> str:
    """sha256 of a file in hexadecimal, read in pieces."""
    h = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            h.update(piece)
    return h.hexdigest()


def write_atomic(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file in one move: other readers see the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Makes renames in `folder` survive a power cut (where the file system knows how)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    except OSError:  # some network and bucket mounts cannot sync a folder
        pass
    finally:
        os.close(handle)


def _self_hash(body: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in body.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
