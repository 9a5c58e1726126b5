"""Filters of the explorer: an SQL condition, ranges of numbers, and categories."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from attent_select import sql_expression
from attent_select.errors import InputError
from pipeline.explorer.source import Source

_WHAT = "filter"


@dataclass(frozen=True)
class Filter:
    """Which samples match.

    Attributes:
        where: SQL condition on one row; empty: none.
        ranges: column → smallest and largest number, None: no bound.
        values: column → its categories.
    """

    where: str = ""
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Filter":
        """Return the filter that a request names, `{where, ranges: {}, values: {}}`.

        Raises:
            InputError: it is not one.
        """
        try:
            ranges = tuple(
                (str(name), _bound(low), _bound(high))
                for name, (low, high) in dict(values.get("ranges") or {}).items()
            )
            categories = tuple(
                (str(name), tuple(map(str, each)))
                for name, each in dict(values.get("values") or {}).items()
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"{_WHAT}: expected ranges and values by column: {error}") from error
        return cls(str(values.get("where") or "").strip(), ranges, categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        read = sql_expression.columns_of(self.where, what=_WHAT) if self.where else ()
        return (*read, *(name for name, *_ in self.ranges), *(name for name, _ in self.values))

    def expression(self, source: Source) -> pl.Expr | None:
        """Return the condition, never null; None if everything matches.

        Raises:
            InputError: it names an unknown column, or the SQL is not a condition.
        """
        source.check_columns(self.columns)
        parts = []
        if self.where:
            parts.append(sql_expression.condition(self.where, source.kinds, what=_WHAT))
        for name, low, high in self.ranges:
            bounds = [pl.col(name) >= low] if low is not None else []
            bounds += [pl.col(name) <= high] if high is not None else []
            parts += [each.fill_null(False) for each in bounds]
        for name, categories in self.values:
            column = pl.col(name).cast(pl.String)
            parts.append(column.is_in(list(categories)).fill_null(False))
        return pl.all_horizontal(parts) if parts else None


def _bound(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
