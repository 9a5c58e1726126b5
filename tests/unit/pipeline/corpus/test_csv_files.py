"""CSV files: columns of one type each, which follows from all values, and errors with a line."""

import gzip
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from pipeline.corpus.conversion import convert

TEXT = 'id,code,score,ok,text\n1,007,0.5,true,"a, ""b""\nc"\n2,12,3,false,\n'


def read(folder: Path, *sources: str, **fields: object) -> pa.Table:
    urls = convert(sources, to=str(folder / "out"), shard_format="parquet", **fields)
    return pa.concat_tables(pq.read_table(url) for url in urls)


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".csv.gz", ".tsv"])
def test_a_file_is_read_with_the_types_of_all_its_values(tmp_path: Path, suffix: str) -> None:
    text = "\ufeff" + (TEXT.replace("a, ", "a\t ").replace(",", "\t") if "t" in suffix else TEXT)
    data = gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode()
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(data)
    table = read(tmp_path, str(path))
    types = [pa.int64(), pa.string(), pa.float64(), pa.bool_(), pa.string()]
    assert table.schema.types == types
    first, second = table.to_pylist()
    assert first["text"].endswith('"b"\nc')
    assert first | {"text": None} == {
        "id": 1, "code": "007", "score": 0.5, "ok": True, "text": None
    }  # fmt: skip
    assert second == {"id": 2, "code": "12", "score": 3.0, "ok": False, "text": None}


def test_types_follow_from_all_rows_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("a,b,c\n" + "1,2,true\n" * 3000 + "0.5,2,true\n")
    (tmp_path / "1.csv").write_text("a,b,d\n1,12345678901234567890,x\n")
    table = read(tmp_path, str(tmp_path))
    assert table.schema.types == [pa.float64(), pa.string(), pa.bool_(), pa.string()]
    assert table["b"].to_pylist()[-1] == "12345678901234567890"
    assert table["c"].to_pylist()[-1] is None
    table = read(tmp_path / "typed", f"{tmp_path}/*.csv", schema=("a=string",), drop=("d",))
    assert table["a"].to_pylist()[-2:] == ["0.5", "1"]


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**60), 2**60),
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map("t{}".format),
            st.floats(allow_nan=False, width=32),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_pandas_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    frame = pd.DataFrame(rows, columns=["number", "text", "score"])
    frame["score"] += 0.5
    frame.to_csv(folder / "rows.csv")
    table = read(folder, str(folder / "rows.csv"))
    assert table["Unnamed: 0"].to_pylist() == list(range(len(rows)))
    assert table["number"].to_pylist() == frame["number"].tolist()
    assert table["text"].to_pylist() == frame["text"].tolist()
    assert table["score"].to_pylist() == frame["score"].tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,b\n1,2\n3\n", r"line 3: 1 fields, and the header has 2"),
        (b'a,b\n1,2\n3,4,5\n', r"line 3: 3 fields"),
        (b'a,b\n1,"2\n', r"line 2: not CSV: unexpected end of data"),
        (b'a,b\n1,"2"x\n', r"line 2: not CSV"),
        (b"a;b\n1;2\n", r"separated by semicolons"),
        (b"a,a\n1,2\n", r"'a' more than once"),
        (b"", r"is empty: expected a header"),
        (b"a,b\n1,\xe9\n", r"is not UTF-8 near line"),
        (b"a,b\n", r"no sample to convert"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        convert([str(path)], to=str(tmp_path / "out"), shard_format="parquet")
    assert "rows.csv" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["rows.csv"]


def test_a_value_without_the_given_type_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\nx\n")
    with pytest.raises(InputError, match=r"rows\.csv, line 3: column 'a' is 'x', expected int64"):
        read(tmp_path, str(tmp_path / "rows.csv"), schema=("a=int64",))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a\n" + b"1\n" * 9000)[:-20])
    with pytest.raises(InputError, match=r"cut\.csv\.gz cannot be read"):
        read(tmp_path, str(tmp_path / "cut.csv.gz"))
