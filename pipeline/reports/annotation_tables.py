"""Small tables about the annotations of a run: the selected samples against the corpus.

They come from a fixed random subset of the corpus, so that memory does not grow with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from attent_select import schema
from attent_select.selection.strata import stratum_label
from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.annotations.columns import AnnotationColumns
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import AnnotationStore
from catalogs.layout import Layout
from pipeline.reports.query import index, selected_rounds
from pipeline.reports.report_tables import ShownSample, drawn_rows, read_samples

_BINS: Final = 40
_CATEGORIES: Final = 12
_OTHERS: Final = "(others)"
# Their values are names of clusters.
_WITHOUT_DISTRIBUTION: Final = ("duplicates", "near_duplicates")


@dataclass(frozen=True)
class AnnotatedRows:
    """Random rows of a corpus with the values of its annotations.

    Attributes:
        rows: shard_id, row, a column for each annotation, `is_selected`, and `is_uniform`: whether
            the row was selected by the uniform draw instead of its key.
        annotations: those that have a distribution.
        round_number: the round that selected them.
    """

    rows: pl.DataFrame
    annotations: tuple[Annotation, ...]
    round_number: int

    @classmethod
    def of(cls, run: str, *, round_number: int | None = None) -> "AnnotatedRows | None":
        """Return None without annotations, or without a round that selected a part of the corpus.

        Of `round_number`, or of the last such round.
        """
        store, corpus = AnnotationStore(run), Corpus.open(run)
        records = store.records()
        shown = tuple(each for each in records if each.kind not in _WITHOUT_DISTRIBUTION)
        number = last_part_round(run) if round_number is None else round_number
        if not shown or number is None:
            return None
        names = [annotation.name for annotation in shown]
        is_drawn = drawn_rows(corpus.num_samples)
        columns = AnnotationColumns.of(run, names).join(None).frame()
        rows = columns.filter(is_drawn).collect(engine="streaming")
        chosen = index(run, rounds=[number]).filter(is_drawn)
        ids = [schema.SHARD_ID, schema.ROW]
        is_uniform = pl.col(schema.ORIGIN).eq_missing(pl.lit(schema.FROM_UNIFORM, pl.UInt8))
        marks = {"is_selected": pl.lit(True), "is_uniform": is_uniform}
        selected = chosen.select(*ids, **marks).collect(engine="streaming")
        marked = rows.join(selected, on=ids, how="left", maintain_order="left")
        return cls(marked.with_columns(pl.col(*marks).fill_null(False)), shown, number)


def distributions(annotated: AnnotatedRows) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each annotation's name, and `group` (corpus or selected), `value`, `share` of its rows.

    `value` is the lower end of one of 40 bins, or a category. Rows without a value are left out.
    """
    for annotation in annotated.annotations:
        values = annotated.rows.select(pl.col(annotation.name).alias("value"), "is_selected")
        if len(values := values.drop_nulls()):
            yield annotation.name, _distribution(values)


def selected_shares(
    annotated: AnnotatedRows, *, by: str | None
) -> Iterator[tuple[str, str, float]]:
    """Yield annotation, category, and its share of the selected rows, 0 if it has none of them.

    Of annotations with words or booleans, and of the strata `by`.
    """
    for annotation in annotated.annotations:
        if annotation.value_type not in ("String", "Boolean") and annotation.name != by:
            continue
        labels = annotated.rows.select(stratum_label(annotation.name).alias("value"))["value"]
        rows = annotated.rows.select("is_selected", value=_categories(labels))
        num_selected = max(1, int(rows["is_selected"].sum()))
        share = pl.col("is_selected").sum() / num_selected
        for value, each in rows.group_by("value").agg(share).sort("value").iter_rows():
            yield annotation.name, value, each


