"""Where `attent select` finds its losses, and what it says of files that are none."""

from pathlib import Path

import polars as pl
import pytest
from digits import samples, write_corpus

from attent_select import schema
from attent_select.errors import InputError
from catalogs import IndexFile, LossCatalog
from pipeline.selecting import select_losses

KINDS = {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}


def write(path: Path, losses: list[float], *, shard_id: int = 0) -> None:
    frame = pl.DataFrame({"row": range(len(losses)), "loss": losses})
    frame.with_columns(shard_id=shard_id).select(
        pl.col(name).cast(kind) for name, kind in KINDS.items()
    ).write_parquet(path)


def chosen(index: Path) -> list[tuple[int, int]]:
    return IndexFile.open(str(index)).frame().select("shard_id", "row").collect().rows()


def test_a_run_and_its_catalog_are_the_same_losses(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    corpus = write_corpus(tmp_path / "shards", samples(30))
    corpus.save(run)
    catalog = LossCatalog(run)
    for number in (0, 1):  # the catalog holds a superseded part too
        rows = corpus.rows().collect().with_row_index("loss")
        table = rows.with_columns(
            num_units=1, status=pl.lit("ok"), measured_step=number, origin=pl.lit("scored"),
            visits=0, loss=pl.col("loss").cast(pl.Float32) * (1 - 2 * number),
        )  # fmt: skip
        catalog.write_span("all", table.select(*schema.LOSSES))
        catalog.publish(number, [catalog.compact(["all"], round_number=number)], provenance={})
    for name, losses in (("run", run), ("catalog", f"{run}/losses"), ("slash", f"{run}/losses/")):
        out = tmp_path / f"{name}.parquet"
        select_losses(losses, out=str(out), strategy="hard", num_samples=3)
        # In the newest round the first rows are the hardest.
        assert chosen(out) == [(0, 0), (0, 1), (0, 2)]
        assert IndexFile.open(str(out), corpus=corpus).num_samples == 3


def test_files_of_others_are_taken_in_any_order_with_wider_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"shard_id": [1, 0, 0], "row": [5, 7, 2], "loss": [3.0, 2.0, 1.0]})
    frame.write_parquet(tmp_path / "foreign.parquet")
    out = tmp_path / "index.parquet"
    result = select_losses(str(tmp_path), out=str(out), strategy="hard", num_samples=2)
    assert chosen(out) == [(0, 7), (1, 5)]
    assert result.threshold == 2.0


def test_a_file_that_is_not_like_the_others_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1.0, 2.0])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet has no column row, shard_id"):
        select_losses(str(tmp_path), out=str(tmp_path / "i"), strategy="hard", num_samples=1)
    write(tmp_path / "b.parquet", [1.0], shard_id=1)
    pl.read_parquet(tmp_path / "b.parquet").with_columns(loss=pl.lit("high")).write_parquet(
        tmp_path / "b.parquet"
    )
    with pytest.raises(InputError, match=r"b\.parquet: the column loss is String"):
        select_losses(str(tmp_path), out=str(tmp_path / "i"), strategy="hard", num_samples=1)


def test_the_same_row_in_two_files_is_an_input_error_and_leaves_no_index(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1.0, 2.0])
    write(tmp_path / "b.parquet", [3.0, 4.0])
    out = tmp_path / "out" / "index.parquet"
    with pytest.raises(InputError, match="duplicate rows"):
        select_losses(str(tmp_path), out=str(out), strategy="hard", num_samples=4)
    assert not out.exists()
