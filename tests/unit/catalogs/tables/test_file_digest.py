"""A changed byte in a table of a run is found, wherever it is."""

import contextlib
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs.tables import frames

ROWS = pl.DataFrame({"shard_id": [0, 0, 1], "row": [0, 1, 0], "loss": [0.5, 1.5, 2.5]}).cast(
    {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}
)


def published(folder: Path) -> Path:
    path = folder / "table.parquet"
    frames.publish_frame(str(path), ROWS, notes={"corpus_id": "c"})
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("table"))


@given(position=st.integers(0, 10**6), change=st.integers(1, 255))
def test_any_changed_byte_is_refused_or_changes_nothing(
    table: Path, position: int, change: int
) -> None:
    data = bytearray(table.read_bytes())
    data[position % len(data)] ^= change
    damaged = table.parent / "damaged.parquet"
    damaged.write_bytes(data)
    for read in (
        lambda: frames.read_frame(str(damaged), schema=dict(ROWS.schema)),
        lambda: frames.notes_of(frames.footer_of(str(damaged))),
    ):
        result = None
        with contextlib.suppress(InputError):
            result = read()
        # Read anyway: the changed byte is in the name of the note itself.
        if result is not None:
            assert result[0].equals(ROWS) if isinstance(result, tuple) else result["corpus_id"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, table: Path) -> None:
    assert published(tmp_path).read_bytes() == table.read_bytes()


def test_the_digest_is_not_one_of_the_notes(table: Path) -> None:
    assert frames.notes_of(frames.footer_of(str(table))) == {"corpus_id": "c"}


def test_a_copy_that_another_program_writes_is_read(tmp_path: Path, table: Path) -> None:
    copy = tmp_path / "copy.parquet"
    pq.write_table(pq.read_table(table), copy)  # copies our notes
    assert frames.read_frame(str(copy), schema=dict(ROWS.schema))[0].equals(ROWS)
    assert frames.footer_of(str(copy)).num_rows == 3
