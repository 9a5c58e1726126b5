"""A corpus made in Python: of data sets, data frames, Arrow tables or dicts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, TypeGuard

import polars as pl
import pyarrow as pa

from attent_select.errors import ExistsError, InputError
from catalogs import Corpus, storage
from catalogs.corpus import has_corpus
from catalogs.layout import CorpusLayout, join
from catalogs.shard_format import Sample
from catalogs.shards import inspect_shard
from catalogs.shards import write_shard as write_samples
from catalogs.storage.objects import ObjectInfo
from pipeline.corpus.ingest import IngestResult
from pipeline.corpus.shard_writing import Rows, write_shard
from pipeline.progress import status

_BATCH_ROWS = 1024
_FORMAT = "parquet"


def ingest_rows(rows: Any, *, out: str, shard_samples: int = 10_000) -> IngestResult:
    """Write rows as Parquet shards, and the manifest of the corpus, which is published last.

    Args:
        rows: a `Dataset` or `IterableDataset` of the library `datasets`, a data frame of polars
            (also lazy) or pandas, an Arrow table, or an iterable of dicts (column → value).
        out: URL of the folder of the corpus; the shards are in `out`/shards.
        shard_samples: number of rows of a shard.

    Raises:
        ExistsError: there is a corpus or shards in `out`.
        InputError: `rows` is of another kind, has no rows, or a column has several types; no shard
            remains.
    """
    started = monotonic()
    if shard_samples < 1:
        raise InputError(f"shard_samples is {shard_samples}: expected at least 1")
    folder = storage.normalise(out).rstrip("/")
    shards = CorpusLayout(folder).converted_shards
    if has_corpus(folder) or storage.list_objects(shards):
        raise ExistsError(f"{folder} has a corpus or shards: choose another folder, or delete them")
    try:
        with status("writing shards"):
            urls = _write(rows, partial(_shard_url, shards), shard_samples)
        if not urls:
            raise InputError(f"there are no rows to write to {folder}: expected at least one")
    except BaseException:
        storage.delete_folder(shards)
        raise
    inspections = ((_object_at(url), _FORMAT, inspect_shard(url, _FORMAT)) for url in urls)
    corpus = Corpus.from_inspections(inspections)
    corpus.publish(folder)
    return IngestResult(
        num_shards=len(corpus.shards),
        num_samples=corpus.num_samples,
        num_bytes=corpus.num_bytes,
        corpus_id=corpus.corpus_id,
        seconds=monotonic() - started,
    )


def _shard_url(folder: str, number: int) -> str:
    return join(folder, f"shard-{number:06d}.parquet")


def _object_at(url: str) -> ObjectInfo:
    stored = storage.info(url)
    assert stored is not None
    return stored


def _write(rows: Any, url_of: Callable[[int], str], shard_samples: int) -> list[str]:
    tables = _tables_of(rows)
    if tables is None:
        return _write_dicts(rows, url_of, shard_samples)
    first = next(tables, None)
    if first is None:
        return []
    schema = first.schema
    source = Rows(_in_schema(chain([first], tables), schema), schema)
    urls: list[str] = []
    while num_rows := (shard := source.take(shard_samples)).num_rows:
        urls.append(url_of(len(urls)))
        write_shard(
            urls[-1],
            Rows(iter([shard]), schema),
            num_rows=num_rows,
            shard_format=_FORMAT,
            group_rows=None,
            schema=schema,
        )
    return urls


def _tables_of(rows: Any) -> Iterator[pa.Table] | None:
    """Return the rows as Arrow tables; None for an iterable of other values."""
    if hasattr(rows, "with_format") and hasattr(rows, "features"):  # of the library `datasets`
        return _dataset_tables(rows)
    if isinstance(rows, pl.DataFrame):
        rows = rows.lazy()
    if isinstance(rows, pl.LazyFrame):
        batches = rows.collect_batches(maintain_order=True, engine="streaming")
        return (batch.to_arrow(compat_level=pl.CompatLevel.oldest()) for batch in batches)
    if hasattr(rows, "__arrow_c_stream__"):  # Arrow tables, and data frames of pandas
        reader = pa.RecordBatchReader.from_stream(rows)
        return (pa.Table.from_batches([batch]) for batch in reader)
    return None


def _dataset_tables(rows: Any) -> Iterator[pa.Table]:
    features = rows.features
    schema = None if features is None else features.arrow_schema
    for table in rows.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        yield table if schema is None else table.cast(schema)


def _in_schema(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    for table in tables:
        try:
            yield table if table.schema == schema else table.cast(schema)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(
                f"rows change their columns: {error}. Every column needs one type"
            ) from error


def _write_dicts(rows: Any, url_of: Callable[[int], str], shard_samples: int) -> list[str]:
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise InputError(
            f"cannot ingest {type(rows).__name__}: expected a data set, a data frame, an Arrow"
            " table, or an iterable of dicts"
        )
    samples = _check_rows(rows)
    urls: list[str] = []
    while (first := next(samples, None)) is not None:
        url = url_of(len(urls))
        with TemporaryDirectory(prefix="attent-") as folder:
            path = Path(folder, "shard")
            some = chain([first], islice(samples, shard_samples - 1))
            try:
                write_samples(path, some, format_name=_FORMAT)
            except InputError as error:  # it names the temporary path
                raise InputError(str(error).replace(str(path), url)) from error
            storage.publish(url, path)
        urls.append(url)
    return urls


def _check_rows(rows: Iterable[Any]) -> Iterator[Sample]:
    for number, row in enumerate(rows):
        if not _is_sample(row):
            raise InputError(
                f"row {number} is {type(row).__name__}: expected a dict, column → value"
            )
        yield dict(row)


def _is_sample(row: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(row, Mapping) and bool(row) and all(isinstance(name, str) for name in row)
