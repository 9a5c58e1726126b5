"""Detection of credentials in keys, texts and URLs that users give.

They are written into plain files of a run; credentials must come from the environment. A reference
to a variable (`$TOKEN`, `${TOKEN}`) is not a credential.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attent_select.errors import InputError

_NAME = (
    r"secret|passw(or)?d|pwd|passphrase|api_?key|credentials?|signature|(secret_)?access_key(_id)?"
    r"|secret_key|account_key|shared_access_key|private_key|sas_token|connection_string|token"
)
_KEY = re.compile(rf"(^|[_-])({_NAME})$", re.IGNORECASE)
# Names of special tokens and of counts.
_HARMLESS_KEY = re.compile(
    r"(^|_)(eos|bos|pad|unk|sep|cls|mask|image|video|audio|start|stop|end|begin|first|last|next|max"
    r"|min|num|per|special|newline|system|user|assistant|role)_token$",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A password before the host, or a user of a web address or bucket: both can be a token.
_USER = re.compile(r"\b(?P<scheme>[a-z][a-z0-9+.]*)://(?P<user>[^/@\s?#]*)@", re.IGNORECASE)
# Before the @ is a container, or the name of a user, which is not secret.
_NAMED_USERS = frozenset(
    {"abfs", "abfss", "wasb", "wasbs", "ssh", "sftp", "hdfs", "webhdfs", "smb"}
)
_QUERY = re.compile(
    r"[?&]([\w-]*(signature|token|secret|credential|passw(or)?d)|sig|key"
    r"|[\w-]*(api|access|account|private)[_-]?key(id|_id)?)=(?!\$)[^&\s]",
    re.IGNORECASE,
)
# Texts that are credentials, whatever their key: PEM, AWS, Hugging Face, GitHub, GitLab, Slack,
# OpenAI and alike, Google, JSON web tokens.
_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{16,}"
    r"|\bgh[opsru]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[\w-]{35}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
)
# `export TOKEN=…`, `--password …`, and parts of a connection string.
_ASSIGNMENT = re.compile(
    r"\b[A-Z][A-Z0-9_]*(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_KEY(_ID)?|PRIVATE_KEY)="
    r"""["']?(?![$"'\s])\S"""
    r"|(?<!\w)--(password|token|secret|api-key|access-key)[= ](?![$\s])\S"
    r"|\b(?i:account ?key|shared ?access ?key|shared ?access ?signature|password|pwd)="
    r"(?![$\s])[^;\s]{4}"
)
_ADVICE = "credentials come from the environment"


def check_urls(urls: Iterable[str], *, what: str) -> None:
    """Check that no URL holds a credential.

    Raises:
        InputError: one does; the message does not repeat the credential.
    """
    for url in urls:
        if _is_in_url(url):
            raise InputError(f"{what}: the URL {redact(url)} holds a credential; {_ADVICE}")


def redact(url: str) -> str:
    """Return `url` without user and query parameters."""
    return re.sub(r"://[^/@\s?#]*@", "://…@", url).partition("?")[0]


def problems(value: Any, *, path: str = "") -> Iterator[str]:
    """Yield a line for each credential in plain values: its key's path, not the credential."""
    if isinstance(value, Mapping):
        yield from _problems_of_mapping(value, path=path)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from problems(inner, path=path)
    elif isinstance(value, str):
        if _is_in_url(value):
            yield f"{path}: the URL holds a credential; {_ADVICE}"
        elif _VALUE.search(value) or _ASSIGNMENT.search(value):
            yield f"{path}: holds a credential; {_ADVICE}"


def _problems_of_mapping(values: Mapping[Any, Any], *, path: str) -> Iterator[str]:
    for key, inner in values.items():
        here = f"{path}.{key}" if path else str(key)
        if _is_secret_name(str(key)) and _has_secret(inner):
            yield f"{here}: looks like a credential; {_ADVICE}"
        else:
            yield from problems(inner, path=here)
    # A variable of Kubernetes: {name: TOKEN, value: …}.
    name = values.get("name")
    if isinstance(name, str) and _is_secret_name(name) and _has_secret(values.get("value")):
        yield f"{path}: the value of {name} looks like a credential; {_ADVICE}"


def _is_secret_name(name: str) -> bool:
    name = _CAMEL.sub("_", name)
    return _KEY.search(name) is not None and _HARMLESS_KEY.search(name) is None


def _has_secret(value: Any) -> bool:
    """Whether the value of a secret's name is one, and not a reference, a switch or empty."""
    if isinstance(value, Mapping):
        return any(_has_secret(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(map(_has_secret, value))
    if isinstance(value, str):
        return bool(value) and not value.startswith("$")
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_in_url(text: str) -> bool:
    if "://" not in text:
        return False
    users = (
        match
        for match in _USER.finditer(text)
        if ":" in match["user"] or match["scheme"].lower() not in _NAMED_USERS
    )
    return any(users) or _QUERY.search(text) is not None
