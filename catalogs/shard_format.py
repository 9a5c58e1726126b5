"""Shard format protocol and its values.

A new format is one new file in `catalogs/formats/`, or any importable module. The suite in
`catalogs.testing` checks it.
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
    """Result of inspecting a shard: sample count, columns, and (tar files) the member index."""

    num_samples: int
    columns: tuple[str, ...]
    members: pa.Table | None = None


@dataclass(frozen=True)
class Reading:
    """Samples in the order of the requested rows, and what reading them cost.

    `values` has `num_samples` plain Python values for every requested column. They are columns
    because an object per sample costs more than reading a small sample.

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
        """The samples one by one; built on each access."""
        return samples_of(self.values, num_samples=self.num_samples)


def samples_of(values: Mapping[str, Sequence[Any]], *, num_samples: int) -> list[Sample]:
    """Turn columns into `num_samples` samples."""
    empty: Sample = dict.fromkeys(values)
    samples = [empty.copy() for _ in range(num_samples)]
    # Column by column: `dict(zip(names, values))` per sample takes four times as long.
    for name, column in values.items():
        for sample, value in zip(samples, column, strict=True):
            sample[name] = value
    return samples


class ShardFormat(Protocol):
    """Reader and writer of shards of one format. Stateless: instances carry no data."""

    suffixes: tuple[str, ...]
    # Whether ingestion saves a member index (`Inspection.members`), which `read` uses.
    keeps_members: bool

    def inspect(self, url: str) -> Inspection:
        """Inspect a shard once. Raises `InputError` that names the shard if it is damaged."""
        ...

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read `columns` of the samples at `rows` (strictly increasing).

        Raises:
            InputError: a column is not in the shard, or the shard is damaged.
            MissingError: the shard was deleted.
            CorpusMismatchError: the shard is not the object that was ingested (etag).
        """
        ...

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """Return the requests of `read` for these samples; raises what `read` raises.

        Costs at most one small request per shard, whose answer `read` uses again.
        """
        ...

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Return the first row of every row group (rows that are read together), ascending from 0.

        Raises:
            InputError: this format has no row groups, or the shard is damaged.
        """
        ...

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write a local shard; equal samples give equal bytes."""
        ...


@dataclass(frozen=True)
class CorpusVersion:
    """An earlier version of a corpus: its first `num_shards` shards."""

    corpus_id: str
    num_shards: int
