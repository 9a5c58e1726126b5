"""The loss catalog: what the learner's loss on every sample was, per round.

Span files (what scoring workers write), snapshots (the commit), reading the newest losses, and
the losses observed while training.

A snapshot maps every shard to a row group of a part; parts that no snapshot names never
happened.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.selection.select import Preview
from attent_select.stats.quantile_map import QuantileMap, Trend
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import Corpus, check_corpus
from catalogs.layout import Layout, join
from catalogs.losses import merge
from catalogs.losses import parts as loss_parts
from catalogs.losses.parts import BatchSplits, PartSummary, ShardLosses
from catalogs.losses.segments import Segment, sum_visits
from catalogs.tables import frames
from catalogs.tables.scan import File, Scan

__all__ = ["BatchSplits", "LossCatalog", "PartSummary", "ShardLosses", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous range of rows of one shard: what one scoring task does."""

    shard_id: int
    first_row: int
    num_rows: int


class LossCatalog:
    """The losses of one run. Holds no state of its own: every answer is read from storage.

    `carry` names metadata columns (polars dtypes) that stand beside the losses in every part.
    """

    def __init__(self, run: str, *, carry: frames.SchemaDict | None = None) -> None:
        self.run = storage.normalise(run)
        self._carry = carry
        self._layout = Layout(self.run)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The corpus of the run. Raises `MissingError` before it is ingested."""
        return Corpus.open(self.run)

    # Scoring: workers write spans and compact them, the driver publishes.

    def write_span(
        self, digest: str, rows: pl.DataFrame, *, batch_splits: BatchSplits | None = None
    ) -> None:
        """Publish the losses of one span (`schema.LOSSES` and the carried columns, in row order).

        `batch_splits` says what became of its batches; the part that is made of it says so too.

        Raises:
            InputError: a column is missing, the order is wrong, or a loss does not fit its status.
        """
        what = f"span {digest}"
        rows = loss_parts.cast_columns(rows, kinds=self._kinds(), what=what)
        loss_parts.check_order(rows, what=what)
        loss_parts.check_losses(rows, what=what)
        notes = {
            "schema_version": schema.SCHEMA_VERSION,
            "batching": asdict(batch_splits or BatchSplits()),
        }
        frames.publish_frame(self._layout.span(digest), rows, notes=notes)

    def span_digests(self) -> set[str]:
        """The spans that are done."""
        return {_stem(found.url) for found in storage.list_objects(self._layout.spans)}

    def read_span(self, digest: str) -> tuple[pl.DataFrame, BatchSplits] | None:
        """The losses of a span and what became of its batches; None if it is not done."""
        try:
            rows, notes = self._read_span(digest)
        except MissingError:
            return None
        return rows, BatchSplits(**notes["batching"])

    def compact(
        self, group: Sequence[str], *, round_number: int, provenance: dict[str, Any] | None = None
    ) -> PartSummary:
        """Make one part of the spans `group`: all rows of a contiguous range of shards, in order.

        `visits` becomes how often each sample was trained on before this round. Running it twice
        writes the same bytes under the same name.

        Raises:
            MissingError: a span was not written.
            InputError: the spans leave a gap or overlap.
        """
        # Many small files: waiting for one after the other would take most of the time.
        found = list(ordered_map(self._read_span, group, num_threads=8))
        rows = pl.concat(rows for rows, _ in found)
        rows = rows.with_columns(self._visits(rows, before=round_number))
        batch_splits = BatchSplits.sum(BatchSplits(**notes["batching"]) for _, notes in found)
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
        """Make one part of consecutive shards: their losses as of round `since` (None: of no
        round, all are unseen), each replaced by a newer one that is in `spans` or was observed
        while training.

        Running it twice writes the same bytes under the same name.

        Raises:
            MissingError: a span, or a part of round `since`, is not there.
        """
        between = pl.col(schema.SHARD_ID).is_between(shards.start, shards.stop - 1)
        observed = [self.observed_losses(number) for number in range(since or 0, round_number)]
        rows = merge.merge_losses(
            self._kept(shards, since),
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
        """Commit a round: write its snapshot, then delete the spans it was made from, and what
        journals they have left: of workers that died between the file and the journal's end.

        With `keep`, shards that `parts` lack keep the losses of round `keep`.

        Raises:
            InputError: a shard is missing, there twice, or has another number of rows.
            ExistsError: the round has another snapshot already.
        """
        rows = [shard for part in parts for shard in part.shards]
        made = {p.part: {"num_shards": len(p.shards), "round": round_number} for p in parts}
        if keep is not None:
            kept, notes = self._read_snapshot(keep)
            covered = {shard.shard_id for shard in rows}
            rows += [
                ShardLosses(**row)
                for row in kept.iter_rows(named=True)
                if row[schema.SHARD_ID] not in covered
            ]
            made = notes["parts"] | made
        rows.sort(key=lambda shard: shard.shard_id)
        self._check_complete(rows)
        snapshot = pl.DataFrame([asdict(row) for row in rows], schema=dict(schema.SNAPSHOT))
        used = sorted(set(snapshot["part"]))
        notes = self._notes(round_number) | {
            "provenance": provenance,
            "parts": {part: made[part] for part in used},
        }
        self._check_unpublished(round_number, snapshot)
        frames.publish_frame(self._layout.snapshot(round_number), snapshot, notes=notes)
        done = {digest for part in parts for digest in part.spans}
        storage.delete_all(map(self._layout.span, done))
        left = storage.list_objects(self._layout.journals)
        storage.delete_all(found.url for found in left if _stem(found.url) in done)

    # Reading.

    def span_losses(self, spans: Sequence[str]) -> pl.LazyFrame:
        """The rows of spans that are not yet part of a round."""
        urls = [self._layout.span(digest) for digest in spans]
        return Scan.of(urls, schema=self._kinds()).frame()

    def rounds(self) -> list[int]:
        """The rounds that have a snapshot, ascending."""
        names = (_stem(found.url) for found in storage.list_objects(self._layout.snapshots))
        return sorted(int(name) for name in names if name.isdigit())

    def snapshot(self, round_number: int) -> pl.DataFrame | None:
        """The snapshot of a round (`schema.SNAPSHOT`); None if it was not published."""
        try:
            return self._read_snapshot(round_number)[0]
        except MissingError:
            return None

    def provenance(self, round_number: int) -> dict[str, Any]:
        """What `publish` was told about a round. Raises `MissingError` if it was not published."""
        return dict(self._read_snapshot(round_number)[1]["provenance"])

    def latest(self, round_number: int | None = None) -> pl.LazyFrame:
        """The losses of every sample as of a round (default: the newest), one row each, in order.

        Raises what `scan` raises.
        """
        return self.scan(round_number).frame()

    def scan(self, round_number: int | None = None) -> Scan:
        """`latest`, in pieces where that is wanted.

        Raises:
            MissingError: nothing was scored yet.
            CorpusMismatchError: the losses are of another corpus.
        """
        newest = self._newest(round_number)
        if newest is None:
            by = "" if round_number is None else f" up to round {round_number}"
            raise MissingError(f"{self.run} has no losses{by}: run `attent score` first")
        segments = list(self._segments(newest))
        return self._scan(segments, self._kinds_at_rest(segments[0].part))

    def preview(self, round_number: int | None = None) -> Preview:
        """Some rows of `latest`, from many places, which make a selection from it faster."""
        return self.scan(round_number).preview(total=self.corpus.num_samples)

    def digest(self, round_number: int) -> str:
        """Digest of the sorted rows (shard_id, row, loss bits, num_units, status) as of a round.

        Equal losses have equal digests, however they are cut into parts.
        """
        # An Enum and not `replace_strict`, which would hold the whole column in memory.
        status = pl.col(schema.STATUS).cast(pl.Enum(schema.STATUSES)).to_physical()
        rows = self.latest(round_number).select(
            schema.SHARD_ID,
            schema.ROW,
            pl.col(schema.LOSS).fill_null(float("nan")),
            schema.NUM_UNITS,
            status.cast(pl.UInt8),
        )
        digest = frames.ColumnDigest(rows.collect_schema().names())
        for batch in rows.collect_batches(maintain_order=True, engine="streaming"):
            digest.update(batch)
        return digest.hexdigest()

    # Losses seen while training.

    def write_observed(self, round_number: int, name: str, rows: pl.DataFrame) -> None:
        """Publish losses observed in a round (`schema.OBSERVED_LOSSES`); the same name replaces."""
        rows = loss_parts.cast_columns(
            rows, kinds=dict(schema.OBSERVED_LOSSES), what=f"observed {name}"
        )
        # Sorted, so that looking for a few shards skips most of a file.
        rows = rows.sort(schema.SHARD_ID, schema.ROW, "step")
        url = join(self._layout.observed(round_number), f"{name}.parquet")
        frames.publish_frame(url, rows, notes=self._notes(round_number))

    def observed_losses(self, round_number: int | None = None) -> pl.LazyFrame:
        """The observed losses of a round (default: of all rounds), in any order; perhaps none."""
        if round_number is None:
            folder = self._layout.all_observed
        else:
            folder = self._layout.observed(round_number)
        urls = [found.url for found in storage.list_objects(folder)]
        return Scan.of(urls, schema=dict(schema.OBSERVED_LOSSES)).frame()

    # How it is done.

    def _read_span(self, digest: str) -> tuple[pl.DataFrame, frames.Notes]:
        return frames.read_frame(self._layout.span(digest), schema=self._kinds())

    def _kinds(self) -> frames.SchemaDict:
        return dict(schema.LOSSES) | (self._carry or {})

    def _kinds_at_rest(self, part: str) -> frames.SchemaDict:
        if self._carry is not None:
            return self._kinds()
        return frames.polars_schema(frames.footer_of(self._layout.part(part)))

    def _kept(self, shards: range, since: int | None) -> pl.DataFrame:
        """The losses of consecutive shards as of round `since`."""
        if since is None:
            counts = [self.corpus.shard(shard_id).num_samples for shard_id in shards]
            return merge.unseen_losses(shards, counts)
        kept = [one.within(shards.start, shards.stop - 1) for one in self._segments(since)]
        return self._scan([one for one in kept if one is not None], self._kinds()).frame().collect()

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
        known = [r for r in rounds if round_number is None or r <= round_number]
        return known[-1] if known else None

    def _segments(self, round_number: int) -> Iterator[Segment]:
        snapshot, notes = self._read_snapshot(round_number)
        runs = snapshot.group_by(pl.col("part").rle_id().alias("run"), maintain_order=True).agg(
            pl.col("part").first(),
            pl.col(schema.SHARD_ID).first().alias("first"),
            pl.col(schema.SHARD_ID).last().alias("last"),
            pl.col("row_group"),
        )
        for run in runs.iter_rows(named=True):
            made_in = notes["parts"][run["part"]]["round"]
            yield Segment(run["part"], tuple(run["row_group"]), run["first"], run["last"], made_in)

    def _scan(self, segments: Sequence[Segment], kinds: frames.SchemaDict) -> Scan:
        files = (File(self._layout.part(one.part), one.groups) for one in segments)
        return Scan(tuple(files), kinds)

    def _visits(self, rows: pl.DataFrame, *, before: int) -> pl.Series:
        """How often each of the (dense, sorted) rows was trained on before round `before`."""
        first, last = int(rows[schema.SHARD_ID][0]), int(rows[schema.SHARD_ID][-1])
        newest = self._newest(before - 1)
        nothing = Segment("", (), first, last, 0)
        segments = [nothing] if newest is None else list(self._segments(newest))
        counts = []
        for segment in segments:
            if (part := segment.within(first, last)) is None:
                continue
            if segment.part:
                kinds = {name: schema.LOSSES[name] for name in (*_KEY, schema.VISITS)}
                counts.append(self._scan([part], kinds).frame().select(*_KEY, schema.VISITS))
            for round_number in range(part.round_number, before):
                shard = pl.col(schema.SHARD_ID)
                seen = self.observed_losses(round_number).filter(
                    shard.is_between(part.first, part.last)
                )
                counts.append(seen.select(*_KEY, pl.lit(1, pl.UInt16).alias(schema.VISITS)))
        return sum_visits(rows, counts)

    def _check_complete(self, rows: Sequence[ShardLosses]) -> None:
        found = [row.shard_id for row in rows]
        if found != list(range(len(self.corpus.shards))):
            missing = sorted(set(range(len(self.corpus.shards))) - set(found))
            twice = [shard_id for shard_id, count in Counter(found).items() if count > 1]
            raise InputError(
                f"a snapshot must have every shard of the corpus once: missing {missing[:10]},"
                f" there twice {twice[:10]}. Score the missing shards"
            )
        for row, shard in zip(rows, self.corpus.shards, strict=True):
            if row.num_rows != shard.num_samples:
                raise InputError(
                    f"shard {shard.shard_id} has {row.num_rows} losses, the corpus says"
                    f" {shard.num_samples} samples: score it again"
                )

    def _check_unpublished(self, round_number: int, snapshot: pl.DataFrame) -> None:
        there = self.snapshot(round_number)
        if there is not None and not there.equals(snapshot):
            raise ExistsError(
                f"round {round_number} has a snapshot with other losses already:"
                f" {self._layout.snapshot(round_number)}. Score another round, or remove it first"
            )


_KEY = (schema.SHARD_ID, schema.ROW)


def _stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]
