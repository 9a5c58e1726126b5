"""Loss catalog: the learner's loss on every sample, per round.

Scoring workers write span files and compact them into parts; publishing a snapshot, which maps each
shard to a row group of a part, commits a round. Parts not referenced by a snapshot are uncommitted
and ignored.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import AttentError, ExistsError, MissingError
from attent_select.selection.select import Preview
from attent_select.stats.quantile_map import QuantileMap, Trend
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import Corpus, check_corpus
from catalogs.layout import Layout, join
from catalogs.losses import merge
from catalogs.losses import parts as loss_parts
from catalogs.losses.parts import BatchSplits, PartSummary, ShardLosses
from catalogs.losses.snapshots import Segment, check_complete, losses_card, segments_of
from catalogs.losses.unusable import Unusable
from catalogs.tables import dense_parts, frames
from catalogs.tables.scan import File, Scan

__all__ = ["BatchSplits", "LossCatalog", "PartSummary", "ShardLosses", "Span"]

_KEY = (schema.SHARD_ID, schema.ROW)
# In a notebook, the histogram of a larger catalog reads a few thousand rows of some of its files.
_SHOWN_ROWS, _SHOWN_FILES = 1 << 18, 16


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one shard that one scoring task measures."""

    shard_id: int
    first_row: int
    num_rows: int


