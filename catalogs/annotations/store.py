"""Annotation store: the annotations of a corpus at rest.

Workers write span files and build parts of them; publishing `annotation.json` commits the
annotation. Replaced and removed parts stay for their readers until `attent gc`.
"""

import difflib
import functools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from attent_select import schema
from attent_select.errors import ExistsError, InputError, MissingError
from catalogs import storage
from catalogs.annotations.record import Annotation, AnnotationPart
from catalogs.annotations.record_versions import IncompleteAnnotationError, read_record
from catalogs.annotations.row_digest import RowDigest
from catalogs.concurrency import ordered_map
from catalogs.corpus import Corpus, check_corpus
from catalogs.layout import AnnotationLayout, CorpusLayout
from catalogs.tables import dense_parts, frames
from catalogs.tables.scan import File, Scan

_log = logging.getLogger("attent.catalogs.annotations")

VALUE: Final = "value"
VALUE_TYPES: Final = ("Float32", "Int64", "String", "Boolean")

_IDS: Final = (schema.SHARD_ID, schema.ROW)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
# Columns of losses and of the manifest, which a query or a strategy reads by these names.
_TAKEN: Final = frozenset(
    {*schema.LOSSES, *schema.INDEX, *schema.MANIFEST, schema.FUNCTIONAL_GRADIENT, "round"}
)


@dataclass(frozen=True)
class BuiltPart:
    """A written part: its place, the spans that it was made from, and the statuses of its rows."""

    part: AnnotationPart
    spans: tuple[str, ...] = ()
    statuses: Mapping[str, int] = field(default_factory=dict)


