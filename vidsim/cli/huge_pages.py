"""Large blocks of memory in huge pages, where Linux gives them only to programs that ask.

XLA takes the temporary memory of every step from malloc and gives it back. In pages of 4 KiB that
is some fifty thousand page faults a step of the quickstart, and every product misses the table of
pages: its step takes about a fifth longer. glibc asks for huge pages when told so before a process
starts, so the command starts once more in its place, with the same arguments and process id.
"""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
SINCE = (2, 35)  # the glibc that has the setting
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COMPUTING = frozenset(
    "quickstart train encode sample animate extend loop long join edit eval gallery scaling "
    "bench".split()
)


def ask_for_huge_pages(argv: list[str]) -> None:
    """Starts this process again with SETTING if its command computes and it would change anything.

    argv  the command's words; does not return when it starts again
    """
    wanted = tunables(argv, os.environ, platform.libc_ver(), MODE)
    if wanted is not None:
        os.execve(sys.executable, sys.orig_argv, os.environ | {VARIABLE: wanted})


def tunables(
    argv: list[str], environ: Mapping[str, str], libc: tuple[str, str], mode: Path
) -> str | None:
    """The value of VARIABLE to start again with; None to go on as it is.

    libc  name and version, as `platform.libc_ver` gives them
    mode  file in which Linux says who gets huge pages
    """
    have = environ.get(VARIABLE, "")
    command = next((word for word in argv if not word.startswith("-")), "")
    if command not in COMPUTING or "glibc.malloc.hugetlb" in have:
        return None
    name, version = libc
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if sys.platform != "linux" or name != "glibc" or numbers < SINCE:
        return None
    try:
        asked_only = "[madvise]" in mode.read_text()
    except OSError:
        return None
    return ":".join(filter(None, (have, SETTING))) if asked_only else None
