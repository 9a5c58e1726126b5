"""A small file that decodes to gigabytes is refused before it is decoded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from catalogs.tables import decoded_size

NUM_ROWS = 300_000
REPEATED = pa.DictionaryArray.from_arrays(
    pa.array(np.zeros(NUM_ROWS, np.int32)), pa.array(["x" * 10_000])
)


def corpus_of(path: Path, table: pa.Table, **options: object) -> Corpus:
    pq.write_table(table, path, row_group_size=NUM_ROWS, store_schema=False, **options)
    stored = storage.info(str(path))
    assert stored is not None
    return Corpus.from_inspections([(stored, "parquet", inspect_shard(str(path), "parquet"))])


@pytest.mark.parametrize(
    "column",
    [
        REPEATED,
        pa.ListArray.from_arrays(pa.array([0, NUM_ROWS], pa.int32()), REPEATED),
        pa.StructArray.from_arrays([REPEATED], names=["text"]),
    ],
    ids=["strings", "list", "struct"],
)
def test_a_dictionary_that_repeats_a_long_value_is_refused(
    tmp_path: Path, column: pa.Array
) -> None:
    corpus = corpus_of(tmp_path / "a.parquet", pa.table({"text": column}))
    assert (tmp_path / "a.parquet").stat().st_size < 5_000
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 decodes to 3\d{9} bytes"):
        corpus.read(0, rows=[0], columns=["text"])


def test_bytes_that_compress_a_thousandfold_are_refused_above_a_gigabyte(tmp_path: Path) -> None:
    value = b"\0" * (64 << 20)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(
        path, pa.schema({"map": pa.binary()}), compression="zstd", use_dictionary=False
    ) as writer:
        writer.write_table(pa.table({"map": [value] * 17}))
    stored = storage.info(str(path))
    assert stored is not None
    corpus = Corpus.from_inspections([(stored, "parquet", inspect_shard(str(path), "parquet"))])
    with pytest.raises(InputError, match="row group 0 decodes to"):
        corpus.read(0, rows=[0], columns=["map"])


def test_run_lengths_of_one_number_are_refused_above_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"label": pa.array(np.zeros(NUM_ROWS, np.int64))})
    corpus = corpus_of(tmp_path / "a.parquet", table)
    assert corpus.read(0, rows=[5], columns=["label"]).values == {"label": [0]}
    monkeypatch.setenv(decoded_size.LIMIT_VARIABLE, "1000000")
    again = corpus_of(tmp_path / "b.parquet", table)
    with pytest.raises(InputError, match=r"the limit is 1000000\. .*ATTENT_MAX_DECODED_BYTES"):
        again.read(0, rows=[5], columns=["label"])


def test_ordinary_dictionaries_are_read(tmp_path: Path) -> None:
    words = [f"a word {number % 5000:05d}" * 20 for number in range(20_000)]
    lists = [[words[number]] * 3 for number in range(20_000)]
    corpus = corpus_of(tmp_path / "a.parquet", pa.table({"text": words, "lists": lists}))
    reading = corpus.read(0, rows=[7, 19_999], columns=["text", "lists"])
    assert reading.values == {
        "text": [words[7], words[19_999]],
        "lists": [lists[7], lists[19_999]],
    }


def test_an_invalid_limit_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path / "a.parquet", pa.table({"label": [1]}))
    monkeypatch.setenv(decoded_size.LIMIT_VARIABLE, "4GiB")
    with pytest.raises(InputError, match="ATTENT_MAX_DECODED_BYTES is '4GiB'"):
        corpus.read(0, rows=[0], columns=["label"])
