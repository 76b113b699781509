"""One shape for every complaint: `where: what, value; what is allowed; what to change`."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Input that the caller can put right. Commands print it as one line and leave with code 2."""


def bad(where: str, what: str, allowed: str = "", change: str = "") -> BadInput:
    """Builds the error; the caller raises it.

    where    function, file or option that refuses, e.g. "plan" or "--size"
    what     what is wrong, with the value
    allowed  what would be accepted
    change   what to do about it
    """
    line = "; ".join(part for part in (what, allowed, change) if part)
    return BadInput(" ".join(f"{where}: {line}".split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known name, or all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
