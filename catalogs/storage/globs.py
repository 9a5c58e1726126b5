"""Shell patterns over URLs: braces and globs. Pure.

Web servers cannot be listed: in their URLs `?` starts a query, and only braces are expanded.
"""

import fnmatch
import itertools
import math
import re
from collections.abc import Callable

from attent_select.errors import InputError
from catalogs.layout import join

_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_URLS = 1_000_000
_MAX_DIGITS = 18
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def check(pattern: str) -> None:
    """Raise `InputError` for a pattern that is not supported."""
    if "**" in pattern:
        raise InputError(
            f"{pattern}: '**' is not supported. Name the folder, which is searched recursively, or"
            " write one '*' for each level"
        )
    if _is_web(pattern) and "*" in pattern:
        raise InputError(
            f"{pattern}: '*' is not supported for web servers, which cannot be listed. Name each,"
            " or use a numbered series like {000..127}"
        )


def expand_braces(pattern: str) -> list[str]:
    """Expand `a-{00..02}` to a-00, a-01, a-02 and `{x,y}` to x, y; keep everything else.

    Raises:
        InputError: it stands for too many URLs.
    """
    # split() alternates between text and the inside of braces.
    texts = _BRACES.split(pattern)
    num_urls = math.prod(_num_choices(inside) for inside in texts[1::2])
    if num_urls > _MAX_URLS:
        raise InputError(
            f"{pattern} stands for more than {_MAX_URLS:,} URLs: name a folder, or use '*'"
        )
    choices = [
        [text] if position % 2 == 0 else _choices(text) for position, text in enumerate(texts)
    ]
    return ["".join(parts) for parts in itertools.product(*choices)]


def is_glob(url: str) -> bool:
    """Whether `url` has a wildcard."""
    return not _is_web(url) and any(mark in url for mark in "*?[")


def folder_to_list(url: str, *, several: bool) -> str:
    """Return the folder to list for `url`, which may be one of `several` of one pattern."""
    if is_glob(url):
        first = min(url.index(mark) for mark in "*?[" if mark in url)
        return _parent(url[:first])
    return _parent(url) if several and not _is_web(url) else url


def matcher(url: str) -> Callable[[str], bool]:
    """Return a predicate: a listed URL is `url`, is in that folder, or matches that glob.

    `*` never matches a `/`. In a folder, names that start with `.` or `_` do not match.
    """
    if is_glob(url):
        patterns = [re.compile(fnmatch.translate(name)) for name in url.split("/")]
        return lambda listed: _all_match(patterns, listed.split("/"))
    below = join(url, "")
    return lambda listed: (
        listed == url or (listed.startswith(below) and not _is_hidden(listed, below))
    )


def _all_match(patterns: list[re.Pattern[str]], names: list[str]) -> bool:
    return len(names) == len(patterns) and all(map(re.Pattern.match, patterns, names))


def _is_hidden(url: str, below: str) -> bool:
    return any(name.startswith((".", "_")) for name in url.removeprefix(below).split("/"))


def _parent(url: str) -> str:
    parent = url.rpartition("/")[0]
    is_root = not parent or parent.endswith(":/")
    return f"{parent}/" if is_root else parent


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _num_choices(inside: str) -> int:
    if numbers := _NUMBERS.fullmatch(inside):
        first, last = (int(number[-_MAX_DIGITS:]) for number in numbers.groups())
        is_long = max(map(len, numbers.groups())) > _MAX_DIGITS
        return _MAX_URLS + 1 if is_long else abs(last - first) + 1
    return inside.count(",") + 1


def _choices(inside: str) -> list[str]:
    if numbers := _NUMBERS.fullmatch(inside):
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        low, high = sorted((int(first), int(last)))
        names = [f"{number:0{width}d}" for number in range(low, high + 1)]
        return names if int(first) == low else names[::-1]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]
