"""Axes: the bins of a numeric column, or the most frequent values of another one."""

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.explorer.source import Column, Source

NUM_BINS: Final = 48
# Categories that each have a place; the others share one.
NUM_CATEGORIES: Final = 24
OTHERS: Final = "(others)"
MISSING: Final = "(none)"
# Different whole numbers that each have a bin, however few bins were asked for.
_WHOLE_NUMBERS: Final = 12
# Bins end at these quantiles; values beyond them count in the first or the last one.
_ENDS: Final = (0.002, 0.998)


@dataclass(frozen=True)
class Axis:
    """The places of a column's values: `edges` of bins, or `categories`.

    The last place is that of values without a number, or of null.
    """

    column: Column
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    with_others: bool = False

    @property
    def num_places(self) -> int:
        """Number of bins or categories, and one for rows without a value."""
        return len(self.labels) + 1 if self.categories else max(len(self.edges) - 1, 0) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the categories."""
        return (*self.categories, *([OTHERS] if self.with_others else []))

    @property
    def _is_whole(self) -> bool:
        """Whether each bin is of one whole number."""
        return self.column.is_integer and len(self.edges) > 1 and self.edges[1] - self.edges[0] == 1

    @property
    def names(self) -> list[str]:
        """The names of all places except the last one."""
        if self.column.kind == "category":
            return list(self.labels)
        if self._is_whole:
            return [f"{low + 0.5:.0f}" for low in self.edges[:-1]]
        return [f"{low:.4g} – {high:.4g}" for low, high in itertools.pairwise(self.edges)]

    def place(self) -> pl.Expr:
        """Return the place of each value, u8."""
        name, last = self.column.name, pl.lit(self.num_places - 1, pl.UInt8)
        # As long as the column: a select of literals alone has one row.
        missing = pl.when(pl.col(name).is_null()).then(last).otherwise(last)
        if self.column.kind == "category":
            places = {label: number for number, label in enumerate(self.categories)}
            others = len(self.categories) if self.with_others else self.num_places - 1
            known = pl.col(name).cast(pl.String).replace_strict(
                list(places), list(places.values()), default=others, return_dtype=pl.UInt8
            ) if places else missing  # fmt: skip
            return pl.when(pl.col(name).is_null()).then(missing).otherwise(known)
        if len(self.edges) < 2:
            return missing
        low, bins = self.edges[0], len(self.edges) - 1
        scale = bins / (self.edges[-1] - low)
        value = pl.col(name)
        if self.column.is_integer:
            value = value.cast(pl.Float64)
        scaled = ((value - low) * scale).clip(0, bins - 1)
        # NaN has no integer: it becomes null, which is missing.
        return scaled.cast(pl.UInt8, strict=False).fill_null(missing)

    def to_json(self) -> dict[str, Any]:
        """Return what a chart needs."""
        facts = {"name": self.column.name, "kind": self.column.kind, "title": self.column.title}
        if self.column.kind == "category":
            return facts | {"labels": list(self.labels)}
        return facts | {"edges": list(self.edges), "is_integer": self.column.is_integer}


def axis_of(source: Source, name: str, *, num_bins: int = NUM_BINS) -> Axis:
    """Return the axis of a column, from a preview of its values.

    Raises:
        InputError: there is no such column.
    """
    source.check_columns([name])
    key = (name, num_bins)
    if key not in source.axes:
        column = source.columns.get(name, Column(name, "number", "losses"))
        values = source.preview([name])[name].drop_nulls()
        make = _categories if column.kind == "category" else _bins
        source.axes[key] = make(column, values, num_bins)
    return source.axes[key]  # type: ignore[no-any-return]


def _categories(column: Column, values: pl.Series, _: int) -> Axis:
    counts = values.cast(pl.String).value_counts(sort=True)
    names = sorted(
        counts.head(NUM_CATEGORIES).iter_rows(), key=lambda pair: (-int(pair[1]), str(pair[0]))
    )
    return Axis(column, categories=tuple(str(name) for name, _ in names), with_others=bool(names))


def _bins(column: Column, values: pl.Series, num_bins: int) -> Axis:
    values = values.cast(pl.Float64)
    values = values.filter(values.is_finite())
    if values.is_empty():
        return Axis(column)
    low, high = (float(values.quantile(end, "nearest") or 0.0) for end in _ENDS)
    if column.is_integer and high - low < max(num_bins, _WHOLE_NUMBERS):
        return Axis(column, tuple(np.arange(low, high + 2) - 0.5))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return Axis(column, tuple(np.linspace(low, high, num_bins + 1).tolist()))
