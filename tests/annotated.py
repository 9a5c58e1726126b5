"""Corpora with annotations, for tests: one Parquet shard for each list of values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs import AnnotationStore, Corpus, storage
from catalogs.annotations.record import Annotation
from catalogs.shards import inspect_shard


def write_corpus(folder: Path, shard_rows: Sequence[int]) -> str:
    """Write a corpus that stands on its own, with `shard_rows[k]` samples in shard k."""
    inspections = []
    for shard_id, num_rows in enumerate(shard_rows):
        path = folder / "data" / f"{shard_id:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [f"{shard_id}/{row}" for row in range(num_rows)]}), path)
        stored = storage.info(str(path))
        assert stored is not None
        inspections.append((stored, "parquet", inspect_shard(str(path), "parquet")))
    Corpus.from_inspections(inspections).publish(str(folder / "corpus"))
    return str(folder / "corpus")


def rows_of(shard_rows: Sequence[int], columns: Mapping[str, Any]) -> pl.DataFrame:
    """Make the dense rows of all shards with `columns`, which have a value for every row."""
    ids = [(shard, row) for shard, count in enumerate(shard_rows) for row in range(count)]
    schema = {"shard_id": pl.UInt32, "row": pl.UInt32}
    return pl.DataFrame(ids, schema=schema, orient="row").with_columns(**columns)


def annotate(
    url: str,
    name: str,
    rows: pl.DataFrame,
    *,
    shards_per_part: int = 2,
    overwrite: bool = False,
    **facts: Any,
) -> Annotation:
    """Publish dense `rows` as an annotation, `shards_per_part` shards in each part."""
    store = AnnotationStore(url)
    range_of = pl.col("shard_id") // shards_per_part
    groups = rows.with_columns(part=range_of).partition_by("part", include_key=False)
    parts = [store.write_part(name, group) for group in groups]
    return store.publish(name, kind="column", parts=parts, overwrite=overwrite, **facts)
