"""Which part of the catalog holds which shards, as a snapshot says.

Here: a snapshot's rows → runs of shards, and which runs are one scan. Pure. Not here: reading
snapshots and parts (`catalogs/losses.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from attent_select import schema


@dataclass(frozen=True)
class Segment:
    """A run of shards `first` … `last` that a snapshot takes from one part."""

    part: str
    first: int
    last: int
    # The round that the part was made in, and whether it holds nothing but these shards.
    round_number: int
    whole: bool

    def within(self, first: int, last: int) -> "Segment | None":
        low, high = max(first, self.first), min(last, self.last)
        if low > high:
            return None
        whole = self.whole and (low, high) == (self.first, self.last)
        return Segment(self.part, low, high, self.round_number, whole)


def of_snapshot(snapshot: pl.DataFrame, *, parts: Mapping[str, Any]) -> list[Segment]:
    """The segments of a snapshot, in shard order; `parts` are its notes on every part."""
    runs = snapshot.group_by(pl.col("part").rle_id().alias("run"), maintain_order=True).agg(
        pl.col("part").first(),
        pl.col(schema.SHARD_ID).first().alias("first"),
        pl.col(schema.SHARD_ID).last().alias("last"),
        pl.len().alias("num_shards"),
    )
    found = []
    for run in runs.iter_rows(named=True):
        part = parts[run["part"]]
        whole = run["num_shards"] == part["num_shards"]
        found.append(Segment(run["part"], run["first"], run["last"], part["round"], whole))
    return found


def scans(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Runs of whole parts are one scan; a piece of a part is one by itself."""
    group: list[Segment] = []
    for segment in segments:
        if not segment.whole:
            if group:
                yield group
            yield [segment]
            group = []
        else:
            group.append(segment)
    if group:
        yield group
