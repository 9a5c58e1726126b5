"""Values of finished annotations: of random rows, of given rows, and of rows beside the cut."""

from typing import Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from catalogs.annotations.store import VALUE
from catalogs.tables.scan import Scan
from pipeline.annotation.enrichment import Values

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
