"""The numbers behind a report: run → small tables, each ready to be drawn.

Here: polars queries over a run's files, bounded in memory whatever the corpus. Not here: charts
(`charts.py`) or the page (`report.py`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from attent_select import schema
from attent_select.randomness import Purpose, bits, stream_key
from catalogs import Corpus, LossCatalog
from catalogs.shard_format import Sample
from pipeline.query import index

# Coverage and overlap are read from at most about this many samples, the same in every round.
_SAMPLED_ROWS = 200_000
_BINS = 60


@dataclass(frozen=True)
class HardSample:
    """One sample with its newest loss."""

    shard_id: int
    row: int
    loss: float
    sample: Sample


def loss_histograms(run: str) -> pl.DataFrame:
    """Per scored round: `round`, `low` and `high` of each bin (nats), and the `share` of samples.

    All rounds share their bins, up to the 99.5 % quantile of the first; the last bin holds the
    rest.
    """
    catalog = LossCatalog(run)
    rounds = catalog.rounds()
    if not rounds:
        return pl.DataFrame(schema=["round", "low", "high", "share"])
    ok = pl.col(schema.LOSS).is_not_null()
    first = catalog.latest(rounds[0]).filter(ok).select(pl.col(schema.LOSS).quantile(0.995))
    top = float(first.collect(engine="streaming").item() or 1.0) or 1.0
    width = top / _BINS
    position = (pl.col(schema.LOSS).cast(pl.Float64) / width).floor().clip(0, _BINS - 1)
    tables = []
    for number in rounds:
        counts = (
            catalog.latest(number)
            .filter(ok)
            .select(position.alias("bin"), pl.lit(1.0).alias("count"))
            .group_by("bin")
            .agg(pl.col("count").sum())
            .collect(engine="streaming")
        )
        every = pl.DataFrame({"bin": np.arange(_BINS, dtype=np.float64)})
        tables.append(
            every.join(counts, on="bin", how="left").select(
                pl.lit(number).alias("round"),
                (pl.col("bin") * width).alias("low"),
                ((pl.col("bin") + 1) * width).alias("high"),
                (pl.col("count").fill_null(0) / counts["count"].sum()).alias("share"),
            )
        )
    return pl.concat(tables)


def coverage(run: str) -> pl.DataFrame:
    """Per round: `ratio` of the corpus trained on, and the share `covered` by all rounds so far."""
    chosen, num_sampled = _sampled_index(run)
    rows = []
    seen: set[int] = set()
    for (number,), part in chosen.group_by("round", maintain_order=True):
        seen.update(part["key"])
        rows.append((number, len(part) / num_sampled, len(seen) / num_sampled))
    return pl.DataFrame(rows, schema=["round", "ratio", "covered"], orient="row")


def overlaps(run: str) -> pl.DataFrame:
    """Per pair of rounds: `first`, `second`, and the `overlap` |A ∩ B| / |A ∪ B| of their subsets."""
    chosen, _ = _sampled_index(run)
    subsets = {
        number: set(part["key"])
        for (number,), part in chosen.group_by("round", maintain_order=True)
    }
    rows = [
        (a, b, len(subsets[a] & subsets[b]) / max(1, len(subsets[a] | subsets[b])))
        for a in subsets
        for b in subsets
    ]
    return pl.DataFrame(rows, schema=["first", "second", "overlap"], orient="row")


def hardest(run: str, *, num_samples: int, columns: tuple[str, ...]) -> list[HardSample]:
    """The samples with the largest newest losses, largest first, with `columns` of their data."""
    catalog = LossCatalog(run)
    if not catalog.rounds():
        return []
    top = (
        catalog.latest()
        .select(schema.SHARD_ID, schema.ROW, schema.LOSS)
        .filter(pl.col(schema.LOSS).is_not_null())
        .top_k(num_samples, by=[schema.LOSS, schema.SHARD_ID, schema.ROW])
        .collect(engine="streaming")
        .sort(schema.SHARD_ID, schema.ROW)
    )
    corpus = Corpus.open(run)
    found = []
    for (shard_id,), part in top.group_by(schema.SHARD_ID, maintain_order=True):
        reading = corpus.read(int(str(shard_id)), rows=part[schema.ROW].to_list(), columns=columns)
        found += [
            HardSample(row["shard_id"], row["row"], row["loss"], sample)
            for row, sample in zip(part.iter_rows(named=True), reading.samples, strict=True)
        ]
    return sorted(found, key=lambda hard: (-hard.loss, hard.shard_id, hard.row))


def _sampled_index(run: str) -> tuple[pl.DataFrame, int]:
    """(`round`, `key`) of a fixed random sample of the corpus, and how many it has."""
    corpus = Corpus.open(run)
    key = stream_key(0, Purpose.SPLIT)
    share = min(1.0, _SAMPLED_ROWS / corpus.num_samples)
    drawn = bits(key, schema.sample_key()) <= pl.lit(int(share * (2**64 - 1)), dtype=pl.UInt64)
    sampled = corpus.rows().select(drawn.alias("drawn")).filter("drawn")
    num_sampled = len(sampled.collect(engine="streaming"))
    chosen = (
        index(run)
        .select("round", schema.sample_key().alias("key"), drawn.alias("drawn"))
        .filter("drawn")
        .select("round", "key")
        .collect(engine="streaming")
        .sort("round", "key")
    )
    return chosen, max(1, num_sampled)
