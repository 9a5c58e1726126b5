"""A run whose samples and column names try to execute code in a browser, with known losses."""

import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from annotated import annotate, rows_of
from commands import answer_here
from PIL import Image
from scored_runs import score

from catalogs import Corpus, storage
from catalogs.shards import inspect_shard

SHARD_ROWS = [40, 30]
SCRIPT = "<script>window.executed = 1</script>"
ATTRIBUTE = "<img src=x onerror=window.executed=1>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.executed=1"></svg>'


def _png(color: int) -> bytes:
    target = io.BytesIO()
    Image.new("L", (6, 4), color).save(target, "PNG")
    return target.getvalue()


def _shard(num_rows: int) -> pa.Table:
    chat = [{"role": SCRIPT, "content": ATTRIBUTE}, {"role": "assistant", "content": SCRIPT}]
    return pa.table(
        {
            "image": [_png(10 + row) for row in range(num_rows)],
            "text": [f"{SCRIPT} {ATTRIBUTE} {row}" for row in range(num_rows)],
            "svg": [SVG] * num_rows,
            "broken": [b"\x89PNG\r\n\x1a\n" + SVG] * num_rows,
            "chat": [chat] * num_rows,
            ATTRIBUTE: list(range(num_rows)),
            "'];window.executed=1;//": [ATTRIBUTE] * num_rows,
        }
    )


def hostile_run(run: Path) -> Path:
    """Two shards, losses of two rounds (the last sample is unreadable), annotations, an index."""
    inspections = []
    for shard_id, num_rows in enumerate(SHARD_ROWS):
        path = run / "shards" / f"{shard_id:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_shard(num_rows), path, row_group_size=10)
        stored = storage.info(str(path))
        assert stored is not None
        inspections.append((stored, "parquet", inspect_shard(str(path), "parquet")))
    Corpus.from_inspections(inspections).save(str(run))
    losses: list[list[float | None]] = [
        [float(row) for row in range(40)],
        [*(100.0 + row for row in range(29)), None],
    ]
    for number in (0, 1):
        score(run, losses, round_number=number)
    few = pl.when(pl.col("row") < 10).then(pl.lit("few")).otherwise(pl.lit(SCRIPT))
    annotate(str(run), "source", rows_of(SHARD_ROWS, {"value": few}))
    how = ("--strategy", "hard", "--num-samples", 20)
    answer_here("select", run, *how, "--out", f"{run}/index/00001.parquet")
    return run
