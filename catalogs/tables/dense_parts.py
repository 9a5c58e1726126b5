"""Dense parts: tables with one row per sample of a range of shards, one row group per shard."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from catalogs import storage
from catalogs.tables import frames


def cast_columns(rows: pl.DataFrame, *, kinds: frames.SchemaDict, what: str) -> pl.DataFrame:
    """Return `rows` with exactly the columns and dtypes of `kinds`.

    Raises:
        InputError: a column is missing, or a value does not fit its dtype.
    """
    if missing := [name for name in kinds if name not in rows.columns]:
        raise InputError(f"{what}: the column {missing[0]!r} is missing; expected {list(kinds)}")
    try:
        return rows.select(pl.col(name).cast(kind) for name, kind in kinds.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{what}: {error}") from error


def check_order(rows: pl.DataFrame, *, what: str) -> None:
    """Raise `InputError` unless (shard_id, row) strictly increases."""
    keys = rows.select(schema.sample_key().alias("key"))["key"]
    if not bool((keys.slice(1) > keys.head(max(0, len(keys) - 1))).all()):
        raise InputError(f"{what}: rows must be sorted by (shard_id, row), without duplicates")


def check_dense(rows: pl.DataFrame, *, what: str) -> None:
    """Raise `InputError` unless every shard in sorted `rows` has the rows 0, 1, 2, …"""
    counts = rows.group_by(schema.SHARD_ID, maintain_order=True).agg(
        pl.col(schema.ROW).max().cast(pl.UInt64).alias("last"), pl.len().alias("num_rows")
    )
    incomplete = counts.filter(pl.col("last") + 1 != pl.col("num_rows"))
    if len(incomplete):
        first = incomplete.row(0, named=True)
        raise InputError(
            f"{what}: shard {first['shard_id']} has {first['num_rows']} rows, but its last row is"
            f" {first['last']}: a span is missing or duplicate"
        )


def publish_part(
    rows: pl.DataFrame, *, url_of: Callable[[str], str], notes: frames.Notes
) -> tuple[str, list[pl.DataFrame]]:
    """Publish dense, sorted `rows`; return the part's name and its shards.

    The name is the digest of the part's bytes, `url_of` gives its URL.
    """
    check_order(rows, what="a part")
    check_dense(rows, what="a part")
    shards = rows.partition_by(schema.SHARD_ID, maintain_order=True)
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / "part.parquet"
        frames.write_tables(
            path,
            (frames.to_arrow(shard) for shard in shards),
            schema=frames.to_arrow(rows).schema,
            notes=lambda: notes | {frames.DENSE: True},
        )
        with path.open("rb") as file:
            part = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        storage.publish(url_of(part), path)
    return part, shards
