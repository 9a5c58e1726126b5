"""Scans of many files: whole, in chunks, in splits; ids that are not decoded."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from attent_select import sample_ids, schema
from attent_select.errors import InputError
from attent_select.sample_ids import IdWatch, check_unique
from attent_select.selection.chunks import Place
from catalogs.losses import parts as loss_parts
from catalogs.tables import frames, scan
from catalogs.tables.scan import File, Scan

KINDS: frames.SchemaDict = dict(schema.LOSSES)


def losses(first_shard: int, sizes: list[int]) -> pl.DataFrame:
    shards = [first_shard + i for i, size in enumerate(sizes) for _ in range(size)]
    rows = [row for size in sizes for row in range(size)]
    return pl.DataFrame(
        {
            "shard_id": shards,
            "row": rows,
            "loss": [shard + row / 100 for shard, row in zip(shards, rows, strict=True)],
            "num_units": 1,
            "status": schema.OK,
            "measured_step": 3,
            "origin": schema.SCORED,
            "visits": 0,
        },
        schema=KINDS,
    )


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def parts(run: str) -> list[str]:
    """Two parts of three shards each."""
    urls = []
    for first, sizes in ((0, [4, 1, 7]), (3, [2, 9, 5])):
        made = loss_parts.build_part(losses(first, sizes), run=run, spans=(), notes={"x": 1})
        urls.append(f"{run}/losses/parts/{made.part}.parquet")
    return urls


def test_chunks_and_splits_have_all_rows(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Scan.of(parts(run), schema=KINDS)
    expected = pl.concat([losses(0, [4, 1, 7]), losses(3, [2, 9, 5])])
    assert_frame_equal(whole.frame().collect(), expected)
    for rows_per_chunk in (1, 6, 1000):
        monkeypatch.setattr(scan, "ROWS_PER_CHUNK", rows_per_chunk)
        pieces = list(whole.run(pl.LazyFrame.collect))
        assert_frame_equal(pl.concat(pieces), expected)
        assert (len(pieces) == 1) == (rows_per_chunk == 1000)
    for count in (1, 2, 5):
        split = [part.frame() for part in whole.split(count)]
        assert_frame_equal(pl.concat(split).collect(), expected)


def test_only_the_named_row_groups_are_read(run: str) -> None:
    first, second = parts(run)
    some = Scan((File(first, (0, 2)), File(second, (1,))), KINDS)
    shards = some.frame().select(pl.col("shard_id").unique(maintain_order=True)).collect()
    assert shards["shard_id"].to_list() == [0, 2, 4]


def test_ids_of_a_dense_part_are_correct_without_being_read(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = parts(run)
    read: set[str] = set()
    original = scan.parquet_file.read_groups

    def watched(url: str, **arguments: object) -> object:
        read.update(arguments["columns"])  # type: ignore[call-overload]
        return original(url, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scan.parquet_file, "read_groups", watched)
    scanned = Scan.of(urls, schema=KINDS).frame().select("row", "loss", "shard_id").collect()
    assert read == {"loss"}
    stored = pl.concat([pl.from_arrow(pq.read_table(url)) for url in urls])  # type: ignore[type-var]
    assert isinstance(stored, pl.DataFrame)
    assert_frame_equal(scanned, stored.select("row", "loss", "shard_id"))


def test_a_placed_chunk_has_ids_that_need_not_be_read(run: str, tmp_path: Path) -> None:
    names = ["shard_id", "row", "loss"]
    expected = pl.concat([losses(0, [4, 1, 7]), losses(3, [2, 9, 5])]).select(names)
    other = str(tmp_path / "other.parquet")
    expected.write_parquet(other, row_group_size=9)
    shuffled = str(tmp_path / "shuffled.parquet")
    expected.reverse().write_parquet(shuffled)
    watched = replace(Scan.of([other, shuffled], schema=KINDS).only(names), watch=IdWatch())

    def columns(rows: pl.LazyFrame, place: Place) -> tuple[list[str], pl.DataFrame, pl.DataFrame]:
        is_odd = pl.Series("odd", [position % 2 == 1 for position in place.positions])
        odd = place.marked_rows(rows, [is_odd]).select(names).collect()
        return rows.collect_schema().names(), place.with_ids(rows).select(names).collect(), odd

    def check(scan: Scan, table: pl.DataFrame, *, stored: set[tuple[str, ...]]) -> None:
        chunks = list(scan.run_placed(columns))
        assert {tuple(chunk[0]) for chunk in chunks} == stored
        assert_frame_equal(pl.concat([chunk[1] for chunk in chunks]), table)
        assert_frame_equal(pl.concat([chunk[2] for chunk in chunks]), table.gather_every(2, 1))

    check(Scan.of(parts(run), schema=KINDS).only(names), expected, stored={("loss",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "ROWS_PER_CHUNK", 1)
        patch.setattr(sample_ids, "_MAX_RUNS", 6)
        table = pl.concat([expected, expected.reverse()])
        for _ in range(2):  # the second pass knows the ids of the first file
            check(watched, table, stored={("loss",), tuple(names)})
    assert watched.watch is not None
    with pytest.raises(InputError, match="occurs twice"):
        check_unique(watched.frame(), watch=watched.watch)


def test_files_of_other_programs_are_not_treated_as_dense(tmp_path: Path) -> None:
    rows = losses(0, [5]).filter(pl.col("row") != 2)
    frames.publish_frame(str(tmp_path / "a.parquet"), rows, notes={})
    scanned = Scan.of([str(tmp_path / "a.parquet")], schema=KINDS).frame().collect()
    assert_frame_equal(scanned, rows)


def test_a_scan_of_no_files_has_one_empty_chunk() -> None:
    assert list(Scan.of([], schema=KINDS).run(lambda rows: rows.collect().shape)) == [(0, 8)]


def test_an_exception_of_the_work_is_raised(run: str) -> None:
    with pytest.raises(ZeroDivisionError):
        list(Scan.of(parts(run), schema=KINDS).run(lambda _: 1 // 0))


def test_a_shard_without_rows_has_a_row_group_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "dense.parquet"
    tables = [frames.to_arrow(losses(0, [0])), frames.to_arrow(losses(1, [2]))]
    frames.write_tables(path, tables, schema=tables[0].schema, notes=lambda: {frames.DENSE: True})
    scanned = Scan.of([str(path)], schema=KINDS).frame().collect()
    assert_frame_equal(scanned, losses(1, [2]))


def test_a_preview_of_an_empty_row_group_is_empty(tmp_path: Path) -> None:
    empty, full = f"{tmp_path}/empty.parquet", f"{tmp_path}/full.parquet"
    frames.publish_frame(empty, losses(0, []), notes={})
    frames.publish_frame(full, losses(0, [3]), notes={})
    assert frames.footer_of(empty).num_groups == 1
    preview = Scan.of([empty, full], schema=KINDS).preview()
    assert_frame_equal(preview.rows.collect(), losses(0, [3]))
