"""The joined scan against a plain polars join: columns, chunks, splits, previews, damage."""

import pickle
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from attent_select.errors import InputError
from catalogs import AnnotationStore
from catalogs.annotations.store import sql_columns
from catalogs.tables import scan
from catalogs.tables.joined import JoinedScan, JoinedTable
from tests.annotated import annotate, rows_of, write_corpus


def joined(url: str) -> JoinedScan:
    """Join all annotations of a corpus."""
    store = AnnotationStore(url)
    records = [store.read(name) for name in store.names()]
    return JoinedScan.of([JoinedTable(store.scan(each), sql_columns(each)) for each in records])


def annotated(folder: Path, shard_rows: list[int], parts: tuple[int, int]) -> pl.DataFrame:
    """Annotate a new corpus in `folder` twice; return the rows that a plain join has."""
    url = write_corpus(folder, shard_rows)
    ids = rows_of(shard_rows, {})
    order = pl.int_range(len(ids))
    quality = ids.with_columns(value=(order / 3).cast(pl.Float32), rank=order)
    source = ids.with_columns(value=pl.when(order % 3 > 0).then(pl.format("s{}", order)))
    annotate(url, "quality", quality, shards_per_part=parts[0])
    annotate(url, "source", source, shards_per_part=parts[1])
    first = quality.rename({"value": "quality", "rank": "quality_rank"})
    second = source.rename({"value": "source"})
    return first.join(second, on=["shard_id", "row"], how="left", maintain_order="left")


COLUMNS = ["shard_id", "row", "quality", "quality_rank", "source"]


@settings(max_examples=25, deadline=None)
@given(
    shard_rows=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rows_per_chunk=st.integers(1, 20),
    columns=st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True),
    num_splits=st.integers(1, 8),
)
def test_every_way_to_read_gives_what_a_join_gives(
    shard_rows: list[int],
    parts: tuple[int, int],
    rows_per_chunk: int,
    columns: list[str],
    num_splits: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "ROWS_PER_CHUNK", rows_per_chunk)
        expected = annotated(Path(folder), shard_rows, parts)
        rows = joined(f"{folder}/corpus")
        assert list(rows.schema) == COLUMNS
        assert_frame_equal(rows.frame().collect(), expected)
        some = rows.only(columns)
        assert_frame_equal(some.frame().collect(), expected.select(columns))
        assert_frame_equal(pl.concat(some.run(pl.LazyFrame.collect)), expected.select(columns))
        split = pickle.loads(pickle.dumps(rows.split(num_splits)))
        assert len(split) <= num_splits
        assert_frame_equal(pl.concat(each.frame().collect() for each in split), expected)
        is_even = pl.col("quality_rank") % 2 == 0
        even = rows.frame().filter(is_even).select("source").collect()
        assert_frame_equal(even, expected.filter(is_even).select("source"))


def test_only_tables_with_needed_columns_are_read(tmp_path: Path) -> None:
    annotated(tmp_path, [3, 2], (1, 2))
    rows = joined(str(tmp_path / "corpus"))
    assert [len(rows.only(names).tables) for names in (["source"], ["row"], COLUMNS)] == [1, 1, 2]


def test_a_preview_has_rows_of_every_shard_where_they_are_few(tmp_path: Path) -> None:
    expected = annotated(tmp_path, [3, 2, 5], (1, 2))
    preview = joined(str(tmp_path / "corpus")).preview(total=10)
    assert preview.total == 10
    assert_frame_equal(preview.rows.collect(), expected)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    url = write_corpus(tmp_path, [2])
    table = AnnotationStore(url)
    annotate(url, "a", rows_of([2], {"value": pl.int_range(2)}))
    rows = table.scan("a")
    with pytest.raises(InputError, match="the column a is in two tables"):
        JoinedScan.of([JoinedTable(rows, {"a": "value"}), JoinedTable(rows, {"a": "value"})])


def test_a_part_that_was_replaced_by_another_is_noticed(tmp_path: Path) -> None:
    annotated(tmp_path, [3, 2, 3, 2], (2, 2))
    store = AnnotationStore(str(tmp_path / "corpus"))
    first, second = store.read("source").parts
    layout = store.layout("source")
    Path(layout.part(second.part)).write_bytes(Path(layout.part(first.part)).read_bytes())
    with pytest.raises(InputError, match="a part was changed"):
        joined(str(tmp_path / "corpus")).frame().collect()
