"""Loss tables: the losses that a selection reads, of a run, its catalog, or any Parquet files."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from attent_select import sample_ids
from attent_select.errors import InputError
from attent_select.schema import (
    FUNCTIONAL_GRADIENT,
    LOSS,
    LOSSES,
    MEASURED_STEP,
    NUM_UNITS,
    OK,
    ROW,
    SAMPLE_ID,
    SHARD_ID,
    STATUS,
)
from attent_select.selection.chunks import FrameChunks
from attent_select.selection.select import Preview
from attent_select.sql_expression import unknown_column
from catalogs import Corpus, LossCatalog, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.concurrency import ordered_map
from catalogs.corpus import has_corpus
from catalogs.index import FILES
from catalogs.losses.parts import check_parts
from catalogs.tables import frames
from catalogs.tables.joined import AnyScan
from catalogs.tables.scan import Scan
from pipeline.cluster.scan import ClusterScan
from pipeline.selection import own_losses
from pipeline.selection.own_losses import OwnColumns


@dataclass(frozen=True)
class LossTable:
    """Losses, one row per sample, in (shard, row) order where this project wrote them.

    Attributes:
        url: the location that the user named.
        files: the Parquet files with the rows.
        rows: all rows, read here or by the workers of a cluster.
        preview: some of the rows.
        catalog: of a run; None for other files.
        rounds: of a run, the rounds that were scored so far, where losses are read.
        annotations: the annotations that are read, name → digest.
        own: columns of other programs' files.
    """

    url: str
    files: tuple[str, ...]
    rows: AnyScan | ClusterScan | FrameChunks
    preview: Preview | None
    catalog: LossCatalog | None = None
    rounds: Sequence[int] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    own: OwnColumns = field(default_factory=OwnColumns)

    @property
    def corpus(self) -> Corpus | None:
        return self.catalog.corpus if self.catalog is not None else self.own.corpus

    def with_ids(self, selected: pl.LazyFrame) -> pl.DataFrame:
        """Return selected rows with the ids of the samples, in order."""
        ids = self.rows.frame().select(
            pl.col(SHARD_ID).cast(pl.UInt32), pl.col(ROW).cast(pl.UInt32), SAMPLE_ID
        )
        rows = ids.join(selected, on=[SHARD_ID, ROW]).collect(engine="streaming")
        return rows.sort(SHARD_ID, ROW)

    @property
    def provenance(self) -> dict[str, Any]:
        """What an index records about its source."""
        corpus_id = self.corpus.corpus_id if self.corpus else None
        facts: dict[str, Any] = {
            "corpus_id": corpus_id,
            "losses": self.url,
            "annotations": dict(self.annotations),
        }
        if self.own.sample_id is not None and corpus_id is None:
            facts[FILES] = list(self.files)
        return facts

    @property
    def schema(self) -> Mapping[str, Any]:
        """Column → dtype."""
        return self.rows.frame().collect_schema()

    def check_columns(self, needed: Iterable[str]) -> None:
        """Check that the losses have these columns.

        Raises:
            InputError: a column is missing; names a file without it.
        """
        kinds = self.schema
        if not (missing := [name for name in needed if name not in kinds]):
            return
        if self.catalog is not None:
            advice = f"Make an annotation of that name with `attent annotate {self.url} --name …`"
            if missing == [FUNCTIONAL_GRADIENT]:
                advice = "Set `scoring.functional_gradient: true` in a new run to measure it"
            raise InputError(
                f"{self.url}: its losses have no column {', '.join(missing)}, they have "
                f"{', '.join(kinds)}. {advice}"
            )
        for file in self.files:
            names = frames.footer_of(file).schema.names
            if absent := [name for name in missing if name not in names]:
                raise InputError(
                    f"{file} has no column {', '.join(absent)}: it has {', '.join(names)}"
                )

    def check_unique(self) -> None:
        """Check that no sample occurs twice; parts of a catalog were checked when written.

        Raises:
            InputError: a sample occurs twice.
        """
        if self.catalog is None:
            try:
                watch = self.rows.watch if isinstance(self.rows, Scan) else None
                sample_ids.check_unique(self.rows.frame(), watch=watch)
            except InputError as error:
                raise InputError(f"{self.url}: {error}") from error

    def round_steps(self, columns: Sequence[str]) -> list[int]:
        """Return the steps at which rounds began, where anything was measured then.

        Returns nothing unless `columns` has `measured_step`: it may take a pass over the losses.
        """
        if MEASURED_STEP not in columns:
            return []
        if self.catalog is not None:
            notes = [self.catalog.provenance(number) for number in self.rounds]
            if steps := {note[MEASURED_STEP] for note in notes if MEASURED_STEP in note}:
                return sorted(steps)
        measured = self.rows.frame().select(pl.col(MEASURED_STEP).drop_nulls().unique().sort())
        return measured.collect(engine="streaming").to_series().to_list()

    def without_loss(self) -> dict[str, int]:
        """Count rows without a finite loss by reason: `null`, `nonfinite`, or their status."""
        if LOSS not in self.schema:
            return {}
        counts: Counter[str] = Counter()
        for chunk_counts in self.rows.run(_reasons):
            counts.update(chunk_counts)
        return dict(sorted(counts.items()))


def _reasons(rows: pl.LazyFrame) -> dict[str, int]:
    """Count rows of a chunk without a finite loss by reason."""
    loss = pl.col(LOSS).cast(pl.Float32)
    null = pl.lit("null")
    if rows.collect_schema().get(STATUS) == pl.String:
        null = pl.when(pl.col(STATUS) != OK).then(pl.col(STATUS)).otherwise(null)
    reason = pl.when(loss.is_null()).then(null).otherwise(pl.lit("nonfinite"))
    without_loss = rows.filter(loss.is_finite().fill_null(False).not_())
    counts = without_loss.select(reason.alias("reason")).group_by("reason").len()
    return dict(counts.collect().iter_rows())


@contextlib.contextmanager
def polars_errors(table: LossTable | None) -> Iterator[None]:
    """Turn errors of polars in a selection from `table` into `InputError`."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        where = f"{table.url}: " if table is not None else ""
        raise InputError(f"{where}{str(error).splitlines()[0]}") from error


