"""Annotations that follow from others: read their columns, compute, write parts.

No shard is read. An interrupted call starts from scratch, which takes seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from attent_select.sql_expression import unknown_column
from catalogs import AnnotationStore
from catalogs.annotations.columns import AnnotationColumns
from catalogs.annotations.store import BuiltPart
from catalogs.tables.joined import JoinedScan
from pipeline.annotation.span_work import Making
from pipeline.cluster import Client, run_tasks
from pipeline.cluster.worker_check import check_here
from pipeline.progress import progress
from trainers.annotation import AnnotationKind, FromAnnotations


@dataclass(frozen=True)
class DeriveTask:
    """Compute one part: the values of the shards of `rows`."""

    making: Making
    rows: JoinedScan

    def __str__(self) -> str:
        return f"a part of annotation {self.making.name}"


def columns_used(store: AnnotationStore, name: str, kind: AnnotationKind) -> AnnotationColumns:
    """Return the columns that a kind reads, after a check that it can use them.

    Raises:
        InputError: a column is unknown, or the kind cannot use it.
    """
    used = AnnotationColumns.of(store.url, kind.columns)
    for column in kind.columns:
        if column not in used.names:
            known = AnnotationColumns.of(store.url).names
            hint = unknown_column(column, known) if known else f"unknown column {column!r}"
            raise InputError(
                f"{hint} Expected columns of the annotations of {store.url}, see `attent"
                " annotations`"
            )
    if name in used.digests:
        raise InputError(f"annotation {name} cannot be computed from itself: choose another name")
    kinds = used.kinds
    cast(FromAnnotations, kind).derive(pl.DataFrame(schema={n: kinds[n] for n in kind.columns}))
    return used


def derive_parts(
    making: Making, used: AnnotationColumns, *, client: Client, part_samples: int
) -> list[BuiltPart]:
    """Compute all parts on the cluster."""
    joined = used.join(None)
    num_rows = making.store.corpus.num_samples
    tasks: Iterator[DeriveTask] = (
        DeriveTask(making, rows) for rows in joined.split(-(-num_rows // part_samples))
    )
    parts = []
    with progress("annotating", total=num_rows, unit="samples") as advance:
        for _, part in run_tasks(client, derive_part, tasks):
            parts.append(part)
            advance(part.part.num_rows)
    return parts


def derive_part(task: DeriveTask) -> BuiltPart:
    """Compute one part on a worker."""
    check_here(task.making.environment)
    kind = task.making.kind
    rows = task.rows.frame().collect(engine="streaming")
    derived = cast(FromAnnotations, kind).derive(rows.select(kind.columns)).rows
    ids = rows.select(SHARD_ID, ROW)
    return task.making.store.write_part(
        task.making.name, pl.concat([ids, derived], how="horizontal")
    )
