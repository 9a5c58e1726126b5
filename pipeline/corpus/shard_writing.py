"""Rows of columns as new shards: Parquet with small row groups, Lance, or tar files."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError
from attent_select.plugins import load_plugin
from catalogs import storage
from catalogs.lance_files import writer as lance_writer
from catalogs.shard_format import Sample
from pipeline.corpus.column_types import JSON

# A row group has at most this many rows and about this many bytes, so that scattered rows are read
# cheaply. Rows are taken block by block.
_GROUP_ROWS: Final = 1024
_GROUP_BYTES: Final = 8 << 20
_BLOCK_ROWS: Final = 128


class Rows:
    """Tables as one sequence of rows."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
        self._tables, self._schema = tables, schema
        self._rest: pa.Table | None = None

    def take(self, num_rows: int) -> pa.Table:
        """Return the next rows: `num_rows`, or fewer at the end."""
        parts = []
        while num_rows and not self._is_empty():
            assert self._rest is not None
            parts.append(self._rest.slice(0, num_rows))
            self._rest = self._rest.slice(parts[-1].num_rows)
            num_rows -= parts[-1].num_rows
        return pa.concat_tables(parts) if parts else self._schema.empty_table()

    def skip(self, num_rows: int) -> None:
        """Leave out the next rows."""
        while num_rows and (skipped := self.take(min(num_rows, _GROUP_ROWS)).num_rows):
            num_rows -= skipped

    def _is_empty(self) -> bool:
        while self._rest is None or not self._rest.num_rows:
            if (table := next(self._tables, None)) is None:
                return True
            self._rest = pa.table(table.columns, schema=self._schema)
        return False


def write_shard(
    url: str,
    rows: Rows,
    *,
    num_rows: int,
    shard_format: str,
    group_rows: int | None,
    schema: pa.Schema,
) -> None:
    """Write the next `num_rows` rows to a shard, and publish it.

    Raises:
        InputError: the format cannot store a value.
    """
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, "shard")
        try:
            if shard_format == "parquet":
                _write_parquet(path, _groups(rows, num_rows, group_rows), schema)
            elif shard_format == "lance":
                lance_writer.write_tables(path, _groups(rows, num_rows, None), schema=schema)
            else:
                samples = _samples(rows, num_rows, url)
                load_plugin("catalogs.formats", shard_format)().write(path, samples)
        except InputError as error:  # it may name the temporary path
            raise InputError(str(error).replace(str(path), url)) from error
        except pa.ArrowException as error:
            raise InputError(f"cannot write {url}: {error}") from error
        storage.publish(url, path)


def _write_parquet(path: Path, groups: Iterator[pa.Table], schema: pa.Schema) -> None:
    # Encoded images do not repeat, and statistics would put whole ones into the footer.
    plain = [field.name for field in schema if not pa.types.is_binary(field.type)]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(group.num_rows, 1))


def _groups(rows: Rows, num_rows: int, group_rows: int | None) -> Iterator[pa.Table]:
    """Yield the rows of each row group; the same whatever tables the rows come in."""
    while num_rows:
        limit = min(num_rows, group_rows or _GROUP_ROWS)
        blocks = [rows.take(min(limit, _BLOCK_ROWS)).combine_chunks()]
        count = blocks[0].num_rows
        if 0 < count < limit and blocks[0].nbytes * limit < _GROUP_BYTES * count:
            blocks.append(rows.take(limit - count))  # small rows: the others at once
            count += blocks[-1].num_rows
        while count < limit and (
            group_rows is not None or sum(block.nbytes for block in blocks) < _GROUP_BYTES
        ):
            blocks.append(rows.take(min(limit - count, _BLOCK_ROWS)).combine_chunks())
            if not blocks[-1].num_rows:
                break
            count += blocks[-1].num_rows
        if not count:
            raise InputError("a source has fewer rows than when it was inspected: start again")
        num_rows -= count
        yield pa.concat_tables(blocks)


def _samples(rows: Rows, num_rows: int, url: str) -> Iterator[Sample]:
    """Yield rows as samples of a tar file: images as their bytes, JSON text as its value."""
    while num_rows:
        table = rows.take(min(num_rows, _BLOCK_ROWS))
        if not table.num_rows:
            raise InputError("a source has fewer rows than when it was inspected: start again")
        json_names = [field.name for field in table.schema if field.type == JSON]
        image_names = [field.name for field in table.schema if _is_image(field.type)]
        for sample in table.to_pylist():
            for name in json_names:
                if sample[name] is not None:
                    sample[name] = json.loads(sample[name])
            for name in image_names:
                sample[name] = _image_bytes(sample[name], name=name, url=url)
            yield {name: value for name, value in sample.items() if value is not None}
        num_rows -= table.num_rows


def _is_image(dtype: pa.DataType) -> bool:
    if not pa.types.is_struct(dtype) or {field.name for field in dtype} != {"bytes", "path"}:
        return False
    return bool(pa.types.is_binary(dtype.field("bytes").type))


def _image_bytes(image: Any, *, name: str, url: str) -> bytes | None:
    if image is None:
        return None
    if image["bytes"] is None and image["path"] is not None:
        raise InputError(
            f"cannot write {url}: column {name!r} has only the path {image['path']!r}, without"
            " bytes. Embed the images (`Dataset.to_parquet` of `datasets` does)"
        )
    data: bytes | None = image["bytes"]
    return data
