"""Parquet footers for which pyarrow aborts are named, and the process survives."""

import base64
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from attent_select.errors import InputError
from catalogs.shards import inspect_shard
from catalogs.tables import footer_check, footer_parser

TABLE = pa.table({"label": list(range(300)), "text": [f"text {n}" for n in range(300)]})


class PlainKeys(encryption.KmsClient):  # type: ignore[misc]  # untyped
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped_key)


def write_encrypted(path: Path, *, plaintext_footer: bool) -> None:
    configuration = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"key": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties: Any = encryption.CryptoFactory(PlainKeys).file_encryption_properties(
        encryption.KmsConnectionConfig(), configuration
    )
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_shard_is_named(tmp_path: Path, plaintext_footer: bool) -> None:  # noqa: FBT001
    path = tmp_path / "encrypted.parquet"
    write_encrypted(path, plaintext_footer=plaintext_footer)
    with pytest.raises(InputError, match=r"encrypted\.parquet"):
        inspect_shard(str(path), "parquet")
    # The next shard is checked by another helper.
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    assert inspect_shard(str(tmp_path / "plain.parquet"), "parquet").num_samples == 300


def test_a_helper_that_is_killed_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    answers = []

    def ask(helper: "subprocess.Popen[bytes]", tail: bytes) -> bool:
        if not answers:
            helper.kill()
        answers.append(original(helper, tail))
        return answers[-1]

    original = footer_check._ask
    monkeypatch.setattr(footer_check, "_ask", ask)
    assert inspect_shard(str(tmp_path / "plain.parquet"), "parquet").num_samples == 300
    assert answers == [False, True]


def test_a_process_whose_folder_is_gone_reads_shards(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    program = (
        "import os, sys; from catalogs.shards import inspect_shard; os.mkdir('gone');"
        "os.chdir('gone'); os.rmdir('../gone'); sys.path += ['', 'relative'];"
        f"print(inspect_shard({str(tmp_path / 'plain.parquet')!r}, 'parquet').num_samples)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert process.stdout == "300\n", process.stderr


def test_damaged_footers_are_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    pq.write_table(TABLE, path, row_group_size=100, write_page_index=True)
    original = path.read_bytes()
    footer_bytes = int.from_bytes(original[-8:-4], "little") + 8
    source = random.Random(7)
    for _ in range(200):
        data = bytearray(original)
        for _ in range(source.choice([1, 3])):
            data[len(data) - 1 - source.randrange(footer_bytes)] = source.randrange(256)
        path.write_bytes(data)
        try:
            inspect_shard(str(path), "parquet")
        except InputError as error:
            assert "shard.parquet" in str(error)  # noqa: PT017 - not every change is refused


def test_the_helper_imports_no_other_heavy_library() -> None:
    program = f"import runpy, sys; runpy.run_path({footer_parser.__file__!r}); print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pyarrow" in process.stdout.split()
    assert not {"catalogs", "polars"} & set(process.stdout.split())
