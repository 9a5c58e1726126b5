"""Runs whose losses are known: bulky Parquet shards with row groups, and their catalog."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select import schema
from catalogs import Corpus, LossCatalog, storage
from catalogs.shards import inspect_shard

GROUP_ROWS = 20
PAYLOAD_BYTES = 8 << 10


def scored_run(run: Path, losses: Sequence[Sequence[float | None]]) -> str:
    """Make a run with one shard for each of `losses`, scored once; None: unreadable sample.

    A shard has row groups of GROUP_ROWS samples, each of which holds PAYLOAD_BYTES of noise.
    """
    noise = np.random.default_rng(0)
    inspections = []
    for shard_id, values in enumerate(losses):
        path = run / "shards" / f"{shard_id:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = [noise.bytes(PAYLOAD_BYTES) for _ in values]
        pq.write_table(pa.table({"payload": payload}), path, row_group_size=GROUP_ROWS)
        stored = storage.info(str(path))
        assert stored is not None
        inspections.append((stored, "parquet", inspect_shard(str(path), "parquet")))
    Corpus.from_inspections(inspections).save(str(run))
    score(run, losses)
    return str(run)


def score(run: Path, losses: Sequence[Sequence[float | None]], *, round_number: int = 0) -> None:
    """Publish `losses` (shard by shard) as those of a round, one part for each shard."""
    catalog = LossCatalog(str(run))
    parts = []
    for shard_id, values in enumerate(losses):
        rows = pl.DataFrame({"loss": values}, schema={"loss": pl.Float32}).with_row_index("row")
        table = rows.with_columns(
            pl.lit(shard_id, pl.UInt32).alias("shard_id"),
            num_units=1,
            status=pl.when(pl.col("loss").is_null())
            .then(pl.lit("unreadable"))
            .otherwise(pl.lit("ok")),
            measured_step=0,
            origin=pl.lit("scored"),
            visits=0,
        )
        span = f"{round_number}-{shard_id}"
        catalog.write_span(span, table.select(*schema.LOSSES))
        parts.append(catalog.compact([span], round_number=round_number))
    catalog.publish(round_number, parts, provenance={"checkpoint_digest": "none", "seconds": 0})
