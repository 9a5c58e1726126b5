"""Credentials for S3 from wherever the environment says, kept fresh.

Profiles, processes, containers, web identities and instance roles, as botocore knows them;
obstore by itself knows a part.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from attent_select.errors import StorageError

# How often we are asked; botocore gets new ones as soon as the old ones come near their end.
_ASK_AGAIN = timedelta(minutes=5)


class Provider:
    """What obstore calls for credentials, again and again."""

    def __init__(self) -> None:
        from botocore.session import get_session

        self._credentials: Any = get_session().get_credentials()

    def __call__(self) -> dict[str, Any]:
        """Raises `StorageError` if there are none."""
        if self._credentials is None:
            raise StorageError(
                "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, or give this machine a role"
            )
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _ASK_AGAIN,
        }


def provider() -> Provider | None:
    """The provider, where one is needed and botocore is installed (`attent-select[s3]`)."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return None
    try:
        return Provider()
    except ImportError:
        return None
