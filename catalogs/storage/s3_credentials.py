"""S3 credentials from every source that botocore supports, refreshed before they expire.

Profiles, processes, containers, web identities and instance roles; obstore alone supports only some
of them.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from attent_select.errors import StorageError

# How often obstore asks; botocore refreshes credentials that are about to expire.
_LIFETIME = timedelta(minutes=5)


class Provider:
    """Credential provider that obstore calls repeatedly."""

    def __init__(self) -> None:
        from botocore.session import get_session

        self._credentials: Any = get_session().get_credentials()

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
