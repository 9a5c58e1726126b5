"""Keys and URLs that hold a credential: these come from the environment, nowhere else.

Recognising them, wherever a person names keys or URLs: all of that is written into plain files
that travel with a run.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attent_select.errors import InputError

_KEY = re.compile(
    r"(^|[_-])(secret|passw(or)?d|api_?key|credentials?|signature"
    r"|(secret_)?access_key(_id)?|secret_key|account_key|private_key|sas_token"
    r"|((hub|auth|access|session|security|refresh|bearer)_)?token)$",
    re.IGNORECASE,
)
# A user before the host, or a parameter with a key, a token or a signature.
_URL = re.compile(
    r"://[^/@\s?#]*@|[?&]([\w-]*(signature|token|secret|credential|passw(or)?d)|sig"
    r"|[\w-]*(api|access|account|private)[_-]?key(id|_id)?)=",
    re.IGNORECASE,
)
_ADVICE = "credentials come from the environment"


def check_urls(urls: Iterable[str], *, what: str) -> None:
    """Raises `InputError` if one of `urls` holds a credential; the message does not repeat it."""
    for url in urls:
        if _URL.search(url):
            raise InputError(f"{what}: the URL {redacted(url)} holds a credential; {_ADVICE}")


def redacted(url: str) -> str:
    """`url` without user and parameters."""
    return re.sub(r"://[^/@\s?#]*@", "://…@", url).partition("?")[0]


def problems(value: Any, *, path: str = "") -> Iterator[str]:
    """A line for each credential in plain values, with its key's path and without itself."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            if _KEY.search(str(key)) and isinstance(inner, str):
                yield f"{here}: looks like a credential; {_ADVICE}"
            else:
                yield from problems(inner, path=here)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from problems(inner, path=path)
    elif isinstance(value, str) and _URL.search(value):
        yield f"{path}: the URL holds a credential; {_ADVICE}"
