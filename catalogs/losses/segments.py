"""Which shards a snapshot takes from which part, and how often their rows were trained on.

Values and sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from attent_select import schema

_KEY = (schema.SHARD_ID, schema.ROW)
_MAX_VISITS = (1 << 16) - 1


@dataclass(frozen=True)
class Segment:
    """A run of shards `first` … `last` that a snapshot takes from one part."""

    part: str
    # Where in the part each of the shards is; none without a part.
    groups: tuple[int, ...]
    first: int
    last: int
    # The round that the part was made in.
    round_number: int

    def within(self, first: int, last: int) -> "Segment | None":
        low, high = max(first, self.first), min(last, self.last)
        if low > high:
            return None
        groups = self.groups[low - self.first : high - self.first + 1]
        return Segment(self.part, groups, low, high, self.round_number)


def sum_visits(rows: pl.DataFrame, counts: Sequence[pl.LazyFrame]) -> pl.Series:
    """The visits of `rows` (shard_id, row), added up over `counts`."""
    keys = rows.lazy().select(_KEY)
    if not counts:
        return pl.Series(schema.VISITS, [0], dtype=pl.UInt16).new_from_index(0, len(rows))
    visits = pl.col(schema.VISITS)
    total = pl.concat(counts).group_by(_KEY).agg(visits.cast(pl.UInt64).sum())
    joined = keys.join(total, on=_KEY, how="left", maintain_order="left")
    clipped = visits.fill_null(0).clip(0, _MAX_VISITS).cast(pl.UInt16)
    return joined.select(clipped).collect()[schema.VISITS]
