"""Marks of samples: exclude, relabel or keep, written as the annotation `marks` of the corpus."""

import csv
import io
import threading
from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from catalogs import AnnotationStore, Corpus
from catalogs.annotations.store import VALUE
from pipeline.explorer.source import Source, run_chunks

NAME: Final = "marks"
CHOICES: Final = ("exclude", "relabel", "keep")
# Rows of a part of the annotation.
_PART_ROWS: Final = 2_000_000
# More are not a matter of looking at samples one by one.
_MAX_MARKS: Final = 100_000

Marked = dict[tuple[int, int], str]


class Marks:
    """The marks of a corpus: those that are stored, and changes that are not yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._marks: Marked | None = None
        self._unsaved = 0

    def all(self, source: Source) -> Marked:
        """Return the mark of each marked sample, reading the stored ones first."""
        with self._lock:
            if self._marks is None:
                self._marks = _read_stored(source)
            return dict(self._marks)

    def mark(self, source: Source, shard_id: int, row: int, choice: str) -> dict[str, Any]:
        """Mark a sample; an empty choice removes its mark.

        Raises:
            InputError: there is no such sample or choice, or there are too many marks.
        """
        if choice and choice not in CHOICES:
            raise InputError(f"mark {choice!r}: expected one of {', '.join(CHOICES)}, or none")
        if not 0 <= row < source.corpus.shard(shard_id).num_samples:
            raise InputError(f"shard {shard_id} has no row {row}")
        known = self.all(source)
        if choice and len(known) >= _MAX_MARKS:
            raise InputError(f"there are {_MAX_MARKS} marks: use a condition (`where`) instead")
        with self._lock:
            assert self._marks is not None
            self._marks.pop((shard_id, row), None)
            if choice:
                self._marks[shard_id, row] = choice
            self._unsaved += 1
        return self.to_json(source)

    def save(self, source: Source) -> dict[str, Any]:
        """Write the annotation, a value for each marked sample and null for the others.

        Raises:
            InputError: the corpus has another annotation of that name.
        """
        _check_ours(source)
        marks = self.all(source)
        store = AnnotationStore(source.url)
        parts = [store.write_part(NAME, rows) for rows in _parts(source.corpus, marks)]
        store.publish(NAME, kind=NAME, parts=parts, overwrite=True)
        with self._lock:
            self._unsaved = 0
        return self.to_json(source)

    def to_json(self, source: Source) -> dict[str, Any]:
        """Return the marks, how many changes are not saved, and how to select with them."""
        marks = [[*sample, choice] for sample, choice in sorted(self.all(source).items())]
        return {
            "marks": marks,
            "unsaved": self._unsaved,
            "where": f"{NAME} IS NULL OR {NAME} != 'exclude'",
        }

    def to_csv(self, source: Source) -> str:
        """Return shard_id, row, mark and the URI of the shard of each marked sample."""
        target = io.StringIO()
        writer = csv.writer(target)
        writer.writerow([SHARD_ID, ROW, "mark", "uri"])
        for (shard_id, row), choice in sorted(self.all(source).items()):
            writer.writerow([shard_id, row, choice, source.corpus.shard(shard_id).uri])
        return target.getvalue()


def _read_stored(source: Source) -> Marked:
    if NAME not in source.kinds or source.pool_rounds:
        return {}
    _check_ours(source)
    parts = run_chunks(source.read([NAME], max_rows=source.corpus.num_samples), _marked_rows)
    return {(shard, row): mark for part in parts for shard, row, mark in part.iter_rows()}


def _marked_rows(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col(NAME).is_not_null()).select(SHARD_ID, ROW, NAME)


def _check_ours(source: Source) -> None:
    record = source.record_of(NAME)
    if record is not None and record.kind != NAME:
        raise InputError(
            f"{source.url} has another annotation {NAME}, of kind {record.kind}: it is not replaced"
        )


def _parts(corpus: Corpus, marks: Marked) -> Iterator[pl.DataFrame]:
    """Yield the dense rows of consecutive shards, at most two million or one shard at a time."""
    group: list[int] = []
    for shard_id, num_rows in enumerate(corpus.shard_rows.tolist()):
        sizes = sum(int(corpus.shard_rows[each]) for each in group)
        if group and sizes + num_rows > _PART_ROWS:
            yield _rows_of(corpus, group, marks)
            group = []
        group.append(shard_id)
    yield _rows_of(corpus, group, marks)


def _rows_of(corpus: Corpus, shard_ids: list[int], marks: Marked) -> pl.DataFrame:
    ids = pl.concat(
        pl.DataFrame(
            {ROW: pl.int_range(int(corpus.shard_rows[number]), dtype=pl.UInt32, eager=True)}
        ).select(pl.lit(number, pl.UInt32).alias(SHARD_ID), ROW)
        for number in shard_ids
    )
    chosen = [(*sample, mark) for sample, mark in marks.items() if sample[0] in set(shard_ids)]
    kinds = {SHARD_ID: pl.UInt32, ROW: pl.UInt32, VALUE: pl.String}
    marked = pl.DataFrame(chosen, schema=kinds, orient="row")
    return ids.join(marked, on=[SHARD_ID, ROW], how="left", maintain_order="left")
