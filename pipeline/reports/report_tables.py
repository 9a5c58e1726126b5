"""Small tables behind the charts of a report.

Polars queries over a run's files, in memory that does not grow with the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from attent_select import schema
from attent_select.stats.histogram import LossDistribution, loss_bucket
from attent_select.stats.randomness import Purpose, bits, stream_key
from catalogs import Corpus, LossCatalog
from catalogs.shard_format import Sample
from pipeline.reports.query import index, selected_rounds

# Coverage and overlap are estimated from about this many samples, the same in every round.
_SAMPLED_ROWS = 200_000
# A chart of more rounds is unreadable, and each round costs a scan of its losses or its index.
_SHOWN_ROUNDS = 40
_BINS = 60


@dataclass(frozen=True)
class ShownSample:
    """A sample and the value that it is shown for, such as its newest loss."""

    shard_id: int
    row: int
    value: float
    sample: Sample


def loss_histograms(run: str) -> pl.DataFrame:
    """Return per scored round and bin: `round`, `low` and `high` (nats), `share` of samples.

    At most about 40 rounds, evenly spaced. All rounds have the same bins, from the smallest 0.5 %
    quantile to the largest 99.5 % quantile of any of them; losses outside count in the end bins.
    """
    catalog = LossCatalog(run)
    shown = _rows_to_show(catalog.rounds())
    rounds = {number: loss_distribution(catalog.latest(number)) for number in shown}
    rounds = {number: losses for number, losses in rounds.items() if losses.num_samples}
    if not rounds:
        return pl.DataFrame(schema=["round", "low", "high", "share"])
    low = min(losses.quantile(0.005) for losses in rounds.values())
    high = max(losses.quantile(0.995) for losses in rounds.values())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return pl.concat(
        pl.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "share": np.histogram(
                    losses.values.clip(edges[0], edges[-1]), bins=edges, weights=losses.counts
                )[0]
                / losses.num_samples,
            }
        ).select(pl.lit(number).alias("round"), pl.all())
        for number, losses in rounds.items()
    )


def coverage(run: str) -> pl.DataFrame:
    """Return per round: `ratio` of the corpus, and the share `covered` by all rounds so far."""
    chosen, num_sampled = _sampled_index(run, rounds=selected_rounds(run))
    rows = []
    seen: set[int] = set()
    for (number,), part in chosen.group_by("round", maintain_order=True):
        seen.update(part["key"])
        rows.append((number, len(part) / num_sampled, len(seen) / num_sampled))
    return pl.DataFrame(rows, schema=["round", "ratio", "covered"], orient="row")


def overlaps(run: str, *, among: Sequence[int] | None = None) -> pl.DataFrame:
    """Return per pair of rounds: `first`, `second`, and the `overlap` |A ∩ B| / |A ∪ B|.

    Of the rounds `among`, or of at most about 40 rounds, evenly spaced.
    """
    shown = _rows_to_show(selected_rounds(run)) if among is None else among
    chosen, _ = _sampled_index(run, rounds=shown)
    rounds, lines = np.unique(chosen["round"].to_numpy(), return_inverse=True)
    keys, columns = np.unique(chosen["key"].to_numpy(), return_inverse=True)
    # float32 has a fast matrix product, and counts up to 2^24 exactly.
    subsets = np.zeros((len(rounds), len(keys)), dtype=np.float32)
    subsets[lines, columns] = 1
    common = subsets @ subsets.T
    sizes = common.diagonal()
    overlap = common / np.maximum(1, sizes[:, None] + sizes[None, :] - common)
    return pl.DataFrame(
        {
            "first": np.repeat(rounds, len(rounds)),
            "second": np.tile(rounds, len(rounds)),
            "overlap": overlap.ravel().astype(np.float64),
        }
    )


def hardest_samples(run: str, *, num_samples: int, columns: tuple[str, ...]) -> list[ShownSample]:
    """Return the samples with the largest newest losses, largest first, with `columns` of data."""
    catalog = LossCatalog(run)
    if not catalog.rounds():
        return []
    top = (
        catalog.latest()
        .select(schema.SHARD_ID, schema.ROW, value=pl.col(schema.LOSS))
        .filter(pl.col("value").is_not_null())
        .top_k(num_samples, by=["value", schema.SHARD_ID, schema.ROW])
        .collect(engine="streaming")
    )
    return read_samples(run, top, columns=columns)


def read_samples(run: str, rows: pl.DataFrame, *, columns: tuple[str, ...]) -> list[ShownSample]:
    """Read `columns` of rows (shard_id, row, value), largest value first."""
    corpus = Corpus.open(run)
    samples = []
    in_order = rows.sort(schema.SHARD_ID, schema.ROW)
    for (shard_id,), part in in_order.group_by(schema.SHARD_ID, maintain_order=True):
        reading = corpus.read(int(str(shard_id)), rows=part[schema.ROW].to_list(), columns=columns)
        samples += [
            ShownSample(row["shard_id"], row["row"], row["value"], sample)
            for row, sample in zip(part.iter_rows(named=True), reading.samples, strict=True)
        ]
    return sorted(samples, key=lambda shown: (-shown.value, shown.shard_id, shown.row))


def drawn_rows(num_rows: int) -> pl.Expr:
    """Return a condition on shard_id and row: a fixed random draw of about 200,000 of the rows."""
    share = min(1.0, _SAMPLED_ROWS / num_rows)
    limit = pl.lit(min(2**64 - 1, int(share * 2**64)), dtype=pl.UInt64)
    return bits(stream_key(0, Purpose.SPLIT), schema.sample_key()) <= limit


def _rows_to_show(rounds: Sequence[int]) -> list[int]:
    """Return at most `_SHOWN_ROUNDS` rounds, evenly spaced, with the first and the last."""
    num_shown = min(len(rounds), _SHOWN_ROUNDS)
    numbers = np.linspace(0, len(rounds) - 1, num_shown).round().astype(int)
    return [rounds[number] for number in numbers]


def _sampled_index(run: str, *, rounds: Sequence[int]) -> tuple[pl.DataFrame, int]:
    """Return (`round`, `key`) of a fixed random subset of the corpus, and its size."""
    corpus = Corpus.open(run)
    drawn = drawn_rows(corpus.num_samples)
    sampled = corpus.rows().select(drawn.alias("drawn")).filter("drawn")
    num_sampled = len(sampled.collect(engine="streaming"))
    chosen = (
        index(run, rounds=rounds)
        .select("round", schema.sample_key().alias("key"), drawn.alias("drawn"))
        .filter("drawn")
        .select("round", "key")
        .collect(engine="streaming")
        .sort("round", "key")
    )
    return chosen, max(1, num_sampled)


def loss_distribution(losses: pl.LazyFrame) -> LossDistribution:
    """Return the distribution of the losses that are not null."""
    counts = (
        losses.filter(pl.col(schema.LOSS).is_not_null())
        .select(
            loss_bucket(pl.col(schema.LOSS)).alias("bucket"), pl.lit(1, dtype=pl.UInt64).alias("n")
        )
        .group_by("bucket")
        .agg(pl.col("n").sum())
        .collect(engine="streaming")
    )
    return LossDistribution.from_buckets(counts["bucket"].to_numpy(), counts["n"].to_numpy())