def find(
    url: str,
    *,
    columns: Sequence[str],
    round_number: int | None,
    own: OwnColumns = OwnColumns(),  # noqa: B008 - immutable
) -> LossTable:
    """Find the losses at `url`; of a run, those as of a round (default: the newest).

    Of a run or a corpus, `columns` are looked up in its annotations first. `own` names columns of
    other programs' files.

    Raises:
        InputError: nothing is there, a file is damaged, or its columns differ from the others'.
        CorpusMismatchError: a run's losses are of another corpus.
    """
    url = storage.normalise(url).rstrip("/")
    # A run, or the folder `losses` in it: its catalog.
    for run in (url, url.removesuffix("/losses")):
        if has_corpus(run):
            if own:
                raise InputError(
                    f"{url} is a run or a corpus: --id, --loss and --corpus are for files"
                )
            return of_run(LossCatalog(run), url=url, columns=columns, round_number=round_number)
    files = tuple(item.url for item in storage.expand([url]))
    kinds, num_rows = _columns(files, required=() if own else (SHARD_ID, ROW))
    if own:
        chunks = FrameChunks(own_losses.read_losses(files, kinds, own))
        return LossTable(url, files, chunks, None, own=own)
    rows = replace(Scan.of(files, schema=kinds), watch=sample_ids.IdWatch())
    return LossTable(url, files, rows, rows.preview(total=num_rows))


def of_run(
    catalog: LossCatalog,
    *,
    url: str,
    columns: Sequence[str] = (),
    round_number: int | None = None,
) -> LossTable:
    """Return what a selection by `columns` reads of a run or a corpus, with all parts checked.

    Annotations, and losses as of a round (default: the newest) where they are needed or exist.

    Raises:
        MissingError: a column is in the losses, and nothing was scored.
        InputError: a part is damaged or of another corpus.
    """
    annotations = AnnotationColumns.of(catalog.run, columns)
    rest = set(columns) - {SHARD_ID, ROW, *annotations.names}
    rounds = [n for n in catalog.rounds() if round_number is None or n <= round_number]
    if NUM_UNITS in rest and (rest == {NUM_UNITS} or not rounds):
        annotations = annotations.with_units()
        rest -= set(annotations.names)
    _check_known(rest - set(LOSSES), catalog, has_losses=bool(rounds))
    total = catalog.corpus.num_samples
    losses = _losses(catalog, round_number) if rest or (rounds and not columns) else None
    if losses is None and not annotations.annotations:
        everything = FrameChunks(catalog.corpus.rows())
        return LossTable(url, (), everything, None, catalog)
    if losses is not None and not annotations.annotations:
        files = tuple(sorted({file.url for file in losses.files}))
        return LossTable(url, files, losses, losses.preview(total=total), catalog, rounds)
    rows = annotations.join(losses)
    return LossTable(
        url,
        tuple(sorted({file.url for file in rows.files})),
        rows,
        rows.preview(total=total),
        catalog,
        rounds if losses is not None else (),
        annotations.digests,
    )


def _check_known(
    unknown: Collection[str],
    catalog: LossCatalog,
    *,
    has_losses: bool,
) -> None:
    """Raise `InputError` for a column that no annotation has, if there are no losses either."""
    if not unknown or has_losses:
        return
    known = [*AnnotationColumns.of(catalog.run).names, *LOSSES]
    raise InputError(
        f"{catalog.run}: {unknown_column(min(unknown), known)} Make an annotation of that name"
        f" with `attent annotate {catalog.run} --name {min(unknown)} --kind …`"
    )


def _losses(catalog: LossCatalog, round_number: int | None) -> Scan:
    losses = catalog.scan(round_number)
    newest = max(n for n in catalog.rounds() if round_number is None or n <= round_number)
    snapshot = catalog.snapshot(newest)
    assert snapshot is not None
    check_parts(snapshot, run=catalog.run, corpus=catalog.corpus)
    return losses


def _columns(files: Sequence[str], *, required: Collection[str]) -> tuple[frames.SchemaDict, int]:
    """Return the columns that all files have, and the number of rows.

    Raises:
        InputError: a file lacks a required column, or has another type for a column.
    """
    footers = list(ordered_map(_kinds, files, num_threads=16))
    shared: frames.SchemaDict = {}
    for url, (kinds, _) in zip(files, footers, strict=True):
        if missing := set(required) - kinds.keys():
            raise InputError(
                f"{url} has no column {', '.join(sorted(missing))}: expected a run, or Parquet "
                "files with shard_id, row and loss (name other columns with --id and --loss)"
            )
        shared = {name: kind for name, kind in (shared or kinds).items() if name in kinds}
        if changed := [name for name, kind in shared.items() if kinds[name] != kind]:
            raise InputError(
                f"{url}: the column {changed[0]} is {kinds[changed[0]]}, in {files[0]} it is "
                f"{shared[changed[0]]}: expected the same type in every file"
            )
    return shared, sum(num_rows for _, num_rows in footers)


def _kinds(url: str) -> tuple[frames.SchemaDict, int]:
    footer = frames.footer_of(url)
    return frames.polars_schema(footer), footer.num_rows
