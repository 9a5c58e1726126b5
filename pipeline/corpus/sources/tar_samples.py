"""Tar files of the webdataset library as rows of columns, with their keys."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.formats.webdataset import columns_of_bytes, remember_members
from catalogs.shard_format import Sample, Shard
from catalogs.shards import format_of, inspect_shard, read_shard
from catalogs.tars.members import KEY
from pipeline.corpus.column_types import Types, column_of, common_types, types_of

_BATCH_ROWS = 128


def contents_of(url: str) -> tuple[int, Types]:
    """Return the number of samples and the types of the columns.

    Raises:
        InputError: the file is damaged.
    """
    shard, columns = _shard(url)
    if not columns:
        return 0, Types()
    # Images are not read to know that they are bytes.
    stored = columns_of_bytes(shard, columns[1:])
    decoded = tuple(name for name in columns if name not in stored)
    types = Types()
    for _, samples in _batches(shard, decoded, start=0, stop=shard.num_samples):
        types = common_types(types, types_of(samples))
    return shard.num_samples, {name: types.get(name, pa.binary()) for name in columns}


def tables_of(url: str, *, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
    """Yield the samples from `start` to `stop` with columns of these types.

    Raises:
        InputError: a value does not have its column's type; names the sample.
    """
    shard, columns = _shard(url)
    for first, samples in _batches(shard, columns, start=start, stop=stop):
        yield pa.table(
            {name: _column(samples, name, dtype, url, first) for name, dtype in types.items()}
        )


def _column(samples: list[Sample], name: str, dtype: pa.DataType, url: str, first: int) -> pa.Array:
    try:
        return column_of([sample.get(name) for sample in samples], dtype)
    except ValueError:
        for row, sample in enumerate(samples, start=first):
            try:
                column_of([sample.get(name)], dtype)
            except ValueError as error:
                raise InputError(
                    f"{url}, sample {sample[KEY]!r} (row {row}): {name} is"
                    f" {str(sample.get(name))[:40]!r}, expected {dtype}. Correct the member, or"
                    f" leave the column out with `--drop {name}`"
                ) from error
        raise


@cache
def _shard(url: str) -> tuple[Shard, tuple[str, ...]]:
    stored = storage.info(url)
    kind = format_of(url)
    inspection = inspect_shard(url, kind)
    if stored is None or not inspection.num_samples:
        return Shard(0, url, kind, 0, 0, ""), ()
    facts: dict[str, Any] = {"num_bytes": stored.num_bytes, "etag": stored.etag}
    shard = Shard(shard_id=0, uri=url, format=kind, num_samples=inspection.num_samples, **facts)
    remember_members(shard, inspection.members)
    return shard, (KEY, *inspection.columns)


def _batches(
    shard: Shard, columns: tuple[str, ...], *, start: int, stop: int
) -> Iterator[tuple[int, list[Sample]]]:
    for first in range(start, stop, _BATCH_ROWS):
        rows = range(first, min(stop, first + _BATCH_ROWS))
        yield first, read_shard(shard, rows=rows, columns=columns).samples
