"""Shell patterns over URLs: braces and globs. Pure.

Here: text. Not here: listing anything (`catalogs/storage/`).
"""

import fnmatch
import itertools
import re
from collections.abc import Callable

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}` → a-00, a-01, a-02 and `{x,y}` → x, y; anything else is left as it is."""
    pieces = _BRACES.split(pattern)
    # split() alternates text and the inside of braces.
    choices = [
        [piece] if position % 2 == 0 else _choices(piece) for position, piece in enumerate(pieces)
    ]
    return ["".join(parts) for parts in itertools.product(*choices)]


def is_glob(url: str) -> bool:
    """Whether `url` has a wildcard."""
    return any(mark in url for mark in "*?[")


def fixed_folder(url: str) -> str:
    """The longest folder before the first wildcard."""
    first = min(url.index(mark) for mark in "*?[" if mark in url)
    return url[:first].rpartition("/")[0] or "/"


def matcher(url: str) -> Callable[[str], bool]:
    """Whether a URL matches a glob, path piece by path piece (`*` never crosses a `/`)."""
    wanted = url.split("/")

    def matches(candidate: str) -> bool:
        names = candidate.split("/")
        return len(names) == len(wanted) and all(
            fnmatch.fnmatchcase(name, pattern) for name, pattern in zip(names, wanted, strict=True)
        )

    return matches


def is_hidden(url: str, folder: str) -> bool:
    """Whether a piece of the path below `folder` starts with `.` or `_` (`_SUCCESS`, `.crc`)."""
    return any(name.startswith((".", "_")) for name in url.removeprefix(folder).split("/"))


def _choices(inside: str) -> list[str]:
    if numbers := _NUMBERS.fullmatch(inside):
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]
