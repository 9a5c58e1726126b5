"""attent import-losses: losses of other programs as a snapshot of a run's or corpus's catalog."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import polars as pl

from attent_select import schema
from attent_select.errors import ExistsError, InputError
from attent_select.schema import LOSS, LOSSES, NUM_UNITS, ROW, SHARD_ID, STATUS
from catalogs import Corpus, LossCatalog
from catalogs.losses.catalog import PartSummary
from catalogs.losses.merge import unseen_losses
from catalogs.tables import frames
from pipeline.progress import progress
from pipeline.runs.lease import hold_lease
from pipeline.selection import loss_tables
from pipeline.selection.own_losses import OwnColumns

# Rows of a part, about.
_PART_ROWS = 2 << 20
_KEY = [SHARD_ID, ROW]


@dataclass(frozen=True)
class ImportResult:
    """A snapshot of round `round`: `imported` samples have a new loss.

    `kept` samples have the loss of an earlier round, `without_loss` samples have none.
    """

    round: int
    imported: int
    kept: int
    without_loss: int
    catalog_digest: str
    seconds: float


def import_losses(
    run: str,
    losses: str,
    *,
    sample_id: str | None = None,
    loss: str | None = None,
    round_number: int | None = None,
) -> ImportResult:
    """Publish losses that another program measured as those of a round.

    A sample that `losses` lacks keeps its loss of the round before, if there is one.

    Args:
        run: URL of a run or a corpus.
        losses: URL, folder or glob of Parquet files with a loss for each sample, which is named by
            the columns shard_id and row, or by an id; `num_units` is optional (default: 1).
        sample_id: column with ids, which the corpus has, too.
        loss: column with the losses, in nats; default: `loss`.
        round_number: default: the first round after the last one with losses.

    Raises:
        InputError: a column is missing, or a sample is unknown or occurs twice.
        ExistsError: the round has losses.
    """
    started = monotonic()
    catalog = LossCatalog(run)
    earlier = catalog.rounds()
    number = (earlier[-1] + 1 if earlier else 0) if round_number is None else round_number
    if number in earlier:
        raise ExistsError(f"{run}: round {number} has losses already: choose another --round")
    if earlier and number < earlier[-1]:
        raise InputError(f"--round {number}: round {earlier[-1]} has losses, expected a later one")
    own = OwnColumns(sample_id, loss, catalog.corpus)
    table = loss_tables.find(losses, columns=[LOSS], round_number=None, own=own)
    table.check_columns([LOSS])
    table.check_unique()
    with hold_lease(catalog.run), loss_tables.polars_errors(table):
        new = _losses_of(table.rows.frame(), url=losses)
        parts = list(_build_parts(catalog, new, number=number, since=earlier[-1:]))
        seconds = monotonic() - started
        catalog.publish(number, parts, provenance=_provenance(losses, len(new), seconds))
    num_ok = sum(shard.num_ok for part in parts for shard in part.shards)
    num_new = len(new.filter(pl.col(STATUS) == schema.OK))
    return ImportResult(
        round=number,
        imported=num_new,
        kept=num_ok - num_new,
        without_loss=catalog.corpus.num_samples - num_ok,
        catalog_digest=catalog.digest(number),
        seconds=monotonic() - started,
    )


def _provenance(losses: str, scored: int, seconds: float) -> dict[str, object]:
    return {
        "imported_from": losses,
        "checkpoint_digest": "imported",
        schema.MEASURED_STEP: 0,
        "scored": scored,
        "seconds": seconds,
    }


def _losses_of(rows: pl.LazyFrame, *, url: str) -> pl.DataFrame:
    """Return `schema.LOSSES` of the imported rows, sorted; a loss that is not finite is null."""
    kinds = rows.collect_schema()
    if not kinds[LOSS].is_numeric():
        raise InputError(f"{url}: the losses are {kinds[LOSS]}, expected numbers")
    units = pl.col(NUM_UNITS) if NUM_UNITS in kinds else pl.lit(1)
    values = pl.col(LOSS).cast(pl.Float32)
    is_finite = values.is_finite().fill_null(False)
    status = pl.when(is_finite).then(pl.lit(schema.OK)).otherwise(pl.lit("nonfinite"))
    columns = {
        LOSS: pl.when(is_finite).then(values),
        NUM_UNITS: units,
        STATUS: status,
        schema.MEASURED_STEP: pl.lit(0),
        schema.ORIGIN: pl.lit(schema.SCORED),
        schema.VISITS: pl.lit(0),
    }
    named = rows.select(*_KEY, *(value.alias(name) for name, value in columns.items()))
    return named.cast(pl.Schema(LOSSES)).select(list(LOSSES)).collect().sort(_KEY)


def _build_parts(
    catalog: LossCatalog, new: pl.DataFrame, *, number: int, since: Sequence[int]
) -> Iterator[PartSummary]:
    """Write the losses of all shards as parts, range by range."""
    corpus = catalog.corpus
    kinds = _kinds(catalog, since)
    writer = LossCatalog(catalog.run, carry=kinds)
    with progress("importing", total=corpus.num_samples, unit="samples") as advance:
        for shards in _ranges(corpus):
            between = pl.col(SHARD_ID).is_between(shards.start, shards.stop - 1)
            counts = [corpus.shard(shard_id).num_samples for shard_id in shards]
            old = unseen_losses(shards, counts)
            if since:
                old = catalog.latest(since[0]).filter(between).collect()
            # A row that is imported is replaced with all its nulls.
            rows = old.update(new.filter(between), on=_KEY, include_nulls=True).sort(_KEY)
            span = f"imported-{number:05d}-{shards.start:08d}"
            writer.write_span(span, rows)
            yield writer.compact([span], round_number=number)
            advance(sum(counts))


def _kinds(catalog: LossCatalog, since: Sequence[int]) -> frames.SchemaDict:
    """Return the columns that the losses of the round before have besides `schema.LOSSES`."""
    if not since:
        return {}
    kinds = catalog.latest(since[0]).collect_schema()
    return {name: kind for name, kind in kinds.items() if name not in LOSSES}


def _ranges(corpus: Corpus) -> Iterator[range]:
    """Yield ranges of consecutive shards with about `_PART_ROWS` rows each."""
    first, filled = 0, 0
    for shard in corpus.shards:
        if filled and filled + shard.num_samples > _PART_ROWS:
            yield range(first, shard.shard_id)
            first, filled = shard.shard_id, 0
        filled += shard.num_samples
    yield range(first, len(corpus.shards))
