"""Parts of the loss catalog: checks on scored rows, encoding, and summaries for snapshots."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from attent_select import schema
from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import Corpus, check_corpus
from catalogs.layout import Layout
from catalogs.tables import dense_parts, frames


@dataclass(frozen=True)
class ShardLosses:
    """One row of a snapshot (`schema.SNAPSHOT`): location and statistics of a shard's losses.

    `loss_min` and `loss_max` are None and `loss_sum` is 0 if no sample of the shard is ok.
    """

    shard_id: int
    part: str
    row_group: int
    num_rows: int
    num_ok: int
    loss_min: float | None
    loss_max: float | None
    loss_sum: float


@dataclass(frozen=True)
class BatchSplits:
    """Number of batches halved after running out of memory, and the largest that fitted, in units.

    Losses of halved batches may differ in their last bits.
    """

    num_splits: int = 0
    fitting_units: int | None = None

    @classmethod
    def sum(cls, several: Iterable["BatchSplits"]) -> "BatchSplits":
        """Add up the batch splits of several spans or parts."""
        summands = list(several)
        fitting = [one.fitting_units for one in summands if one.fitting_units is not None]
        return cls(sum(one.num_splits for one in summands), min(fitting, default=None))


@dataclass(frozen=True)
class PartSummary:
    """A written part: its name, the span files that it was made from, and its shards."""

    part: str
    spans: tuple[str, ...]
    shards: tuple[ShardLosses, ...]
    batch_splits: BatchSplits = BatchSplits()


def check_losses(rows: pl.DataFrame, *, what: str) -> None:
    """Raise `InputError` unless exactly the samples that are ok have a (finite) loss."""
    is_ok = pl.col(schema.STATUS) == schema.OK
    has_loss = pl.col(schema.LOSS).is_not_null() & pl.col(schema.LOSS).is_finite()
    known = pl.col(schema.STATUS).is_in(list(schema.STATUSES))
    wrong = rows.filter(
        (is_ok != pl.col(schema.LOSS).is_not_null())
        | (is_ok & ~has_loss)
        | ~known
        | pl.col(schema.STATUS).is_null()
    )
    if len(wrong):
        first = wrong.row(0, named=True)
        raise InputError(
            f"{what}: row {first['row']} of shard {first['shard_id']} has loss {first['loss']} and"
            f" status {first['status']!r}: expected a finite loss with {schema.OK!r}, null with"
            f" one of {', '.join(schema.STATUSES[1:])}"
        )


def digest_of(losses: pl.LazyFrame) -> str:
    """Digest of sorted losses: shard_id, row, loss bits, num_units and status of each row."""
    # An Enum, because `replace_strict` would hold the whole column in memory.
    status = pl.col(schema.STATUS).cast(pl.Enum(schema.STATUSES)).to_physical()
    rows = losses.select(
        schema.SHARD_ID,
        schema.ROW,
        pl.col(schema.LOSS).fill_null(float("nan")),
        schema.NUM_UNITS,
        status.cast(pl.UInt8),
    )
    digest = frames.ColumnDigest(rows.collect_schema().names())
    for batch in rows.collect_batches(maintain_order=True, engine="streaming"):
        digest.update(batch)
    return digest.hexdigest()


def check_parts(snapshot: pl.DataFrame, *, run: str, corpus: Corpus) -> None:
    """Raise `InputError` unless every part in `snapshot` is complete and belongs to `corpus`.

    Reads the footers of all parts concurrently.
    """
    rows = pl.col("num_rows").cast(pl.UInt64).sum()
    parts = snapshot.group_by("part").agg(rows).sort("part").rows()

    def check(part: tuple[str, int]) -> None:
        name, num_rows = part
        url = Layout(run).part(name)
        if storage.info(url) is None:
            raise MissingError(f"{url} was deleted: restore the part, or score the round again")
        footer = frames.footer_of(url)
        check_corpus(frames.notes_of(footer), corpus=corpus, what=f"the part {url}")
        if footer.num_rows < num_rows:
            raise InputError(
                f"{url} has {footer.num_rows} rows, but {num_rows} in the snapshot: restore the"
                " part, or score the round again"
            )

    list(ordered_map(check, parts, num_threads=16))


def build_part(
    rows: pl.DataFrame, *, run: str, spans: Sequence[str], notes: frames.Notes
) -> PartSummary:
    """Publish dense, sorted `rows` as a part whose name is the digest of its bytes."""
    part, shards = dense_parts.publish_part(rows, url_of=Layout(run).part, notes=notes)
    return PartSummary(part, tuple(spans), tuple(_summaries(shards, part)))


def _summaries(shards: Sequence[pl.DataFrame], part: str) -> Iterator[ShardLosses]:
    for row_group, shard in enumerate(shards):
        losses = shard[schema.LOSS]
        yield ShardLosses(
            shard_id=int(shard[schema.SHARD_ID][0]),
            part=part,
            row_group=row_group,
            num_rows=len(shard),
            num_ok=len(shard) - losses.null_count(),
            loss_min=_number(losses.min()),
            loss_max=_number(losses.max()),
            loss_sum=float(losses.cast(pl.Float64).sum()),
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
