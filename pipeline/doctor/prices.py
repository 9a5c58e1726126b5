"""Prices of requests and workers, and the request rates of an object store. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from attent_select.errors import InputError

# When the defaults were the list prices of S3 Standard in us-east-1, and of a core on demand.
AS_OF: Final = "2025-01"


@dataclass(frozen=True)
class Prices:
    """US dollars, and requests per second; the defaults are those of S3 Standard in us-east-1.

    Attributes:
        thousand_reads: 1,000 GET or HEAD requests.
        thousand_writes: 1,000 PUT or LIST requests.
        thousand_deletes: 1,000 DELETE requests.
        gigabyte_read: bytes that leave the store; nothing within a region.
        worker_hour: an hour of one worker: a core; raise it for a GPU.
        reads_per_second: rate of GET and HEAD requests below one prefix.
        writes_per_second: rate of PUT and DELETE requests below one prefix.
    """

    thousand_reads: float = 0.0004
    thousand_writes: float = 0.005
    thousand_deletes: float = 0.0
    gigabyte_read: float = 0.0
    worker_hour: float = 0.05
    reads_per_second: float = 5500.0
    writes_per_second: float = 3500.0

    def with_values(self, texts: Sequence[str]) -> "Prices":
        """Return the prices with each `NAME=VALUE` replaced.

        Raises:
            InputError: an unknown name, or a value that is not a number of at least 0.
        """
        names, values = [field.name for field in fields(self)], {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in names:
                raise InputError(f"--price {text}: expected NAME=VALUE, NAME of {', '.join(names)}")
            values[name] = _number(value, text)
            if name.endswith("_second") and not values[name]:
                raise InputError(f"--price {text}: expected a rate of more than 0")
        return replace(self, **values)


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InputError(f"--price {text}: expected a number of at least 0")
    return number
