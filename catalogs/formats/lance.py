"""Lance shards: files whose rows are read one by one, for small shares of large samples.

A file is written and read by `lance.file` of pylance; `catalogs/lance_files/` does the rest. Rows
of files in local folders and buckets are read by pylance itself, and what it reads is estimated.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.formats.parquet import Parquet
from catalogs.lance_files import damage_check, reader, seal, writer
from catalogs.lance_files.contents import Contents, contents_of
from catalogs.lance_files.estimate import File, decoded_bytes, plan_ranges, selected_bytes
from catalogs.read_plan import ReadPlan, check_columns, check_rows
from catalogs.shard_format import Inspection, Reading, Sample, Shard
from catalogs.storage.objects import check_etag, missing_error
from catalogs.tables import plain_values
from catalogs.tables.byte_cache import BoundedCache

# Its answer has no content: pylance does not compare etags.
_ETAG_REQUEST: Final = (0, 0)
_PART_OF_DATASET: Final = ".lance/data/"

_contents: BoundedCache[Contents] = BoundedCache(max_bytes=64 << 20)


class Lance:
    """The Lance shard format."""

    suffixes: tuple[str, ...] = (".lance",)
    keeps_members = False

    def inspect(self, url: str) -> Inspection:
        """Sample count and columns; all bytes of a local file are checked against its seal.

        A file of another program has no seal: it is decoded once, in another process.
        """
        stored = storage.info(url)
        if stored is None:
            raise MissingError(f"{url} was not found: expected a Lance file")
        if _PART_OF_DATASET in url:
            raise InputError(
                f"{url} is a part of a Lance dataset, which may have deleted rows and other"
                " versions: read the dataset with pylance, and write it with"
                " `pipeline.ingest_rows`"
            )
        metadata = seal.read_metadata(url, num_bytes=stored.num_bytes, etag=stored.etag)
        if metadata.seal is None:
            with storage.local_copy(url) as path:
                damage_check.check_file(path, url=url)
        elif storage.is_local(url):
            seal.check_data(Path(stored.url), metadata, url=url)
        contents = contents_of(url, metadata)
        return Inspection(contents.num_rows, tuple(contents.schema.names))

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read the samples at `rows`; bytes and requests are those of `plan`."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        if not (len(row_array) and columns):
            return Reading({}, len(row_array), bytes_read=0, bytes_selected=0, num_requests=0)
        plan = _plan(shard, rows=row_array, columns=columns)
        table = _table(shard, plan, rows=row_array, columns=columns)
        return Reading(
            plain_values.values_of(table),
            len(row_array),
            bytes_read=plan.num_bytes,
            bytes_selected=plan.bytes_selected,
            num_requests=len(plan.ranges),
        )

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """Estimate what pylance reads for `rows`, or plan to read the whole file."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        return _plan(shard, rows=row_array, columns=columns)

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Raise `InputError`: samples are read individually."""
        raise InputError(
            f"{shard.uri} is a Lance file and has no row groups: choose rows per block, such as 256"
        )

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write columns in the order of their names. Equal samples give equal bytes.

        Raises:
            InputError: `samples` is empty, or the values of a column have different types.
        """
        # Types are known after all samples: Parquet keeps them meanwhile.
        kept = path.with_name(f"{path.name}.parquet")
        try:
            try:
                Parquet().write(kept, samples)
            except InputError as error:
                raise InputError(str(error).replace(str(kept), str(path))) from error
            with pq.ParquetFile(kept) as file:
                groups = map(file.read_row_group, range(file.num_row_groups))
                writer.write_tables(path, groups, schema=file.schema_arrow)
        finally:
            kept.unlink(missing_ok=True)


def schema_of(shard: Shard) -> pa.Schema:
    """Return the Arrow schema of a Lance shard, with the metadata that its writer left."""
    return _cached_contents(shard).schema


def read_table(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Read samples of a Lance shard with their types; raises what `Lance.read` raises."""
    row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
    plan = _plan(shard, rows=row_array, columns=columns)
    if not len(row_array) or not columns:
        return schema_of(shard).empty_table().select(list(columns))
    return _table(shard, plan, rows=row_array, columns=columns)


def _plan(shard: Shard, *, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> ReadPlan:
    contents = _cached_contents(shard)
    check_columns(columns, known=contents.schema.names, url=shard.uri)
    file = File(
        shard.num_bytes, storage.request_bytes(shard.uri), is_local=storage.is_local(shard.uri)
    )
    whole = [(0, shard.num_bytes)]
    ranges = plan_ranges(contents, columns, rows=rows, file=file)
    if ranges and not reader.can_read(shard.uri):
        ranges = whole
    elif ranges not in ([], whole) and not file.is_local:
        ranges.append(_ETAG_REQUEST)
    return ReadPlan(
        "whole file" if ranges == whole else "ranges",
        ranges,
        bytes_selected=selected_bytes(contents, columns, num_rows=len(rows)),
        decoded_bytes=decoded_bytes(contents, columns, num_rows=len(rows)),
    )


def _table(
    shard: Shard, plan: ReadPlan, *, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> pa.Table:
    url, contents = shard.uri, _cached_contents(shard)
    is_whole = plan.method == "whole file"
    chosen = reader.Rows(rows, tuple(columns), is_whole)
    if is_whole and not storage.is_local(url):
        (data,) = storage.read_ranges(url, plan.ranges, etag=shard.etag)
        return reader.read_rows_of_copy(url, data, contents, rows=chosen)
    stored = storage.info(url)
    if stored is None:
        raise missing_error(url)
    check_etag(url, actual=stored.etag, expected=shard.etag)
    table = reader.read_rows(url, contents, etag=shard.etag, rows=chosen)
    storage.count_read(num_bytes=plan.num_bytes, num_requests=len(plan.ranges))
    return table


def _cached_contents(shard: Shard) -> Contents:
    def load() -> Contents:
        metadata = seal.read_metadata(shard.uri, num_bytes=shard.num_bytes, etag=shard.etag)
        if reader.can_read(shard.uri):
            reader.count_opening(shard.uri, num_bytes=shard.num_bytes)
        return contents_of(shard.uri, metadata)

    key = (shard.uri, shard.etag)
    return _contents.get_or_load(key, load, size_of=lambda contents: contents.memory_bytes)
