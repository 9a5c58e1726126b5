"""Our own tables on disk: encodings, notes, lazy scans, digests."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from attent_select import schema
from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.tables import frames
from catalogs.tables.scan import Scan

KINDS: frames.SchemaDict = {"shard_id": pl.UInt32, "row": pl.UInt32, "name": pl.String}


def table(first: int, count: int) -> pl.DataFrame:
    rows = pl.DataFrame({"row": range(first, first + count)})
    return rows.select(
        pl.lit(7, pl.UInt32).alias("shard_id"),
        pl.col("row").cast(pl.UInt32),
        pl.format("n{}", "row").alias("name"),
    )


@pytest.fixture(params=["local", "memory"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Three published tables with the rows 0–4, 5–9 and 10–14."""
    base = str(tmp_path) if request.param == "local" else f"memory://{request.node.originalname}"
    urls = [f"{base}/{name}.parquet" for name in "cab"]
    for position, url in enumerate(urls):
        frames.publish_frame(url, table(position * 5, 5), notes={"position": position})
    return urls


def test_a_table_is_read_with_its_notes(urls: list[str]) -> None:
    frame, notes = frames.read_frame(urls[1], schema=KINDS)
    assert_frame_equal(frame, table(5, 5))
    assert notes == {"position": 1}
    assert frames.notes_of(frames.footer_of(urls[2])) == {"position": 2}


def test_one_schema_is_that_of_tables_with_all_losses_and_of_those_without_some(
    tmp_path: Path,
) -> None:
    complete = table(0, 2).with_columns(loss=pl.Series([1.0, 2.0], dtype=pl.Float32))
    lacking = table(2, 2).with_columns(loss=pl.Series([3.0, None], dtype=pl.Float32))
    url = str(tmp_path / "losses.parquet")
    known = dict(complete.schema)
    tables = [frames.to_arrow(part) for part in (complete, lacking)]
    frames.publish_tables(url, tables, schema=frames.arrow_schema(known), notes=dict)
    assert_frame_equal(frames.read_frame(url, schema=known)[0], pl.concat([complete, lacking]))


def test_a_damaged_page_of_another_program_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    pq.write_table(table(0, 1000).to_arrow(), file, compression="zstd", use_dictionary=False)
    page = pq.read_metadata(file).row_group(0).column(2)
    data = bytearray(file.read_bytes())
    end = page.data_page_offset + page.total_compressed_size
    data[page.data_page_offset + 40 : end] = bytes(end - page.data_page_offset - 40)
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{file} is damaged: .*Write or copy it again"):
        frames.read_frame(str(file), schema=KINDS)


def test_a_scan_keeps_the_order_of_the_files(urls: list[str]) -> None:
    assert_frame_equal(Scan.of(urls, schema=KINDS).frame().collect(), table(0, 15))


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_scan_applies_columns_conditions_and_limits(urls: list[str], engine: Any) -> None:
    scan = Scan.of(urls, schema=KINDS).frame()
    odd = scan.filter(pl.col("row") % 2 == 1)
    assert odd.select("name").collect(engine=engine)["name"].to_list() == [
        f"n{row}" for row in range(1, 15, 2)
    ]
    assert scan.head(7).select("row").collect(engine=engine)["row"].to_list() == list(range(7))
    limited = odd.head(3).collect(engine=engine)["row"].to_list()
    assert limited == [1, 3, 5]
    assert scan.head(7).filter(pl.col("row") > 4).collect(engine=engine)["row"].to_list() == [5, 6]
    assert scan.select(pl.len()).collect(engine=engine).item() == 15


def test_a_scan_of_no_files_has_the_columns_and_no_rows() -> None:
    assert Scan.of([], schema=KINDS).frame().collect().schema == pl.Schema(KINDS)


def test_a_scan_may_read_a_subset_of_the_columns(urls: list[str]) -> None:
    fewer = {name: KINDS[name] for name in ("row", "shard_id")}
    assert Scan.of(urls, schema=fewer).frame().collect().columns == ["row", "shard_id"]


def test_a_file_without_a_column_is_an_input_error_that_names_both(urls: list[str]) -> None:
    with pytest.raises(InputError, match=r"c\.parquet lacks the column 'loss'"):
        frames.read_frame(urls[0], schema={"loss": pl.Float32})


