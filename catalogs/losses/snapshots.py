"""Snapshots: which shards come from which row group of which part. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from attent_select.html_cards import card, histogram
from catalogs.losses.parts import ShardLosses
from catalogs.shard_format import Shard


@dataclass(frozen=True)
class Segment:
    """Consecutive shards `first` … `last` that a snapshot takes from one part.

    `groups` are the row groups of these shards in the part; `round_number` is the round that made
    the part.
    """

    part: str
    groups: tuple[int, ...]
    first: int
    last: int
    round_number: int

    def within(self, first: int, last: int) -> "Segment | None":
        """Return the segment of its shards in `first` … `last`; None if there are none."""
        low, high = max(first, self.first), min(last, self.last)
        if low > high:
            return None
        groups = self.groups[low - self.first : high - self.first + 1]
        return Segment(self.part, groups, low, high, self.round_number)


def segments_of(snapshot: pl.DataFrame, parts: dict[str, Any]) -> Iterator[Segment]:
    """Yield the segments of a snapshot; `parts` are its notes on each part."""
    ranges = snapshot.group_by(pl.col("part").rle_id().alias("range"), maintain_order=True).agg(
        pl.col("part").first(),
        pl.col(schema.SHARD_ID).first().alias("first"),
        pl.col(schema.SHARD_ID).last().alias("last"),
        pl.col("row_group"),
    )
    for row in ranges.iter_rows(named=True):
        groups, round_number = tuple(row["row_group"]), parts[row["part"]]["round"]
        yield Segment(row["part"], groups, row["first"], row["last"], round_number)


def check_complete(rows: Sequence[ShardLosses], shards: Sequence[Shard]) -> None:
    """Raise `InputError` unless `rows` have the losses of every shard once, in order."""
    shard_ids = [row.shard_id for row in rows]
    if shard_ids != list(range(len(shards))):
        missing_ids = sorted(set(range(len(shards))) - set(shard_ids))
        duplicate_ids = [shard_id for shard_id, count in Counter(shard_ids).items() if count > 1]
        raise InputError(
            f"a snapshot needs every shard of the corpus once: missing {missing_ids[:10]},"
            f" duplicates {duplicate_ids[:10]}. Score the missing shards"
        )
    for row, shard in zip(rows, shards, strict=True):
        if row.num_rows != shard.num_samples:
            raise InputError(
                f"shard {shard.shard_id} has {row.num_rows} losses, but {shard.num_samples} samples"
                " in the corpus: score it again"
            )


def losses_card(
    run: str,
    rounds: Sequence[int] = (),
    *,
    snapshot: pl.DataFrame | None = None,
    losses: pl.Series | None = None,
    problem: str | None = None,
) -> str:
    """Return the losses of a run as HTML: the newest `snapshot`, and a histogram of `losses`.

    `losses` are those of all rows, or of a sample, which the caption then says. `problem` says why
    the run has no snapshot.
    """
    if snapshot is None or losses is None:
        return card("LossCatalog", {"run": run, "problem": problem})
    num_ok, total = int(snapshot["num_ok"].sum()), int(snapshot["num_rows"].sum())
    facts = {
        "run": run,
        "rounds": rounds,
        "samples": total,
        "with a loss": num_ok,
        "smallest loss (nats)": snapshot["loss_min"].min(),
        "mean loss (nats)": snapshot["loss_sum"].sum() / num_ok if num_ok else None,
        "largest loss (nats)": snapshot["loss_max"].max(),
    }
    rows = "all rows" if len(losses) == total else f"a sample of {len(losses):,} rows"
    caption = f"losses of round {rounds[-1]} in nats, {rows}"
    return card("LossCatalog", facts, plot=histogram(losses.drop_nulls(), caption=caption))
