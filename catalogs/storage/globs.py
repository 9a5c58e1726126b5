"""Shell patterns over URLs: braces and globs. Pure.

Text. A web server cannot be listed: there `?` begins a query, and every file is named, if need
be by braces.
"""

import fnmatch
import itertools
import re
from collections.abc import Callable

from attent_select.errors import InputError
from catalogs.layout import join

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def check(pattern: str) -> None:
    """Raises `InputError` for a pattern that would quietly name something else than it says."""
    if "**" in pattern:
        raise InputError(
            f"{pattern}: '**' has no meaning here. Name the folder, which is searched at any depth,"
            " or write one '*' for each level"
        )
    if _is_web(pattern) and "*" in pattern:
        raise InputError(
            f"{pattern}: a web server cannot be asked which files match. Name each, or number them"
            " like {000..127}"
        )


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
    return not _is_web(url) and any(mark in url for mark in "*?[")


def folder_to_list(url: str, *, several: bool) -> str:
    """What to list to find what `url` names, which is one of `several` of the same pattern."""
    if is_glob(url):
        first = min(url.index(mark) for mark in "*?[" if mark in url)
        return _parent(url[:first])
    return _parent(url) if several and not _is_web(url) else url


def matcher(url: str) -> Callable[[str], bool]:
    """Whether a listed URL is the object `url`, in the folder `url`, or matches the glob `url`.

    `*` never crosses a `/`. Files in a folder that start with `.` or `_` do not count.
    """
    if is_glob(url):
        pieces = [re.compile(fnmatch.translate(piece)) for piece in url.split("/")]
        return lambda found: _all_match(pieces, found.split("/"))
    below = join(url, "")
    return lambda found: found == url or (found.startswith(below) and not _is_hidden(found, below))


def _all_match(pieces: list[re.Pattern[str]], names: list[str]) -> bool:
    return len(names) == len(pieces) and all(map(re.Pattern.match, pieces, names))


def _is_hidden(found: str, below: str) -> bool:
    return any(name.startswith((".", "_")) for name in found.removeprefix(below).split("/"))


def _parent(url: str) -> str:
    parent = url.rpartition("/")[0]
    is_root = not parent or parent.endswith(":/")
    return f"{parent}/" if is_root else parent


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _choices(inside: str) -> list[str]:
    if numbers := _NUMBERS.fullmatch(inside):
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        low, high = sorted((int(first), int(last)))
        names = [f"{number:0{width}d}" for number in range(low, high + 1)]
        return names if int(first) == low else names[::-1]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]
