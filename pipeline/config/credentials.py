"""Detection of credentials in keys and URLs that users give.

Keys and URLs are written into plain files of a run; credentials must come from the environment.
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
# A user before the host, or a query parameter with a key, a token or a signature.
_URL = re.compile(
    r"://[^/@\s?#]*@|[?&]([\w-]*(signature|token|secret|credential|passw(or)?d)|sig"
    r"|[\w-]*(api|access|account|private)[_-]?key(id|_id)?)=",
    re.IGNORECASE,
)
_ADVICE = "credentials come from the environment"


def check_urls(urls: Iterable[str], *, what: str) -> None:
    """Check that no URL holds a credential.

    Raises:
        InputError: one does; the message does not repeat the credential.
    """
    for url in urls:
        if _URL.search(url):
            raise InputError(f"{what}: the URL {redact(url)} holds a credential; {_ADVICE}")


def redact(url: str) -> str:
    """Return `url` without user and query parameters."""
    return re.sub(r"://[^/@\s?#]*@", "://…@", url).partition("?")[0]


def problems(value: Any, *, path: str = "") -> Iterator[str]:
    """Yield a line for each credential in plain values: its key's path, not the credential."""
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
