"""Check of the endpoints that the environment names for object stores. Pure."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from attent_select.errors import InputError

# AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AZURE_STORAGE_ENDPOINT, …
_NAME = re.compile(r"(AWS|AZURE|GOOGLE)_\w*(ENDPOINT|ENDPOINT_URL\w*)")


def check_endpoints(environment: Mapping[str, str]) -> None:
    """Check the URLs of endpoints: clients of object stores panic on others.

    Raises:
        InputError: an endpoint is not an http:// or https:// URL with a host.
    """
    for name, value in environment.items():
        if value and _NAME.fullmatch(name) and not _is_web_address(value):
            shown = "…" if "@" in value else value
            raise InputError(
                f"the environment variable {name} is {shown!r}: expected the URL of a server, such "
                "as http://localhost:9000 or https://s3.example.com"
            )


def _is_web_address(value: str) -> bool:
    try:
        url = urlsplit(value)
        is_valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is not a number, or brackets that do not match
        return False
    return is_valid and re.search(r"[\s\\<>\"^`{|}]", value) is None