def loss_distributions(
    run: str, round_number: int, *, by: str | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the same of the losses that a round was selected by; nothing if it was not scored.

    With `by` also of the strata, if the losses have this column.
    """
    catalog = LossCatalog(run)
    if round_number not in catalog.rounds():
        return
    losses, ids = catalog.latest(round_number), [schema.SHARD_ID, schema.ROW]
    columns = {"loss": pl.col(schema.LOSS)}
    if by is not None and by in losses.collect_schema():
        columns[by] = stratum_label(by)
    marks = index(run, rounds=[round_number]).select(*ids, is_selected=pl.lit(True))
    drawn = losses.filter(drawn_rows(Corpus.open(run).num_samples)).select(*ids, **columns)
    joined = drawn.join(marks, on=ids, how="left").with_columns(
        pl.col("is_selected").fill_null(False)
    )
    rows = joined.collect(engine="streaming")
    for name in columns:
        values = rows.select(pl.col(name).alias("value"), "is_selected").drop_nulls()
        if len(values):
            yield name, _distribution(values)


def last_part_round(run: str) -> int | None:
    """Return the last round that selected a part of the corpus; None if every one selected all."""
    corpus = Corpus.open(run)
    rounds = (
        number
        for number in reversed(selected_rounds(run))
        if IndexFile.open(Layout(run).index(number)).num_samples < corpus.num_samples
    )
    return next(rounds, None)


def samples_beside_cut(
    run: str,
    annotated: AnnotatedRows,
    *,
    name: str,
    columns: tuple[str, ...],
    count: int,
    rank_column: str | None = None,
) -> tuple[list[ShownSample], list[ShownSample]]:
    """Return the selected samples with the smallest values, and the others with the largest.

    Samples of the uniform draw (`explore`) are on neither side, and nor are duplicates, which have
    a rank above 0 in `rank_column`. If the selected samples have the smaller values, the other way
    round.
    """
    by_key = annotated.rows.filter(pl.col("is_uniform").not_())
    if rank_column is not None:
        ranks = AnnotationColumns.of(run, [rank_column]).join(None).frame()
        copies = ranks.filter(drawn_rows(Corpus.open(run).num_samples), pl.col(rank_column) > 0)
        ids = [schema.SHARD_ID, schema.ROW]
        by_key = by_key.join(copies.select(ids).collect(engine="streaming"), on=ids, how="anti")
    rows = by_key.select(schema.SHARD_ID, schema.ROW, "is_selected", value=name)
    rows = rows.drop_nulls().sort("value", schema.SHARD_ID, schema.ROW)
    selected, others = rows.filter("is_selected"), rows.filter(pl.col("is_selected").not_())
    means = [float(np.mean(each["value"].to_numpy())) if len(each) else 0.0
             for each in (selected, others)]  # fmt: skip
    ascends = means[0] >= means[1]
    beside = [selected.head(count), others.tail(count)]
    if not ascends:
        beside = [selected.tail(count), others.head(count)]
    taken, left_out = (read_samples(run, each, columns=columns) for each in beside)
    return taken, left_out


def _distribution(values: pl.DataFrame) -> pl.DataFrame:
    """Return `group`, `value` and `share` of rows with `value` and `is_selected`."""
    column = values["value"]
    if column.dtype.is_numeric():
        binned = _bins(column.cast(pl.Float64))
    else:
        binned = _categories(column.cast(pl.String))
    table = values.select("is_selected", value=binned)
    groups = (("corpus", table), ("selected", table.filter("is_selected")))
    return pl.concat(
        each.group_by("value")
        .agg(share=pl.len() / max(1, len(each)))
        .select(pl.lit(group).alias("group"), "value", "share")
        .sort("value")
        for group, each in groups
    )


def _bins(values: pl.Series) -> pl.Series:
    low, high = (float(values.quantile(share) or 0.0) for share in (0.005, 0.995))
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    place = np.clip(np.searchsorted(edges, values.to_numpy(), side="right") - 1, 0, _BINS - 1)
    return pl.Series("value", edges[place])


def _categories(values: pl.Series) -> pl.Series:
    counts = values.value_counts(sort=True)
    known = counts[values.name].head(_CATEGORIES).to_list()
    frame = pl.DataFrame({"value": values})
    is_known = pl.col("value").is_in(known)
    return frame.select(pl.when(is_known).then("value").otherwise(pl.lit(_OTHERS)))["value"]
