"""Paths from index and manifest files: relative, below one folder, never out of it."""

import os
import pathlib
import re

from vidsim.core.errors import bad

MAX_PATH = 1024
# A scheme, a drive letter, a backslash, a control character, an absolute path or a parent step.
UNSAFE = r"(^[A-Za-z][A-Za-z0-9+.-]*:)|\\|[\x00-\x1f\x7f]|^/|(^|/)\.\.(/|$)|^$"
_UNSAFE = re.compile(UNSAFE)


def safe_relative(text: str, where: str) -> str:
    """The path in plain posix form ("a/./b" becomes "a/b").

    Raises  BadInput for an absolute path, a URL, "..", a backslash, NUL or an over-long path
    """
    if not isinstance(text, str):
        raise bad(where, f"path is {type(text).__name__}", "a text")
    if len(text) > MAX_PATH or _UNSAFE.search(text):
        raise bad(
            where, f"path {text[:80]!r}", "a relative path without '..', scheme or backslash",
            "put the file below the index's folder",
        )  # fmt: skip
    return pathlib.PurePosixPath(text).as_posix()


def resolve_below(root: str | os.PathLike, text: str, where: str) -> pathlib.Path:
    """The regular file `text` below `root`, symbolic links followed.

    Raises  BadInput when it is unsafe, missing, not a regular file, or a link leads out of root
    """
    relative = safe_relative(text, where)
    base = pathlib.Path(root).resolve()
    try:
        path = (base / relative).resolve(strict=True)
    except (OSError, RuntimeError):
        raise bad(where, f"{relative} does not exist below {base}") from None
    if not path.is_relative_to(base):
        raise bad(where, f"{relative} is a link that leaves {base}", "", "copy the file instead")
    if not path.is_file():
        raise bad(where, f"{relative} is not a regular file")
    return path


def below(root: str | os.PathLike, path: str | os.PathLike, where: str, change: str) -> str:
    """`path` relative to `root` in posix form. Raises BadInput when it lies elsewhere."""
    base, full = pathlib.Path(root).resolve(), pathlib.Path(path).resolve()
    if not full.is_relative_to(base):
        raise bad(where, f"{full} lies outside the index's folder {base}", "", change)
    return full.relative_to(base).as_posix()