def test_an_absent_table_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"x\.parquet"):
        frames.read_frame(str(tmp_path / "x.parquet"), schema=KINDS)


def test_ids_are_delta_encoded_floats_byte_split_and_the_order_declared(tmp_path: Path) -> None:
    url = str(tmp_path / "losses.parquet")
    rows = table(0, 1000).select("shard_id", "row", pl.lit(0.5, pl.Float32).alias("loss"))
    frames.publish_frame(url, rows, notes={})
    group = pq.read_metadata(url).row_group(0)
    encodings = [group.column(position).encodings for position in range(3)]
    assert "DELTA_BINARY_PACKED" in encodings[0]
    assert "DELTA_BINARY_PACKED" in encodings[1]
    assert "BYTE_STREAM_SPLIT" in encodings[2]
    assert [column.column_index for column in group.sorting_columns] == [0, 1]


def test_other_programs_read_our_tables(tmp_path: Path) -> None:
    url = str(tmp_path / "a.parquet")
    frames.publish_frame(url, table(0, 10), notes={"x": 1})
    assert_frame_equal(pl.read_parquet(url), table(0, 10))
    assert pq.read_table(url).to_pylist() == table(0, 10).to_dicts()


@given(st.lists(st.integers(0, 30), max_size=4).map(sorted))
def test_a_digest_does_not_depend_on_the_batches(cuts: list[int]) -> None:
    whole = table(0, 30)
    expected = frames.ColumnDigest(["shard_id", "row"])
    expected.update(whole)
    digest = frames.ColumnDigest(["shard_id", "row"])
    for first, end in zip([0, *cuts], [*cuts, 30], strict=True):
        digest.update(whole.slice(first, end - first))
    assert digest.hexdigest() == expected.hexdigest()


def test_a_digest_distinguishes_rows_and_columns() -> None:
    def digest(rows: pl.DataFrame) -> str:
        digest = frames.ColumnDigest(["shard_id", "row"])
        digest.update(rows)
        return digest.hexdigest()

    rows = table(0, 9)
    swapped = rows.select(pl.col("row").alias("shard_id"), pl.col("shard_id").alias("row"))
    assert len({digest(rows), digest(rows.reverse()), digest(rows.head(8)), digest(swapped)}) == 4


def test_a_file_has_a_polars_schema(tmp_path: Path) -> None:
    url = str(tmp_path / "a.parquet")
    frames.publish_frame(url, pl.DataFrame(schema=dict(schema.LOSSES)), notes={})
    assert frames.polars_schema(frames.footer_of(url)) == dict(schema.LOSSES)


def test_a_scan_of_remote_files_reads_only_the_columns_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "memory://frames/wide.parquet"
    # Incompressible, so that its size shows.
    wide = pl.DataFrame({"row": pl.Series(range(20_000), dtype=pl.UInt32)}).with_columns(
        loss=pl.col("row").hash().cast(pl.Float32)
    )
    frames.publish_frame(url, wide, notes={})
    read: list[int] = []
    original = storage.read_ranges

    def counted(url: str, ranges: Any, *, etag: str | None = None) -> list[bytes]:
        read.extend(size for _, size in ranges)
        return original(url, ranges, etag=etag)

    monkeypatch.setattr(storage, "read_ranges", counted)
    monkeypatch.setattr(storage, "request_bytes", lambda url: 0)
    scan = Scan.of([url], schema={"row": pl.UInt32, "loss": pl.Float32}).frame()
    assert scan.select(pl.col("row").sum()).collect().item() == sum(range(20_000))
    # The footer's tail is 64 KiB; the losses would be about as much again.
    assert sum(read[1:]) < 4 * 20_000 / 2


def test_a_preview_has_the_number_of_rows_and_some_of_them(urls: list[str]) -> None:
    kinds = {"shard_id": pl.UInt32, "row": pl.UInt32}
    whole = Scan.of(urls, schema=kinds).frame().collect()
    preview = Scan.of(urls, schema=kinds).preview()
    assert preview.total == len(whole)
    some = preview.rows.collect()
    assert 0 < len(some) <= len(whole)
    assert len(some.join(whole, on=["shard_id", "row"], how="semi")) == len(some)
    assert Scan.of(urls, schema=kinds).preview(total=7).total == 7
    assert Scan.of([], schema=kinds).preview().rows.collect().is_empty()
