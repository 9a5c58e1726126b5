"""Memory limit of a Dask worker, checked without importing Dask."""

import re

from attent_select.errors import InputError

# What `dask.utils.parse_bytes` reads: a number and a unit such as GB, GiB, G or none.
_AMOUNT = re.compile(r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?([kmgtp]i?)?b?|[kmgtp]i?b?|b", re.IGNORECASE)


def check_memory_limit(limit: str) -> None:
    """Check a memory limit: `auto`, a share of the machine's memory, or a number of bytes.

    Raises:
        InputError: Dask cannot read `limit`, or it is negative.
    """
    if limit.strip().startswith("-"):
        raise InputError(f"memory limit must not be negative, got {limit}")
    if limit != "auto" and not _AMOUNT.fullmatch(limit.replace(" ", "")):
        raise InputError(
            f"invalid memory limit {limit!r}: expected `auto`, 0 (no limit) or e.g. 4GiB"
        )
