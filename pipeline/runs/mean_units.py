"""Mean number of units of the samples of a run's corpus, where its budget is in units."""

import functools

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import NUM_UNITS
from catalogs.annotations.columns import AnnotationColumns, has_units
from pipeline.config.sections import RunConfig


def mean_units_of(config: RunConfig) -> float | None:
    """Return the units of a sample on average; None if the schedule counts none.

    Raises:
        InputError: no annotation of the corpus has units.
    """
    if not config.schedule.counts_units:
        return None
    if not has_units(config.run):
        raise InputError(
            "schedule.budget: units are counted by an annotation, and the corpus has none with"
            " units: add `annotations: {length: {kind: length}}`"
        )
    units = AnnotationColumns.of(config.run, (NUM_UNITS,)).with_units()
    return _mean(config.run, tuple(sorted(units.digests.items())))


@functools.lru_cache(maxsize=8)
def _mean(run: str, _: tuple[tuple[str, str], ...]) -> float:
    """Return the mean of the annotation with these digests."""
    rows = AnnotationColumns.of(run, (NUM_UNITS,)).with_units().join(None).only([NUM_UNITS])
    sums = list(rows.run(_sum_and_count))
    return sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))


def _sum_and_count(rows: pl.LazyFrame) -> tuple[int, int]:
    units = rows.select(pl.col(NUM_UNITS).cast(pl.UInt64)).collect()[NUM_UNITS]
    return int(units.sum() or 0), len(units)