class AnnotationStore:
    """The annotations of the corpus at `url`, a corpus or a run. Stateless.

    The rows of a span or part have shard_id u32, row u32, `value` and further columns. A `status`
    is counted in the record and not stored; floats that are not finite become null.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.normalise(url)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The corpus. Raises `MissingError` if it was not ingested."""
        return Corpus.open(self.url)

    def layout(self, name: str) -> AnnotationLayout:
        """Return the paths of an annotation. Raises `InputError` for a name that is not allowed."""
        check_name(name)
        return self._corpus_layout.annotation(name)

    # Making: workers write spans and build parts; the driver publishes.

    def write_span(self, name: str, digest: str, rows: pl.DataFrame) -> None:
        """Publish the rows of one span, sorted by (shard_id, row)."""
        what = f"span {digest} of annotation {name}"
        kinds = {**_kinds_of(rows, what=what), **_id_kinds()}
        rows = dense_parts.cast_columns(rows, kinds=kinds, what=what)
        dense_parts.check_order(rows, what=what)
        notes = {"schema_version": schema.SCHEMA_VERSION}
        frames.publish_frame(self.layout(name).span(digest), rows, notes=notes)

    def span_digests(self, name: str) -> set[str]:
        """Return the digests of the finished spans."""
        files = storage.list_objects(self.layout(name).spans)
        return {_stem(stored.url) for stored in files}

    def span_columns(self, name: str, digest: str) -> frames.SchemaDict:
        """Return the columns of a finished span. Raises `MissingError` if it is not finished."""
        return frames.polars_schema(frames.footer_of(self.layout(name).span(digest)))

    def read_span(
        self, name: str, digest: str, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return columns (None: all) of a finished span.

        Raises:
            MissingError: it is not finished.
        """
        kinds = self.span_columns(name, digest)
        chosen = {column: kinds[column] for column in columns or kinds}
        return frames.read_frame(self.layout(name).span(digest), schema=chosen)[0]

    def build_part(self, name: str, spans: Sequence[str]) -> BuiltPart:
        """Make one part of spans: all rows of consecutive shards, in order.

        Idempotent: a second call writes the same bytes under the same name.
        """
        read = functools.partial(self.read_span, name)
        rows = pl.concat(ordered_map(read, spans, num_threads=8))
        return self.write_part(name, rows, spans=spans)

    def write_part(self, name: str, rows: pl.DataFrame, *, spans: Sequence[str] = ()) -> BuiltPart:
        """Publish dense, sorted rows of consecutive shards as a part, without `status`."""
        what = f"annotation {name}"
        _kinds_of(rows, what=what)
        statuses: dict[str, int] = {}
        if schema.STATUS in rows.columns:
            counts = rows.group_by(schema.STATUS).agg(pl.len().cast(pl.Int64)).sort(schema.STATUS)
            statuses = dict(counts.rows())
            rows = rows.drop(schema.STATUS)
        rows = _canonical(rows).cast(pl.Schema(_id_kinds()))
        notes = {
            "schema_version": schema.SCHEMA_VERSION,
            "corpus_id": self.corpus.corpus_id,
            "annotation": name,
        }
        digest, shards = dense_parts.publish_part(rows, url_of=self.layout(name).part, notes=notes)
        first, last = int(rows[schema.SHARD_ID][0]), int(rows[schema.SHARD_ID][-1])
        if len(shards) != last - first + 1:
            raise InputError(f"{what}: a part has gaps between its shards {first} to {last}")
        return BuiltPart(AnnotationPart(digest, first, last, len(rows)), tuple(spans), statuses)

    def publish(
        self,
        name: str,
        *,
        kind: str,
        parts: Iterable[BuiltPart],
        overwrite: bool = False,
        completes: Annotation | None = None,
        **facts: Any,
    ) -> Annotation:
        """Commit an annotation: write its record, then delete the spans of its parts.

        Args:
            name: of the annotation.
            kind: what made it.
            parts: parts of all shards of the corpus.
            overwrite: replace an annotation of that name.
            completes: its record for an earlier version of the corpus, which stays.
            facts: further fields of `Annotation`: settings, digests, seconds, units, ….

        Raises:
            ExistsError: there is another annotation of that name and `overwrite` is not set.
            InputError: the parts do not have every row of the corpus once.
        """
        built = sorted(parts, key=lambda each: each.part.first_shard)
        self._check_complete([each.part for each in built], name=name)
        scan, kinds = self._scan_of(name, [each.part for each in built])
        digest, num_values = RowDigest.of(scan.frame(), columns=list(kinds))
        statuses: Counter[str] = Counter()
        for each in built:
            statuses.update(each.statuses)
        annotation = Annotation(
            name=name,
            kind=kind,
            corpus_id=self.corpus.corpus_id,
            num_rows=self.corpus.num_samples,
            value_type=str(kinds[VALUE]),
            columns={key: str(dtype) for key, dtype in kinds.items() if key not in _IDS},
            parts=tuple(each.part for each in built),
            digest=digest,
            coverage=num_values / self.corpus.num_samples,
            statuses=dict(sorted(statuses.items())),
            **facts,
        )
        layout = self.layout(name)
        if completes is None:
            self._check_unpublished(annotation, overwrite=overwrite)
        else:
            storage.publish(layout.version(completes.corpus_id), completes.to_json().encode())
        storage.publish(layout.record, annotation.to_json().encode())
        digests = {digest for each in built for digest in each.spans}
        storage.delete_all(map(layout.span, digests))
        storage.delete_all(map(layout.journal, digests))
        return annotation

    def update(self, annotation: Annotation) -> None:
        """Replace the record of an annotation, for what is known later: enrichment, fidelity."""
        storage.publish(self.layout(annotation.name).record, annotation.to_json().encode())

    def remove(self, name: str) -> None:
        """Delete the record of an annotation; `attent gc` deletes its parts.

        Raises:
            MissingError: there is no such annotation.
        """
        if self.incomplete(name) is not None or self.read(name):
            storage.delete(self.layout(name).record)
            storage.delete_folder(self.layout(name).versions)

    # Reading.

    def names(self) -> list[str]:
        """Return the names of the annotations, sorted."""
        folder = self._corpus_layout.annotations.rstrip("/") + "/"
        paths = (stored.url.removeprefix(folder) for stored in storage.list_objects(folder))
        return sorted(p.partition("/")[0] for p in paths if p.endswith("/annotation.json"))

    def read(self, name: str) -> Annotation:
        """Return the record of an annotation.

        Raises:
            MissingError: there is no such annotation.
            IncompleteAnnotationError: it lacks the shards that were appended since.
            CorpusMismatchError: it was made for another corpus.
        """
        try:
            return read_record(self.layout(name), name=name, corpus=self.corpus, url=self.url)
        except MissingError as error:
            raise MissingError(self._unknown(name)) from error

    def incomplete(self, name: str) -> Annotation | None:
        """Return the record of an annotation that lacks the shards that were appended since; None
        if it has them.

        Raises what `read` raises.
        """
        try:
            self.read(name)
        except IncompleteAnnotationError as error:
            return error.annotation
        return None

    def records(self) -> list[Annotation]:
        """Return the records of all annotations; warn about those that are incomplete."""
        records = []
        for name in self.names():
            try:
                records.append(self.read(name))
            except IncompleteAnnotationError as error:
                _log.warning("left out: %s", error)
        return records

    def scan(self, name: str | Annotation) -> Scan:
        """Return all rows of an annotation as a `Scan`; its columns are `columns` and the ids.

        Raises:
            MissingError: there is no such annotation, or a part of it was deleted.
            InputError: a part differs from the record.
        """
        annotation = name if isinstance(name, Annotation) else self.read(name)
        layout = self.layout(annotation.name)

        def check(part: AnnotationPart) -> None:
            url = layout.part(part.part)
            if storage.info(url) is None:
                raise MissingError(
                    f"{url} was deleted: restore the part, or make the annotation"
                    f" {annotation.name} again with --overwrite"
                )
            footer = frames.footer_of(url)
            check_corpus(frames.notes_of(footer), corpus=self.corpus, what=f"the part {url}")
            if footer.num_rows != part.num_rows:
                raise InputError(
                    f"{url} has {footer.num_rows} rows, but {part.num_rows} in {layout.record}:"
                    " restore the part, or make the annotation again with --overwrite"
                )

        list(ordered_map(check, annotation.parts, num_threads=16))
        return self._scan_of(annotation.name, annotation.parts)[0]

    def verify(self, name: str) -> Annotation:
        """Read an annotation completely and compare it with the digest in its record.

        Raises:
            InputError: its rows have changed.
        """
        annotation = self.read(name)
        columns = [*_IDS, *annotation.columns]
        digest, _ = RowDigest.of(self.scan(annotation).frame(), columns=columns)
        if digest != annotation.digest:
            raise InputError(
                f"annotation {name} has the digest {digest}, expected {annotation.digest}: its"
                " parts were changed. Restore them, or make it again with --overwrite"
            )
        return annotation

    @property
    def _corpus_layout(self) -> CorpusLayout:
        return CorpusLayout(self.corpus.folder)

    def _scan_of(
        self, name: str, parts: Sequence[AnnotationPart]
    ) -> tuple[Scan, frames.SchemaDict]:
        layout = self.layout(name)
        urls = [layout.part(part.part) for part in parts]
        kinds = frames.polars_schema(frames.footer_of(urls[0]))
        files = (
            File(url, tuple(range(part.last_shard - part.first_shard + 1)))
            for url, part in zip(urls, parts, strict=True)
        )
        return Scan(tuple(files), kinds), kinds

    def _check_complete(self, parts: Sequence[AnnotationPart], *, name: str) -> None:
        following = 0
        for part in parts:
            if part.first_shard != following:
                break
            following = part.last_shard + 1
        num_rows = sum(part.num_rows for part in parts)
        num_shards, num_samples = len(self.corpus.shards), self.corpus.num_samples
        if following != num_shards or num_rows != num_samples:
            raise InputError(
                f"annotation {name}: its parts have {num_rows} rows and the shards up to"
                f" {following - 1}, expected {num_samples} rows of {num_shards} shards once each"
            )

    def _check_unpublished(self, annotation: Annotation, *, overwrite: bool) -> None:
        if overwrite or storage.info(self.layout(annotation.name).record) is None:
            return
        if self.read(annotation.name).digest != annotation.digest:
            raise ExistsError(
                f"annotation {annotation.name} exists with other values: choose another name, or"
                " give --overwrite"
            )

    def _unknown(self, name: str) -> str:
        names = self.names()
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        existing = f"it has {', '.join(names)}" if names else "it has none"
        return (
            f"{self.url} has no annotation {name!r}, {existing}.{hint} Make it with `attent"
            f" annotate {self.url} --name {name} --kind …`"
        )


def is_name(name: str) -> bool:
    """Whether an annotation may have this name."""
    return _NAME.fullmatch(name) is not None and name not in _TAKEN


def check_name(name: str) -> None:
    """Raise `InputError` for a name that an annotation must not have."""
    if not is_name(name):
        raise InputError(
            f"annotation {name!r}: expected a name of lower-case letters, digits and"
            f" underscores that is not a column of the losses ({', '.join(sorted(_TAKEN))})"
        )


def sql_columns(annotation: Annotation) -> dict[str, str]:
    """Return SQL name → stored name: `<name>` is the value, `<name>_<column>` further columns."""
    name = annotation.name
    return {
        name if column == VALUE else f"{name}_{column}": column for column in annotation.columns
    }


def _id_kinds() -> frames.SchemaDict:
    return {name: schema.INDEX[name] for name in _IDS}


def _kinds_of(rows: pl.DataFrame, *, what: str) -> frames.SchemaDict:
    if missing := [name for name in (*_IDS, VALUE) if name not in rows.columns]:
        raise InputError(f"{what}: the column {missing[0]!r} is missing; it has {rows.columns}")
    if str(rows.schema[VALUE]) not in VALUE_TYPES:
        raise InputError(
            f"{what}: its values are {rows.schema[VALUE]}, expected {', '.join(VALUE_TYPES)}"
        )
    return dict(rows.schema)


def _canonical(rows: pl.DataFrame) -> pl.DataFrame:
    """Replace floats that are not finite by null, and −0.0 by 0.0: equal values, equal digests."""
    floats = [name for name, dtype in rows.schema.items() if dtype.is_float()]
    return rows.with_columns(
        pl.when(pl.col(name) == 0)
        .then(pl.lit(0.0, dtype=rows.schema[name]))
        .when(pl.col(name).is_finite())
        .then(pl.col(name))
        .alias(name)
        for name in floats
    )


def _stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]
