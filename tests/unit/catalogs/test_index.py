"""The index file."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select import schema
from attent_select.errors import CorpusMismatchError, ExistsError, InputError, MissingError
from catalogs import Corpus, IndexFile
from catalogs.index import digest_of, rows_of_shard
from catalogs.shard_format import Shard
from catalogs.tables import parquet_file

CORPUS = Corpus(
    shards=tuple(Shard(s, f"/d/{s}.parquet", "parquet", 100, 10, "e") for s in range(4)),
    columns=("label",),
)
PROVENANCE: dict[str, Any] = {"corpus_id": CORPUS.corpus_id, "strategy": "hard"}


def rows(keys: list[tuple[int, int]]) -> pl.LazyFrame:
    frame = pl.LazyFrame(keys, schema=["shard_id", "row"], orient="row")
    return frame.with_columns(weight=pl.col("row") / 2.0, probability=pl.lit(0.25))


def test_an_index_is_read_with_its_provenance(tmp_path: Path) -> None:
    url = str(tmp_path / "index.parquet")
    written = IndexFile.write(url, rows([(0, 3), (2, 1), (2, 9)]), provenance=PROVENANCE)
    opened = IndexFile.open(url, corpus=CORPUS)
    assert opened == written
    assert opened.provenance == PROVENANCE
    assert opened.num_samples == 3
    frame = opened.frame().collect()
    assert frame.schema == pl.Schema(schema.INDEX)
    assert frame.rows() == [(0, 3, 1.5, 0.25), (2, 1, 0.5, 0.25), (2, 9, 4.5, 0.25)]


@given(
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=40).map(sorted)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_rows_by_shard_are_the_rows_in_order(tmp_path: Path, keys: list[tuple[int, int]]) -> None:
    url = str(tmp_path / "index.parquet")
    index = IndexFile.write(url, rows(keys), provenance=PROVENANCE, overwrite=True)
    rows_by_shard = index.rows_by_shard()
    assert [
        (s, row) for s, (of_shard, _) in rows_by_shard.items() for row in of_shard.tolist()
    ] == keys
    for of_shard, weights in rows_by_shard.values():
        assert of_shard.dtype == np.uint32
        assert weights.dtype == np.float32
        assert weights.tolist() == [row / 2 for row in of_shard.tolist()]


def test_only_the_row_groups_with_a_shard_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "index.parquet")
    many = pl.LazyFrame({"shard_id": [0] * 300_000 + [2] * 10 + [5] * 300_000}).with_columns(
        row=pl.int_range(pl.len()).over("shard_id"), weight=1.0, probability=1.0
    )
    IndexFile.write(url, many, provenance=PROVENANCE)
    num_groups = pq.ParquetFile(url).num_row_groups
    read: list[int] = []
    fetch = parquet_file.fetch

    def counted(*args: Any, groups: list[int], **settings: Any) -> Any:
        read.extend(groups)
        return fetch(*args, groups=groups, **settings)

    monkeypatch.setattr(parquet_file, "fetch", counted)
    assert rows_of_shard(url, 2).tolist() == list(range(10))
    assert 0 < len(read) < num_groups
    assert rows_of_shard(url, 5).tolist() == list(range(300_000))
    assert rows_of_shard(url, 3).tolist() == rows_of_shard(url, 9).tolist() == []


def test_the_digest_covers_only_the_rows(tmp_path: Path) -> None:
    keys = [(0, 3), (2, 1), (2, 9)]

    def digest(name: str, selected: pl.LazyFrame, **provenance: Any) -> str:
        return IndexFile.write(str(tmp_path / name), selected, provenance=provenance).digest

    same = digest("a", rows(keys), strategy="hard")
    assert digest("b", rows(keys).with_columns(weight=1.0), strategy="soft") == same
    assert digest("c", rows(keys[:2])) != same
    assert digest("d", rows([(0, 3), (2, 1), (2, 8)])) != same


def test_an_existing_index_is_not_overwritten_by_default(tmp_path: Path) -> None:
    url = str(tmp_path / "index.parquet")
    first = IndexFile.write(url, rows([(0, 1)]), provenance={})
    with pytest.raises(ExistsError, match=r"index\.parquet already exists"):
        IndexFile.write(url, rows([(0, 2)]), provenance={})
    assert IndexFile.open(url) == first
    assert IndexFile.write(url, rows([(0, 2)]), provenance={}, overwrite=True) != first


@pytest.mark.parametrize("keys", [[(0, 1), (0, 1)], [(0, 2), (0, 1)], [(1, 0), (0, 5)]])
def test_rows_that_are_not_sorted_or_not_unique_leave_no_file(
    tmp_path: Path, keys: list[tuple[int, int]]
) -> None:
    url = tmp_path / "index.parquet"
    with pytest.raises(InputError, match="occurs twice" if len(set(keys)) == 1 else "sorted by"):
        IndexFile.write(str(url), rows(keys), provenance={})
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_number_of_rows_leaves_no_file(tmp_path: Path) -> None:
    url, selected = str(tmp_path / "index.parquet"), rows([(0, 1), (0, 2)])
    for promised in (1, 3):
        with pytest.raises(InputError, match=f"{promised} rows were selected, but 2 were read"):
            IndexFile.write(url, selected, provenance={}, num_samples=promised)
        with pytest.raises(InputError, match=f"{promised} rows were selected, but 2 were read"):
            digest_of(selected, num_samples=promised)
    assert list(tmp_path.iterdir()) == []
    assert IndexFile.write(url, selected, provenance={}, num_samples=2).num_samples == 2


def test_the_digest_is_computed_without_writing_and_every_row_is_reported(tmp_path: Path) -> None:
    selected = rows([(0, 1), (0, 2), (7, 0)])
    seen: list[int] = []
    digest = digest_of(selected, on_rows=seen.append)
    index = IndexFile.write(
        str(tmp_path / "index.parquet"), selected, provenance={}, on_rows=seen.append
    )
    assert digest == index.digest
    assert sum(seen) == 6


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    selected = rows([(0, 1)]).drop("probability")
    with pytest.raises(InputError, match="'probability'"):
        IndexFile.write(str(tmp_path / "index.parquet"), selected, provenance={})


def test_an_index_of_another_corpus_is_a_mismatch(tmp_path: Path) -> None:
    url = str(tmp_path / "index.parquet")
    IndexFile.write(url, rows([(0, 1)]), provenance={"corpus_id": "another", "num_samples": 7})
    with pytest.raises(CorpusMismatchError, match=r"num_samples was 7, is 400"):
        IndexFile.open(url, corpus=CORPUS)
    assert IndexFile.open(url).num_samples == 1


def test_an_index_without_one_of_its_columns_is_an_input_error(tmp_path: Path) -> None:
    url = str(tmp_path / "index.parquet")
    IndexFile.write(url, rows([(0, 1)]), provenance=PROVENANCE)
    notes = json.loads(pq.read_metadata(url).metadata[b"attent_select"])
    notes = {name: note for name, note in notes.items() if not name.startswith("file_digest")}
    table = pq.read_table(url)
    names = ["rov" if name == "row" else name for name in table.column_names]
    table = table.rename_columns(names)
    pq.write_table(table.replace_schema_metadata({"attent_select": json.dumps(notes)}), url)
    with pytest.raises(InputError, match=r"index\.parquet is not an index file"):
        list(IndexFile.open(url, corpus=CORPUS).batches())


@pytest.mark.parametrize("name", ["num_samples", "index_digest", "provenance"])
def test_an_index_without_one_of_its_notes_is_an_input_error(tmp_path: Path, name: str) -> None:
    url = str(tmp_path / "index.parquet")
    IndexFile.write(url, rows([(0, 1)]), provenance=PROVENANCE)
    notes = json.loads(pq.read_metadata(url).metadata[b"attent_select"])
    kept = {key: note for key, note in notes.items() if not key.startswith(("file_digest", name))}
    table = pq.read_table(url).replace_schema_metadata({"attent_select": json.dumps(kept)})
    pq.write_table(table, url)
    with pytest.raises(InputError, match=r"index\.parquet is not an index file"):
        IndexFile.open(url)


def test_an_index_without_statistics_is_read_by_shard_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "index.parquet")
    IndexFile.write(url, rows([(1, 0), (1, 3), (2, 5)]), provenance=PROVENANCE)
    notes = pq.read_metadata(url).metadata
    table = pq.read_table(url).replace_schema_metadata(notes)
    pq.write_table(table, url, write_statistics=False, row_group_size=1)
    assert rows_of_shard(url, 1).tolist() == [0, 3]
    monkeypatch.setattr("catalogs.index._GROUPS_AT_A_TIME", 2)
    assert "<svg" in IndexFile.open(url)._repr_html_()


def test_a_file_that_is_not_an_index_is_an_input_error(tmp_path: Path) -> None:
    url = str(tmp_path / "other.parquet")
    pl.DataFrame({"x": [1]}).write_parquet(url)
    with pytest.raises(InputError, match=r"other\.parquet is not an index file"):
        IndexFile.open(url)
    with pytest.raises(MissingError, match=r"none\.parquet"):
        IndexFile.open(str(tmp_path / "none.parquet"))


def test_an_empty_index_has_no_shards(tmp_path: Path) -> None:
    selected = rows([(0, 1)]).filter(pl.lit(value=False))
    index = IndexFile.write(str(tmp_path / "index.parquet"), selected, provenance={})
    assert IndexFile.open(index.url).num_samples == 0
    assert index.rows_by_shard() == {}


def test_a_large_index_is_streamed_small_on_disk_and_declared_sorted(tmp_path: Path) -> None:
    url = str(tmp_path / "index.parquet")
    count = 3_000_000
    selected = pl.LazyFrame({"row": pl.int_range(count, eager=True)}).select(
        (pl.col("row") // 10_000).alias("shard_id"),
        (pl.col("row") % 10_000 * 3 + pl.col("row") % 2).alias("row"),
        weight=1.0,
        probability=0.2,
    )
    tracemalloc.start()
    index = IndexFile.write(url, selected, provenance={})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.num_samples == count
    assert Path(url).stat().st_size < 1.5 * count
    assert peak < 4 * count
    assert pq.read_metadata(url).row_group(0).num_rows <= 1 << 18
    assert len(index.rows_by_shard()) == 300
