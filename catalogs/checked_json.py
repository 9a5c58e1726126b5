"""JSON files of a run with a digest of their content: a changed byte is found."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from attent_select.errors import InputError

_DIGEST: Final = "content_digest"


def dump(content: Mapping[str, Any]) -> bytes:
    """Return the text of a file: indented, with the digest as the last key."""
    plain = json.loads(json.dumps(content))
    text = json.dumps(plain | {_DIGEST: _digest(plain)}, indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def load(data: bytes | str, *, url: str) -> dict[str, Any]:
    """Return the content of a file. One that another program wrote has no digest.

    Raises:
        InputError: it is not a JSON object, or its content is not what was written.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{url} is damaged: expected a JSON object, found another value")
    digest = content.pop(_DIGEST, None)
    if digest is not None and digest != _digest(content):
        raise InputError(
            f"{url} was changed after it was written: it is damaged, or was edited. Restore it, or "
            f"delete its key {_DIGEST} if you edited it on purpose"
        )
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
