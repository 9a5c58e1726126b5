"""Distributions of columns: how many samples, and how many of those that match, in each bin."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from pipeline.explorer.axes import MISSING, Axis, axis_of
from pipeline.explorer.filters import Filter
from pipeline.explorer.source import Source, run_chunks

Counts = npt.NDArray[np.int64]

# Columns of one query, and bins of each side of a scatter chart.
MAX_COLUMNS: Final = 12
SCATTER_BINS: Final = 40


def distributions(
    source: Source, names: Sequence[str], *, where: Filter, by: str | None = None
) -> dict[str, Any]:
    """Return the distribution of each column over all samples and over those that match.

    Args:
        source: the samples.
        names: columns.
        where: which samples match.
        by: a column; the matching samples are also counted for each of its categories or bins.

    Raises:
        InputError: a column is unknown, or the filter is not valid.
    """
    if not 0 < len(names) <= MAX_COLUMNS:
        raise InputError(f"expected 1 to {MAX_COLUMNS} columns, got {len(names)}")
    axes = [axis_of(source, name) for name in names]
    strata = axis_of(source, by, num_bins=5) if by else None
    plan = _Plan(tuple(axes), where.expression(source), strata)
    rows = source.read([*names, *where.columns, *([by] if by else [])])
    totals = plan.zeros()
    for counts in run_chunks(rows, plan.count):
        totals = [total + each for total, each in zip(totals, counts, strict=True)]
    charts = [plan.chart(axis, total) for axis, total in zip(axes, totals, strict=True)]
    matching = int(totals[0][1:].sum())
    return rows.facts | {"matching": matching, "charts": charts} | plan.strata_facts()


def scatter(source: Source, x: str, y: str, *, where: Filter) -> dict[str, Any]:
    """Return how many matching samples are in each cell of two numeric columns.

    Raises:
        InputError: a column is unknown or not a number, or the filter is not valid.
    """
    axes = (axis_of(source, x, num_bins=SCATTER_BINS), axis_of(source, y, num_bins=SCATTER_BINS))
    for axis in axes:
        if axis.column.kind != "number":
            raise InputError(f"{axis.column.name} is not a number: choose another column")
    condition = where.expression(source)
    rows = source.read([x, y, *where.columns])
    sizes = (axes[0].num_places, axes[1].num_places)
    total = np.zeros(sizes, np.int64)
    for counts in run_chunks(rows, functools.partial(_count_cells, axes, condition)):
        total += counts
    cells = total[:-1, :-1]
    filled = [[int(i), int(j), int(cells[i, j])] for i, j in np.argwhere(cells)]
    return rows.facts | {
        "x": axes[0].to_json(),
        "y": axes[1].to_json(),
        "cells": filled,
        "matching": int(total.sum()),
        "missing": int(total.sum() - cells.sum()),
    }


@dataclass(frozen=True)
class _Plan:
    """What is counted: for each axis int64[groups, places], the groups being those that do not
    match (0) and those that match, by stratum.
    """

    axes: tuple[Axis, ...]
    condition: pl.Expr | None
    strata: Axis | None

    @property
    def num_groups(self) -> int:
        return 1 + (self.strata.num_places if self.strata else 1)

    def zeros(self) -> list[Counts]:
        return [np.zeros((self.num_groups, axis.num_places), np.int64) for axis in self.axes]

    def count(self, rows: pl.DataFrame) -> list[Counts]:
        """Count one chunk."""
        stratum = self.strata.place() if self.strata else pl.lit(0, pl.UInt8)
        group = stratum + 1
        if self.condition is not None:
            group = pl.when(self.condition).then(group).otherwise(pl.lit(0, pl.UInt8))
        places = [axis.place().alias(str(number)) for number, axis in enumerate(self.axes)]
        coded = rows.select(*places, group=group.cast(pl.UInt16))
        return [
            _bincount(coded, str(number), self.num_groups, axis.num_places)
            for number, axis in enumerate(self.axes)
        ]

    def chart(self, axis: Axis, counts: Counts) -> dict[str, Any]:
        """Return the counts of a column: of all samples, of those that match, and by stratum."""
        matching = counts[1:].sum(axis=0)
        groups = counts[1:, :-1].tolist() if self.strata else []
        return axis.to_json() | {
            "all": counts.sum(axis=0)[:-1].tolist(),
            "matching": matching[:-1].tolist(),
            "missing": int(matching[-1]),
            "groups": groups,
        }

    def strata_facts(self) -> dict[str, Any]:
        if self.strata is None:
            return {"strata": []}
        return {"strata": [*self.strata.names, MISSING], "by": self.strata.column.name}


def _bincount(coded: pl.DataFrame, name: str, num_groups: int, num_places: int) -> Counts:
    size = num_groups * num_places
    if coded.is_empty():
        return np.zeros((num_groups, num_places), np.int64)
    code = coded.select(pl.col("group") * num_places + pl.col(name)).to_series()
    return np.bincount(code.to_numpy(), minlength=size).reshape(num_groups, num_places)


def _count_cells(axes: tuple[Axis, Axis], condition: pl.Expr | None, rows: pl.DataFrame) -> Counts:
    if condition is not None:
        rows = rows.filter(condition)
    x, y = axes
    size = x.num_places * y.num_places
    if rows.is_empty():
        return np.zeros((x.num_places, y.num_places), np.int64)
    code = rows.select(x.place().cast(pl.UInt16) * y.num_places + y.place()).to_series()
    return np.bincount(code.to_numpy(), minlength=size).reshape(x.num_places, y.num_places)
