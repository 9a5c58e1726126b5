"""S3 through botocore: credentials from all of its sources, and listings with any key.

Profiles, processes, containers, web identities and instance roles; obstore alone supports only some
of them.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from attent_select.errors import StorageError

# How often obstore asks; botocore refreshes credentials that are about to expire.
_LIFETIME = timedelta(minutes=5)


class Provider:
    """Credential provider that obstore calls repeatedly."""

    def __init__(self) -> None:
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session

        try:
            self._credentials: Any = get_session().get_credentials()
        except BotoCoreError as error:  # such as a profile that does not exist
            raise StorageError(f"no S3 credentials found: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """Return the current credentials. Raises `StorageError` if there are none."""
        if self._credentials is None:
            raise StorageError(
                "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                " AWS_PROFILE, or attach a role to this machine"
            )
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _LIFETIME,
        }


def provider() -> Provider | None:
    """Return a provider if one is needed and botocore is installed (`attent-select[s3]`)."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return None
    try:
        return Provider()
    except ImportError:
        return None


def list_keys(bucket: str, prefix: str, endpoint: str) -> Iterator[tuple[str, int, str]]:
    """Yield key, bytes and etag of every object whose key begins with `prefix`.

    Raises:
        ImportError: botocore is not installed (`attent-select[s3]`).
    """
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import get_session

    is_anonymous = bool(os.environ.get("AWS_SKIP_SIGNATURE"))
    config = Config(signature_version=UNSIGNED) if is_anonymous else None
    client = get_session().create_client("s3", endpoint_url=endpoint or None, config=config)
    payer = {"RequestPayer": "requester"} if os.environ.get("AWS_REQUEST_PAYER") else {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **payer)
    for page in pages:
        for stored in page.get("Contents", ()):
            yield stored["Key"], stored["Size"], stored["ETag"]
