"""Models that come with the package, by name."""

import os
from pathlib import Path

import vidsim
from vidsim.core.errors import bad
from vidsim.store.weights import WEIGHTS

ASSETS = Path(vidsim.__file__).parent / "assets"
MADE_BY = {"demo": "python experiments/demo.py"}  # name -> what makes it


def find(ckpt: str | os.PathLike[str]) -> Path:
    """The folder that --ckpt means: a path as it stands, or the name of a shipped model.

    Raises  BadInput for a shipped model that this installation does not have
    """
    path, name = Path(ckpt), os.fspath(ckpt)
    if path.exists() or name not in MADE_BY:
        return path
    folder = ASSETS / name
    if not (folder / WEIGHTS).is_file():
        raise bad("--ckpt", f"{name!r} is not in this installation",
                  "a work directory or an exported folder",
                  f"make it with `{MADE_BY[name]}`")  # fmt: skip
    return folder