class LossCatalog:
    """The losses of one run. Stateless: every answer is read from storage.

    `carry` names metadata columns (polars dtypes) that every part holds beside the losses.
    """

    def __init__(self, run: str, *, carry: frames.SchemaDict | None = None) -> None:
        self.run = storage.normalise(run)
        self._carry = carry
        self._layout = Layout(self.run)

    def __repr__(self) -> str:
        return f"LossCatalog({self.run!r})"

    def _repr_html_(self) -> str:
        try:
            if not (rounds := self.rounds()):
                return losses_card(self.run, problem="no round was scored yet")
            snapshot, scan = self._read_snapshot(rounds[-1])[0], self.scan(rounds[-1])
            rows = scan.frame()
            if (total := self.corpus.num_samples) > _SHOWN_ROWS:
                files = scan.files[:: -(-len(scan.files) // _SHOWN_FILES)]
                rows = replace(scan, files=files).preview(total=total).rows
            losses = rows.select(schema.LOSS).collect().to_series()
        except AttentError as error:
            return losses_card(self.run, problem=str(error))
        return losses_card(self.run, rounds, snapshot=snapshot, losses=losses)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The corpus of the run. Raises `MissingError` if it was not ingested."""
        return Corpus.open(self.run)

    # Scoring: workers write spans and compact them; the driver publishes.

    def write_span(
        self,
        digest: str,
        rows: pl.DataFrame,
        *,
        batch_splits: BatchSplits | None = None,
        unusable: Unusable | None = None,
    ) -> None:
        """Publish the losses of one span (`schema.LOSSES` and the carried columns, in row order).

        Raises:
            InputError: a column is missing, rows are not sorted, or a loss contradicts its status.
        """
        what = f"span {digest}"
        rows = dense_parts.cast_columns(rows, kinds=self._kinds(), what=what)
        dense_parts.check_order(rows, what=what)
        loss_parts.check_losses(rows, what=what)
        notes = {
            "schema_version": schema.SCHEMA_VERSION,
            "batching": asdict(batch_splits or BatchSplits()),
            "unusable": (unusable or Unusable()).to_dict(),
        }
        frames.publish_frame(self._layout.span(digest), rows, notes=notes)

    def span_digests(self) -> set[str]:
        """Return the digests of the finished spans."""
        return {_stem(stored.url) for stored in storage.list_objects(self._layout.spans)}

    def read_span(self, digest: str) -> tuple[pl.DataFrame, BatchSplits] | None:
        """Return the losses of a span and its batch splits; None if it is not finished."""
        try:
            rows, notes = self._read_span(digest)
        except MissingError:
            return None
        return rows, BatchSplits(**notes["batching"])

    def batch_splits_in(self, spans: Sequence[str]) -> list[BatchSplits]:
        """Return the batch splits of each of some spans that are finished."""
        urls = [self._layout.span(digest) for digest in spans]
        footers = ordered_map(frames.footer_of, urls, num_threads=8)
        return [BatchSplits(**frames.notes_of(footer)["batching"]) for footer in footers]

    def unusable_in(self, spans: Sequence[str]) -> Unusable:
        """Return the samples without a loss in spans that are finished."""
        result = Unusable()
        urls = [self._layout.span(digest) for digest in spans]
        for footer in ordered_map(frames.footer_of, urls, num_threads=8):
            result.update(Unusable.of(frames.notes_of(footer).get("unusable", {})))
        return result

    def compact(
        self, group: Sequence[str], *, round_number: int, provenance: dict[str, Any] | None = None
    ) -> PartSummary:
        """Make one part of the spans `group`: all rows of a contiguous range of shards, in order.

        `visits` becomes the number of times that each sample was trained on before this round.
        Idempotent: a second call writes the same bytes under the same name.

        Raises:
            MissingError: a span was not written.
            InputError: the spans have a gap or overlap.
        """
        spans = list(ordered_map(self._read_span, group, num_threads=8))
        rows = pl.concat(rows for rows, _ in spans)
        rows = rows.with_columns(self._visits(rows, before=round_number))
        batch_splits = BatchSplits.sum(BatchSplits(**notes["batching"]) for _, notes in spans)
        notes = self._notes(round_number) | {
            "provenance": provenance or {},
            "batching": asdict(batch_splits),
        }
        part = loss_parts.build_part(rows, run=self.run, spans=group, notes=notes)
        return replace(part, batch_splits=batch_splits)

    def merge(
        self,
        shards: range,
        *,
        since: int | None,
        round_number: int,
        spans: Sequence[str],
        calibration: QuantileMap | Trend,
    ) -> PartSummary:
        """Make one part of consecutive shards: their losses as of round `since` (None: all are
        unseen), each replaced by a newer one from `spans` or observed in training.

        Idempotent: a second call writes the same bytes under the same name.

        Raises:
            MissingError: a span, or a part of round `since`, was not found.
        """
        between = pl.col(schema.SHARD_ID).is_between(shards.start, shards.stop - 1)
        observed = [self.observed_losses(number) for number in range(since or 0, round_number)]
        rows = merge.merge_losses(
            self._losses_of(shards, since),
            scored=self.span_losses(spans).filter(between).collect(),
            observed=pl.concat(observed).filter(between).collect(),
            calibration=calibration,
        )
        rows = rows.with_columns(self._visits(rows, before=round_number))
        batch_splits = BatchSplits.sum(
            BatchSplits(**self._read_span(one)[1]["batching"]) for one in spans
        )
        notes = self._notes(round_number) | {"batching": asdict(batch_splits)}
        part = loss_parts.build_part(rows, run=self.run, spans=spans, notes=notes)
        return replace(part, batch_splits=batch_splits)

    def publish(
        self,
        round_number: int,
        parts: Sequence[PartSummary],
        *,
        provenance: dict[str, Any],
        keep: int | None = None,
    ) -> None:
        """Commit a round: write its snapshot, then delete the spans of `parts` and their journals,
        which remain if a worker died before it deleted its own.

        With `keep`, shards that are not in `parts` keep the losses of round `keep`.

        Raises:
            InputError: a shard is missing, duplicate, or has a wrong number of rows.
            ExistsError: the round already has a different snapshot.
        """
        rows = [shard for part in parts for shard in part.shards]
        part_notes = {p.part: {"num_shards": len(p.shards), "round": round_number} for p in parts}
        if keep is not None:
            kept, notes = self._read_snapshot(keep)
            replaced_ids = {shard.shard_id for shard in rows}
            rows += [
                ShardLosses(**row)
                for row in kept.iter_rows(named=True)
                if row[schema.SHARD_ID] not in replaced_ids
            ]
            part_notes = notes["parts"] | part_notes
        rows.sort(key=lambda shard: shard.shard_id)
        check_complete(rows, self.corpus.shards)
        snapshot = pl.DataFrame([asdict(row) for row in rows], schema=dict(schema.SNAPSHOT))
        notes = self._notes(round_number) | {
            "provenance": provenance,
            "parts": {part: part_notes[part] for part in sorted(set(snapshot["part"]))},
        }
        self._check_unpublished(round_number, snapshot)
        frames.publish_frame(self._layout.snapshot(round_number), snapshot, notes=notes)
        digests = {digest for part in parts for digest in part.spans}
        storage.delete_all(map(self._layout.span, digests))
        journals = storage.list_objects(self._layout.journals)
        storage.delete_all(stored.url for stored in journals if _stem(stored.url) in digests)

    # Reading.

    def span_losses(self, spans: Sequence[str]) -> pl.LazyFrame:
        """Return the rows of spans that are not yet part of a round, lazily."""
        urls = [self._layout.span(digest) for digest in spans]
        return Scan.of(urls, schema=self._kinds()).frame()

    def rounds(self) -> list[int]:
        """Return the rounds that have a snapshot, ascending."""
        names = (_stem(stored.url) for stored in storage.list_objects(self._layout.snapshots))
        return sorted(int(name) for name in names if name.isdigit())

    def snapshot(self, round_number: int) -> pl.DataFrame | None:
        """Return the snapshot of a round (`schema.SNAPSHOT`); None if it was not published."""
        try:
            return self._read_snapshot(round_number)[0]
        except MissingError:
            return None

    def provenance(self, round_number: int) -> dict[str, Any]:
        """Return the `provenance` of a published round. Raises `MissingError` if there is none."""
        return dict(self._read_snapshot(round_number)[1]["provenance"])

    def latest(self, round_number: int | None = None) -> pl.LazyFrame:
        """Return every sample's losses as of a round (default: the newest), in order, lazily.

        Raises what `scan` raises.
        """
        return self.scan(round_number).frame()

    def scan(self, round_number: int | None = None) -> Scan:
        """Return `latest` as a `Scan`, which can be read in chunks.

        Raises:
            MissingError: nothing was scored yet.
            CorpusMismatchError: the losses belong to another corpus.
        """
        newest = self._newest(round_number)
        if newest is None:
            limit = "" if round_number is None else f" up to round {round_number}"
            raise MissingError(
                f"{self.run} has no losses{limit}: run `attent score` first; a run that selects by "
                "annotations measures none"
            )
        segments = list(self._segments(newest))
        return self._scan(segments, self._kinds_at_rest(segments[0].part))

    def preview(self, round_number: int | None = None) -> Preview:
        """Return some rows of `latest` from many shards, which make a selection from it faster."""
        return self.scan(round_number).preview(total=self.corpus.num_samples)

    def digest(self, round_number: int) -> str:
        """Digest of the sorted rows (shard_id, row, loss bits, num_units, status) as of a round.

        Equal losses have equal digests, however they are split into parts.
        """
        return loss_parts.digest_of(self.latest(round_number))

    # Losses observed in training.

    def write_observed(self, round_number: int, name: str, rows: pl.DataFrame) -> None:
        """Publish losses observed in a round (`schema.OBSERVED_LOSSES`); `name` is overwritten."""
        rows = dense_parts.cast_columns(
            rows, kinds=dict(schema.OBSERVED_LOSSES), what=f"observed {name}"
        )
        # Sorted, so that reading a few shards skips most of a file.
        rows = rows.sort(schema.SHARD_ID, schema.ROW, "step")
        url = join(self._layout.observed(round_number), f"{name}.parquet")
        frames.publish_frame(url, rows, notes=self._notes(round_number))

    def observed_losses(self, round_number: int | None = None) -> pl.LazyFrame:
        """Return the observed losses of a round (default: all rounds), in any order, lazily."""
        if round_number is None:
            folder = self._layout.all_observed
        else:
            folder = self._layout.observed(round_number)
        urls = [stored.url for stored in storage.list_objects(folder)]
        return Scan.of(urls, schema=dict(schema.OBSERVED_LOSSES)).frame()

    def _read_span(self, digest: str) -> tuple[pl.DataFrame, frames.Notes]:
        return frames.read_frame(self._layout.span(digest), schema=self._kinds())

    def _kinds(self) -> frames.SchemaDict:
        return dict(schema.LOSSES) | (self._carry or {})

    def _kinds_at_rest(self, part: str) -> frames.SchemaDict:
        if self._carry is not None:
            return self._kinds()
        return frames.polars_schema(frames.footer_of(self._layout.part(part)))

    def _losses_of(self, shards: range, since: int | None) -> pl.DataFrame:
        """Return the losses of consecutive shards as of round `since` (None: all unseen).

        Shards that were appended since then are unseen.
        """
        segments = [] if since is None else list(self._segments(since))
        num_known = max((one.last + 1 for one in segments), default=0)
        known = [one.within(shards.start, shards.stop - 1) for one in segments]
        new = range(max(shards.start, num_known), shards.stop)
        counts = [self.corpus.shard(shard_id).num_samples for shard_id in new]
        rows = merge.unseen_losses(new, counts)
        if scanned := [one for one in known if one is not None]:
            old = self._scan(scanned, self._kinds()).frame().collect()
            rows = pl.concat([old, rows], how="diagonal") if new else old
        return rows

    def _notes(self, round_number: int) -> frames.Notes:
        return {
            "schema_version": schema.SCHEMA_VERSION,
            "corpus_id": self.corpus.corpus_id,
            "num_shards": len(self.corpus.shards),
            "num_samples": self.corpus.num_samples,
            "round": round_number,
        }

    def _read_snapshot(self, round_number: int) -> tuple[pl.DataFrame, frames.Notes]:
        url = self._layout.snapshot(round_number)
        snapshot, notes = frames.read_frame(url, schema=dict(schema.SNAPSHOT))
        check_corpus(notes, corpus=self.corpus, what=f"the snapshot {url}")
        return snapshot, notes

    def _newest(self, round_number: int | None) -> int | None:
        rounds = self.rounds()
        return max((r for r in rounds if round_number is None or r <= round_number), default=None)

    def _segments(self, round_number: int) -> Iterator[Segment]:
        snapshot, notes = self._read_snapshot(round_number)
        return segments_of(snapshot, notes["parts"])

    def _scan(self, segments: Sequence[Segment], kinds: frames.SchemaDict) -> Scan:
        files = (File(self._layout.part(one.part), one.groups) for one in segments)
        return Scan(tuple(files), kinds)

    def _visits(self, rows: pl.DataFrame, *, before: int) -> pl.Series:
        """Count how often each of the (dense, sorted) rows was trained on before round `before`."""
        first, last = int(rows[schema.SHARD_ID][0]), int(rows[schema.SHARD_ID][-1])
        newest = self._newest(before - 1)
        no_part = Segment("", (), first, last, 0)
        segments = [no_part] if newest is None else self._segments(newest)
        counts = []
        for segment in segments:
            if (overlap := segment.within(first, last)) is None:
                continue
            if overlap.part:
                kinds = {name: schema.LOSSES[name] for name in (*_KEY, schema.VISITS)}
                counts.append(self._scan([overlap], kinds).frame().select(*_KEY, schema.VISITS))
            for round_number in range(overlap.round_number, before):
                shard = pl.col(schema.SHARD_ID)
                seen = self.observed_losses(round_number).filter(
                    shard.is_between(overlap.first, overlap.last)
                )
                counts.append(seen.select(*_KEY, pl.lit(1, pl.UInt16).alias(schema.VISITS)))
        return merge.sum_visits(rows, counts)

    def _check_unpublished(self, round_number: int, snapshot: pl.DataFrame) -> None:
        published = self.snapshot(round_number)
        if published is not None and not published.equals(snapshot):
            raise ExistsError(
                f"round {round_number} already has a snapshot with other losses:"
                f" {self._layout.snapshot(round_number)}. Score another round, or delete it first"
            )


def _stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]
