"""What a shard format must do, and the values that cross that seam.

The protocol and its values. A new format is one new file; the suite under `tests/conformance/`
finds and tests it because it exists.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from catalogs.read_plan import ReadPlan

# One sample: column name → plain Python value (bytes, str, int, float, list, dict or None).
Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of the manifest. `members_uri` is set for formats that keep a member index."""

    shard_id: int
    uri: str
    format: str
    num_samples: int
    num_bytes: int
    etag: str
    members_uri: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What ingesting a shard found: sample count, column names, and (tars) the member index."""

    num_samples: int
    columns: tuple[str, ...]
    members: pa.Table | None = None


@dataclass(frozen=True)
class Reading:
    """Samples in the order of the rows that were asked for, and what getting them cost.

    `values` has `num_samples` plain Python values for every column that was asked for: as columns,
    because an object for each sample costs more than to read a small one.

    `bytes_selected` is the extent of the selected samples in their shard (tar: headers and padding
    included; Parquet: the share of the column chunks read). Read amplification is
    `bytes_read / bytes_selected`.
    """

    values: dict[str, list[Any]]
    num_samples: int
    bytes_read: int
    bytes_selected: int
    num_requests: int

    @property
    def samples(self) -> list[Sample]:
        """One by one; made anew each time."""
        return samples_of(self.values, num_samples=self.num_samples)


def samples_of(values: Mapping[str, Sequence[Any]], *, num_samples: int) -> list[Sample]:
    """Columns → `num_samples` samples."""
    empty: Sample = dict.fromkeys(values)
    samples = [empty.copy() for _ in range(num_samples)]
    # Column by column: a dictionary made of names and values takes four times as long.
    for name, found in values.items():
        for sample, value in zip(samples, found, strict=True):
            sample[name] = value
    return samples


class ShardFormat(Protocol):
    """Reads and writes shards of one format. Stateless: instances carry no data."""

    suffixes: tuple[str, ...]
    # Whether samples are found through a member index that ingesting wrote (`Inspection.members`).
    keeps_members: bool

    def inspect(self, url: str) -> Inspection:
        """Look through a shard once. Raises `InputError` naming the shard when it is damaged."""
        ...

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """The samples at `rows` (strictly increasing), only `columns`.

        Raises:
            InputError: a column is not in the shard, or the shard is damaged.
            MissingError: the shard is gone.
            CorpusMismatchError: the shard is not the object that was ingested (etag).
        """
        ...

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """What `read` would request for these samples; raises what `read` raises.

        Costs at most one small request for each shard, the answer to which `read` uses as well.
        """
        ...

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """The first row of every piece that is read as a whole, ascending from 0.

        Raises:
            InputError: this format has none, or the shard is damaged.
        """
        ...

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write a local shard, byte-identical for equal samples."""
        ...
