"""What a stream has cost so far, and how many of its samples could not be used.

Counting, and the end of training when too many samples are left out.
"""

import threading
from dataclasses import dataclass, field

from attent_select.errors import InputError, SampleError
from catalogs.storage import ReadMeter

# Bad samples that are always forgiven: a share says nothing about the first few samples.
_FORGIVEN = 16


@dataclass
class StreamStats:
    """Bytes and requests are this rank's, footers and member indexes included; `bytes_cached` came
    from the node's cache; `padded` and `dropped` are slots and samples of the global order.
    `blocked_seconds` is the time that whoever trains waited for a batch.
    """

    num_samples: int = 0
    num_skipped: int = 0
    num_truncated: int = 0
    bytes_selected: int = 0
    padded: int = 0
    dropped: int = 0
    blocked_seconds: float = 0.0
    first_batch_seconds: float = 0.0
    last_skipped: str = ""
    meter: ReadMeter = field(default_factory=ReadMeter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def bytes_read(self) -> int:
        return self.meter.num_bytes

    @property
    def bytes_cached(self) -> int:
        return self.meter.cached_bytes

    @property
    def num_requests(self) -> int:
        return self.meter.num_requests

    @property
    def read_amplification(self) -> float:
        return self.bytes_read / self.bytes_selected if self.bytes_selected else 0.0

    def count_selected(self, num_bytes: int) -> None:
        """Bytes that samples which were read take in their shards."""
        with self._lock:
            self.bytes_selected += num_bytes

    def count(self, num_samples: int, *, truncated: int) -> None:
        """Samples handed out, and how many of them were cut short."""
        with self._lock:
            self.num_samples += num_samples
            self.num_truncated += truncated

    def skip(self, shard_id: int, *, row: int, error: SampleError, max_share: float) -> None:
        """Count a sample that cannot be used.

        Raises:
            InputError: those are more than `max_share` of all.
        """
        where = f"shard {shard_id}, row {row}"
        with self._lock:
            self.num_skipped += 1
            self.last_skipped = f"{where}: {error} ({error.status})"
            skipped = self.num_skipped
            seen = self.num_samples + skipped
        if skipped > max(_FORGIVEN, max_share * seen):
            raise InputError(
                f"{skipped} of {seen} samples cannot be used, more than the share of {max_share} "
                f"that is allowed; the last one: {where}: {error}"
            ) from error
