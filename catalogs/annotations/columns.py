"""Columns of annotations for a selection or a query: which annotations have them, side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from attent_select.schema import NUM_UNITS, ROW, SHARD_ID
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import AnnotationStore, sql_columns
from catalogs.tables.frames import SchemaDict
from catalogs.tables.joined import JoinedScan, JoinedTable
from catalogs.tables.scan import Scan


@dataclass(frozen=True)
class AnnotationColumns:
    """Annotations that have some columns, each with the columns that are needed of it."""

    store: AnnotationStore
    annotations: tuple[tuple[Annotation, dict[str, str]], ...]

    @classmethod
    def of(cls, url: str, columns: Iterable[str] | None = None) -> "AnnotationColumns":
        """Find the annotations of the corpus at `url` that have `columns` (None: all of them)."""
        store = AnnotationStore(url)
        annotations = []
        if columns is None:
            records = store.records()
        else:  # only records that can have a needed column
            needed = (
                name for name in store.names() if any(_may_have(name, each) for each in columns)
            )
            records = [store.read(name) for name in needed]
        for record in records:
            names = sql_columns(record)
            if columns is not None:
                names = {name: names[name] for name in names if name in columns}
            if names:
                annotations.append((record, names))
        return cls(store, tuple(annotations))

    @property
    def names(self) -> list[str]:
        """The columns that the annotations have."""
        return [name for _, columns in self.annotations for name in columns]

    @property
    def kinds(self) -> SchemaDict:
        """SQL name → dtype."""
        return {
            name: getattr(pl, record.columns[stored])
            for record, columns in self.annotations
            for name, stored in columns.items()
        }

    @property
    def digests(self) -> dict[str, str]:
        """Annotation → digest, for what is made from them."""
        return {record.name: record.digest for record, _ in self.annotations}

    def join(self, losses: Scan | None) -> JoinedScan:
        """Return the columns beside the losses, or by themselves; at least one table is needed."""
        tables = []
        if losses is not None:
            columns = {name: name for name in losses.schema if name not in ("shard_id", "row")}
            tables.append(JoinedTable(losses, {n: n for n in columns if n not in self.names}))
        for record, names in self.annotations:
            table = JoinedTable(self.store.scan(record), names)
            # Losses may be of an earlier version of the corpus.
            tables.append(table if losses is None else table.first(len(tables[0].shards)))
        return JoinedScan.of(tables)

    def with_units(self) -> "AnnotationColumns":
        """Also name the units of the first annotation that has them `num_units`."""
        for record in self.store.records():
            if NUM_UNITS in record.columns:
                units = (record, {NUM_UNITS: NUM_UNITS})
                same = [r for r, _ in self.annotations if r.name == record.name]
                rest = [
                    (r, columns | {NUM_UNITS: NUM_UNITS} if r in same else columns)
                    for r, columns in self.annotations
                ]
                return AnnotationColumns(self.store, (*rest, *([] if same else [units])))
        return self


def loss_columns(url: str, columns: Sequence[str]) -> list[str]:
    """Return the columns except ids that no annotation of the corpus at `url` has."""
    columns = [name for name in columns if name not in (SHARD_ID, ROW)]
    if not columns:
        return []
    annotations = AnnotationColumns.of(url, columns)
    if NUM_UNITS in columns and set(columns) - set(annotations.names) == {NUM_UNITS}:
        annotations = annotations.with_units()
    return [name for name in columns if name not in annotations.names]


def has_units(url: str) -> bool:
    """Whether an annotation of the corpus at `url` has units."""
    return not loss_columns(url, (NUM_UNITS,))


def _may_have(annotation: str, column: str) -> bool:
    return column == annotation or column.startswith(f"{annotation}_")
