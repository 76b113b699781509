"""Where clips come from: `open_source` reads what users type, `open_spec` what an index stores."""

import os
import pathlib
from typing import Any

from vidsim.core.errors import bad
from vidsim.data import manifest
from vidsim.data.folder import FolderSource, MediaOptions, MediaReader
from vidsim.data.manifest import ManifestSource
from vidsim.data.record import BadClip, Caption, ClipRecord, Reader, Source
from vidsim.data.tfds_source import TfdsSource
from vidsim.data.world_source import WorldSource

__all__ = [
    "BadClip", "Caption", "ClipRecord", "MediaOptions", "Reader", "Source", "open_source",
    "open_spec",
]  # fmt: skip

FORMS = "a folder, a manifest (.jsonl, .csv, .parquet), tfds:NAME…, or world:NAME…"


def open_source(spec: str, base: str | os.PathLike, options: MediaOptions | None = None) -> Source:
    """Opens what a user names.

    spec  path of a folder or of a manifest; `tfds:NAME[/CONFIG][:VERSION][:SPLIT][?…]`;
          `world:NAME[?option=value&…]`
    base  folder of the index; media files must lie below it
    Raises  BadInput for anything else
    """
    if spec.startswith("tfds:"):
        return TfdsSource(spec)
    if spec.startswith("world:"):
        return WorldSource(spec)
    if "://" in spec:
        raise bad("source", f"{spec!r} is a URL", FORMS, "mount or copy the files")
    path, options = pathlib.Path(spec), options or MediaOptions()
    if path.is_dir():
        return FolderSource(path, pathlib.Path(base), options)
    if path.is_file() and path.suffix.lower() in manifest.ENDINGS:
        return ManifestSource(path, pathlib.Path(base), options)
    what = "has an unknown ending" if path.exists() else "does not exist"
    raise bad("source", f"{spec!r} {what}", FORMS)


def open_spec(spec: dict[str, Any], base: pathlib.Path) -> Reader:
    """Reopens for reading what an index was made from. Raises BadInput for an unknown kind."""
    kind = spec.get("kind")
    if kind in ("folder", "manifest"):
        return MediaReader(base)
    if kind == "tfds":
        return TfdsSource(str(spec.get("spec")), spec.get("data_dir"))
    if kind == "world":
        return WorldSource(str(spec.get("spec")))
    what = f"made from an unknown kind of source {kind!r}"
    raise bad("index", what, "folder, manifest, tfds, world")
