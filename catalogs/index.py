"""Index file: the rows that a round trains on, their weights and provenance."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import schema
from attent_select.errors import AttentError, CorpusMismatchError, ExistsError, InputError
from attent_select.html_cards import card, shard_bars
from attent_select.sample_ids import duplicate_error
from catalogs import storage
from catalogs.corpus import Corpus, check_corpus
from catalogs.tables import frames, parquet_file
from catalogs.tables.scan import Scan

_log = logging.getLogger("attent.catalogs.index")

# Provenance of an index whose samples are numbered by their position in these files.
FILES = "files"
_ROWS_PER_GROUP = 1 << 18
# Row groups of an index that are fetched together: 16 M rows, about 10 MB.
_GROUPS_AT_A_TIME = 64

# Notes in the footer that every index has.
_NOTES: Final = {"num_samples": int, "index_digest": str, "provenance": dict}

# Provenance that a notebook shows.
_SHOWN = ("strategy", "ratio", "round", "eligible")

# Called with the number of rows of each batch that is written.
OnRows = Callable[[int], None]

# Rows u32[n] and weights f32[n] of one shard.
ShardRows = tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]
# shard_id u32[n], row u32[n] and weight f32[n].
IndexBatch = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]


class UnsortedError(InputError):
    """Rows are not in (shard_id, row) order."""


@dataclass(frozen=True)
class IndexFile:
    """An index at rest. `digest` covers only the sorted (shard_id, row)."""

    url: str
    num_samples: int
    digest: str
    provenance: dict[str, Any]

    @classmethod
    def write(
        cls,
        url: str,
        selected: pl.LazyFrame | Iterable[pl.DataFrame],
        *,
        provenance: dict[str, Any],
        num_samples: int | None = None,
        overwrite: bool = False,
        on_rows: OnRows | None = None,
    ) -> "IndexFile":
        """Stream `selected` (`schema.INDEX`, sorted by shard_id and row) into an index file.

        With `schema.INDEX_ORIGIN` and `schema.SAMPLE_ID`, if the rows have them.

        The same rows give the same bytes, however they are batched. `num_samples` is the expected
        number of rows. `on_rows` is called with the number of rows of each batch, for progress.

        Raises:
            ExistsError: there is a file at `url` and `overwrite` is not set.
            InputError: a column is missing, rows are not unique, or their number is not
                `num_samples`. Nothing is published.
            UnsortedError: the rows are not sorted.
        """
        if not overwrite and storage.info(url) is not None:
            raise ExistsError(f"{url} already exists: choose another name or delete it first")
        checker = _RowChecker(on_rows)
        batches = _batches(selected)
        first = next(batches, pl.DataFrame(schema=schema.INDEX))

        def notes() -> frames.Notes:
            checker.check_count(num_samples)
            return {
                "schema_version": schema.SCHEMA_VERSION,
                "num_samples": checker.num_samples,
                "index_digest": checker.digest.hexdigest(),
                "provenance": provenance,
            }

        checked = (checker.check(b) for b in itertools.chain([first], batches) if len(b))
        frames.publish_tables(
            url,
            map(frames.to_arrow, checked),
            schema=frames.arrow_schema(dict(first.schema)),
            notes=notes,
        )
        return cls(
            storage.normalise(url),
            checker.num_samples,
            checker.digest.hexdigest(),
            dict(provenance),
        )

    @classmethod
    def open(cls, url: str, *, corpus: Corpus | None = None) -> "IndexFile":
        """Open the index at `url` and check that it was made for `corpus`, if given.

        Raises:
            MissingError: there is no file at `url`.
            InputError: it is not an index file.
            CorpusMismatchError: it was made for another corpus (`provenance["corpus_id"]`).
        """
        footer = frames.footer_of(url)
        notes = frames.notes_of(footer)
        has_notes = all(isinstance(notes.get(name), kind) for name, kind in _NOTES.items())
        if not has_notes or not schema.INDEX.keys() <= {*footer.schema.names}:
            raise InputError(f"{url} is not an index file: expected one written by `attent select`")
        index = cls(
            storage.normalise(url), notes["num_samples"], notes["index_digest"], notes["provenance"]
        )
        if corpus is not None and index.provenance.get("corpus_id") is None:
            index._check_unknown_corpus(corpus)
        elif corpus is not None:
            check_corpus(index.provenance, corpus=corpus, what=f"the index {url}")
        return index

    def __repr__(self) -> str:
        return f"IndexFile({self.url!r}, {self.num_samples} samples, digest {self.digest[:8]})"

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {"url": self.url, "samples": self.num_samples}
        facts |= {name: self.provenance.get(name) for name in _SHOWN} | {"digest": self.digest}
        try:
            shard_ids, counts = self._samples_by_shard()
        except AttentError as error:
            return card("IndexFile", facts | {"problem": str(error)})
        if not len(shard_ids):
            return card("IndexFile", facts)
        num_shards = int(shard_ids.max()) + 1
        caption = "selected samples by shard"
        plot = shard_bars(shard_ids, counts, num_shards=num_shards, caption=caption)
        return card("IndexFile", facts, plot=plot)

    def _samples_by_shard(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return shard ids and their numbers of rows: exact if the index has few row groups.

        Of larger ones from the footer alone: a row group counts as its middle shard.
        """
        footer = frames.footer_of(self.url)
        limits = [
            parquet_file.min_and_max(footer, group=group, column=schema.SHARD_ID)
            for group in range(footer.num_groups)
        ]
        middles = [sum(each) // 2 for each in limits if each is not None]
        if footer.num_groups <= _GROUPS_AT_A_TIME or len(middles) < footer.num_groups:
            shards = self.frame().select(schema.SHARD_ID).collect().to_series().to_numpy()
            shard_ids, counts = np.unique(shards, return_counts=True)
            return shard_ids.astype(np.int64), counts
        return np.array(middles), np.diff(footer.starts)

    def _check_unknown_corpus(self, corpus: Corpus) -> None:
        """Check an index of other programs' losses, which name no corpus, and warn."""
        hint = "Select again with --corpus, which checks it"
        files = self.provenance.get(FILES)
        if files is not None and files != [shard.uri for shard in corpus.shards]:
            raise CorpusMismatchError(
                f"the index {self.url} numbers the samples of {len(files)} files, and the corpus"
                f" was not made of these. {hint}"
            )
        for shard_id, (rows, _) in self.rows_by_shard().items():
            num_samples = corpus.shard(shard_id).num_samples
            if int(rows[-1]) >= num_samples:
                raise CorpusMismatchError(
                    f"the index {self.url} has row {rows[-1]} of shard {shard_id}, and the corpus"
                    f" has {num_samples} samples in it: it was made for another corpus"
                )
        if files is None:
            _log.warning("the index %s does not say which corpus it is for. %s", self.url, hint)

    def frame(self) -> pl.LazyFrame:
        """Return the rows (`schema.INDEX`, without the origin) in order, lazily."""
        return Scan.of([self.url], schema=dict(schema.INDEX)).frame()

    def frame_with_origin(self) -> pl.LazyFrame:
        """Return the rows with `origin` u8, which is null if the index has none, lazily."""
        kinds = schema.INDEX | schema.INDEX_ORIGIN
        if self.has_origin:
            return Scan.of([self.url], schema=dict(kinds)).frame()
        return self.frame().with_columns(
            pl.lit(None, dtype=kinds[schema.ORIGIN]).alias(schema.ORIGIN)
        )

    @property
    def has_origin(self) -> bool:
        """Whether the rows have an origin: some were drawn uniformly."""
        return schema.ORIGIN in frames.footer_of(self.url).schema.names

    def uniform_positions(self) -> npt.NDArray[np.int64]:
        """Return the positions of the rows that were drawn uniformly, ascending."""
        if not self.has_origin:
            return np.zeros(0, np.int64)
        origins = Scan.of([self.url], schema=dict(schema.INDEX_ORIGIN)).frame().collect()
        return np.flatnonzero(origins[schema.ORIGIN].to_numpy() == schema.FROM_UNIFORM)

    def rows_by_shard(self) -> dict[int, ShardRows]:
        """Return sorted rows u32[n] and weights f32[n] of every shard with rows, in shard order.

        Eight bytes per selected row: views into two arrays.
        """
        columns = [schema.SHARD_ID, schema.ROW, schema.WEIGHT]
        table = self.frame().select(columns).collect(engine="streaming")
        shards, rows, weights = (table[name].to_numpy() for name in columns)
        # Where the next shard begins; the rows are sorted.
        bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
        return {
            int(shards[first]): (rows[first:end], weights[first:end])
            for first, end in itertools.pairwise(bounds)
            if first < end
        }

    def batches(self) -> Iterator[IndexBatch]:
        """Yield shard_id, row and weight of all rows in order, several row groups at a time.

        Raises:
            InputError: the rows are not those of the digest; raised after the last batch.
        """
        digest = frames.ColumnDigest([schema.SHARD_ID, schema.ROW])
        footer = frames.footer_of(self.url)
        columns = [schema.SHARD_ID, schema.ROW, schema.WEIGHT]
        for first in range(0, footer.num_groups, _GROUPS_AT_A_TIME):
            groups = range(first, min(first + _GROUPS_AT_A_TIME, footer.num_groups))
            fetched = parquet_file.fetch(
                self.url, footer=footer, groups=groups, columns=columns, etag=None
            )
            tables = parquet_file.decode(
                self.url, fetched, footer=footer, groups=groups, columns=columns
            )
            for table in tables:
                shards, rows, weights = (table[name].to_numpy() for name in columns)
                digest.update_arrays([shards, rows])
                yield shards, rows, weights
        if digest.hexdigest() != self.digest:
            raise InputError(
                f"{self.url} is damaged: its rows are not those of its digest {self.digest}."
                " Restore it from a copy, or select again"
            )


def digest_of(
    selected: pl.LazyFrame | Iterable[pl.DataFrame],
    *,
    num_samples: int | None = None,
    on_rows: OnRows | None = None,
) -> str:
    """Return the digest of an index of these rows. Raises what `IndexFile.write` raises."""
    checker = _RowChecker(on_rows)
    for batch in _batches(selected):
        checker.check(batch)
    checker.check_count(num_samples)
    return checker.digest.hexdigest()


def rows_of_shard(url: str, shard_id: int) -> npt.NDArray[np.uint32]:
    """Return the sorted rows u32[n] of one shard; only the row groups with that shard are read."""
    footer = frames.footer_of(url)
    columns = [schema.SHARD_ID, schema.ROW]
    groups = []
    for group in range(footer.num_groups):
        limits = parquet_file.min_and_max(footer, group=group, column=schema.SHARD_ID)
        if limits is None or limits[0] <= shard_id <= limits[1]:  # another program wrote it
            groups.append(group)
    fetched = parquet_file.fetch(url, footer=footer, groups=groups, columns=columns, etag=None)
    rows = [
        table[schema.ROW].to_numpy()[table[schema.SHARD_ID].to_numpy() == shard_id]
        for table in parquet_file.decode(
            url, fetched, footer=footer, groups=groups, columns=columns
        )
    ]
    return np.concatenate([np.zeros(0, np.uint32), *rows])


class _RowChecker:
    """Count, digest and checks of the rows of an index, batch by batch."""

    def __init__(self, on_rows: OnRows | None) -> None:
        self._on_rows = on_rows
        self.num_samples = 0
        self.digest = frames.ColumnDigest([schema.SHARD_ID, schema.ROW])
        self._last_key = -1

    def check(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Return `batch`. Raises `InputError` for unsorted or duplicate rows."""
        batch = batch.rechunk()
        shards, rows = (batch[name].to_numpy() for name in (schema.SHARD_ID, schema.ROW))
        # In u32: computing the keys of all rows would take longer.
        is_in_order = shards[1:] == shards[:-1]
        is_in_order &= rows[1:] > rows[:-1]
        is_in_order |= shards[1:] > shards[:-1]
        first, last = (int(shards[i]) << 32 | int(rows[i]) for i in (0, -1))
        if first <= self._last_key or not is_in_order.all():
            self._raise_for(schema.numpy_sample_key(shards, rows))
        self._last_key = last
        self.num_samples += len(batch)
        self.digest.update(batch)
        if self._on_rows is not None:
            self._on_rows(len(batch))
        return batch

    def _raise_for(self, keys: npt.NDArray[np.uint64]) -> NoReturn:
        """Raise the error for the keys of a batch, which do not ascend."""
        if int(keys[0]) < self._last_key or np.any(keys[1:] < keys[:-1]):
            raise UnsortedError(
                "the rows of an index must be sorted by (shard_id, row): sort the selection"
            )
        if int(keys[0]) == self._last_key:
            raise duplicate_error(self._last_key)
        raise duplicate_error(int(keys[np.flatnonzero(keys[1:] == keys[:-1])[0]]))

    def check_count(self, expected: int | None) -> None:
        if expected is not None and expected != self.num_samples:
            raise InputError(
                f"{expected} rows were selected, but {self.num_samples} were read for the index:"
                " the losses changed in the meantime, or have a duplicate sample. Nothing was"
                " written; select again"
            )


def _batches(selected: pl.LazyFrame | Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield batches with the dtypes of an index, each of `_ROWS_PER_GROUP` rows except the last."""
    if isinstance(selected, pl.LazyFrame):
        selected = selected.collect_batches(maintain_order=True, engine="streaming")
    buffer: pl.DataFrame | None = None
    for batch in map(_cast, selected):
        buffer = batch if buffer is None else buffer.vstack(batch)
        while len(buffer) >= _ROWS_PER_GROUP:
            yield buffer.head(_ROWS_PER_GROUP)
            buffer = buffer.slice(_ROWS_PER_GROUP)
    if buffer is not None and len(buffer):
        yield buffer


def _cast(batch: pl.DataFrame) -> pl.DataFrame:
    kinds: frames.SchemaDict = dict(schema.INDEX)
    if batch.schema.get(schema.ORIGIN) == schema.INDEX_ORIGIN[schema.ORIGIN]:
        kinds |= schema.INDEX_ORIGIN
    if schema.SAMPLE_ID in batch.columns:
        kinds[schema.SAMPLE_ID] = batch.schema[schema.SAMPLE_ID]
    if missing := [name for name in kinds if name not in batch.columns]:
        raise InputError(f"an index needs the column {missing[0]!r}: expected {', '.join(kinds)}")
    return batch.select(pl.col(name).cast(kind) for name, kind in kinds.items())
