"""Values of finished annotations: of random rows, of given rows, of rows beside the cut, and the
overlap that they count.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from catalogs import AnnotationStore
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import VALUE
from catalogs.tables.scan import Scan
from pipeline.annotation.enrichment import Values

_log = logging.getLogger("attent.pipeline.annotation.stored_values")

# Values of the corpus from which the cut of a top share is taken.
_CUT_ROWS: Final = 1 << 22
GROUPS: Final = ("top", "above the cut", "below the cut")


def sample_values(rows: Scan, *, num_samples: int, seed: int = 0) -> Values:
    """Return the values float64 of all rows, or of about four million random ones; NaN for none.

    Raises:
        InputError: the annotation has no rows.
    """
    frame, share = rows.frame(), _CUT_ROWS / num_samples
    if share < 1:
        frame = frame.filter(sample_uniform(stream_key(seed, Purpose.JUDGE)) <= share)
    values = frame.select(pl.col(VALUE).cast(pl.Float64)).collect(engine="streaming")[VALUE]
    if not len(values):
        raise InputError("the annotation has no rows: make it again with --overwrite")
    return values.fill_null(np.nan).to_numpy()


def values_of_rows(rows: Scan, ids: pl.DataFrame) -> pl.DataFrame:
    """Return `ids` (shard_id and row, and more columns) with VALUE float64, in any order."""
    values = rows.frame().select(SHARD_ID, ROW, pl.col(VALUE).cast(pl.Float64))
    joined = values.join(ids.lazy(), on=[SHARD_ID, ROW], how="inner")
    return joined.collect(engine="streaming")


def rows_beside_cut(rows: Scan, *, cut: float, sign: int, count: int) -> pl.DataFrame:
    """Return up to `count` rows (shard_id, row, VALUE) of each of GROUPS, in the column `group`.

    The rows of `top` are a random draw from all above the cut; the others are the nearest ones.
    With `sign` -1, small values are above: `cut` is that of the negated values.
    """
    values = rows.frame().select(SHARD_ID, ROW, pl.col(VALUE).cast(pl.Float64)).drop_nulls()
    order, draw = sign * pl.col(VALUE), sample_uniform(stream_key(0, Purpose.ANNOTATE))
    above, below = values.filter(order >= cut), values.filter(order < cut)
    queries = [
        above.bottom_k(count, by=draw),
        above.bottom_k(count, by=[order, draw]),
        below.top_k(count, by=[order, draw]),
    ]
    pairs = zip(GROUPS, pl.collect_all(queries, engine="streaming"), strict=True)
    return pl.concat(frame.with_columns(group=pl.lit(group)) for group, frame in pairs)


@dataclass(frozen=True)
class Overlap:
    """Samples of a corpus that are examples of a target or of an evaluation, or resemble them."""

    name: str
    num_samples: int
    num_exact: int
    num_rows: int

    @classmethod
    def of(cls, store: AnnotationStore, annotation: Annotation) -> "Overlap":
        """Count the rows of an annotation of kind `contamination`."""
        columns = [name for name in (VALUE, "exact") if name in annotation.columns]
        sums = [pl.col(name).cast(pl.UInt64).sum() for name in columns]
        counts = store.scan(annotation).frame().select(sums).collect(engine="streaming").row(0)
        return cls(annotation.name, int(counts[0]), int(counts[-1]), annotation.num_rows)

    def __str__(self) -> str:
        """Return one line."""
        if not self.num_samples:
            return f"{self.name}: no sample of the corpus overlaps with the held-out examples"
        return (
            f"{self.name}: {self.num_samples:,} of {self.num_rows:,} samples of the corpus"
            f" ({self.num_samples / self.num_rows:.2%}) are held-out examples"
            f" ({self.num_exact:,}), or near duplicates of them"
            f" ({self.num_samples - self.num_exact:,})"
        )


def overlaps_of(store: AnnotationStore) -> list[Overlap]:
    """Return the overlap of each annotation of kind `contamination`."""
    annotations = store.records()
    return [Overlap.of(store, each) for each in annotations if each.kind == "contamination"]


def warn_if_constant(store: AnnotationStore, annotation: Annotation) -> None:
    """Warn if an annotation has no values, or equal ones that cannot rank.

    A condition may well be false for all samples: that of an overlap should be.
    """
    value, rows = pl.col(VALUE), store.scan(annotation).frame()
    ends = rows.select(value.min().alias("low"), value.max().alias("high"))
    low, high = ends.collect(engine="streaming").row(0)
    if low is None:
        _log.warning(f"no sample has a value of {annotation.name}: {annotation.statuses}")
    elif low == high and annotation.value_type != "Boolean":
        _log.warning(
            f"all values of {annotation.name} are equal: the first rows of the corpus would be"
            " selected by it"
        )
