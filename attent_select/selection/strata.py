"""Strata: groups of rows with the same value of the column `by`; without `by` all rows are one."""

from typing import Final

import polars as pl

from attent_select.selection.columns import LABEL, STRATUM

# Label of the only stratum without `by`.
EVERYTHING: Final = "everything"
MAX_STRATA: Final = 10_000
_NULL: Final = "null"


def stratum_label(column: str | None) -> pl.Expr:
    """Return each row's label: its value as a string, `null` without one.

    The string "null" itself gets quotes, so that it differs from a missing value.
    """
    if column is None:
        return pl.lit(EVERYTHING)
    text = pl.col(column).cast(pl.String)
    says_null = text.str.strip_chars('"') == _NULL
    quoted = pl.concat_str(pl.lit('"'), text, pl.lit('"'))
    return pl.when(says_null).then(quoted).otherwise(text).fill_null(_NULL)


def with_stratum_codes(rows: pl.LazyFrame, codes: dict[str, int]) -> pl.LazyFrame:
    """Return the rows with STRATUM u32 instead of LABEL; null where no eligible row has it."""
    if len(codes) == 1:
        return rows.with_columns(pl.lit(0, dtype=pl.UInt32).alias(STRATUM)).drop(LABEL)
    # An Enum, because `replace_strict` collects its input.
    code = pl.col(LABEL).cast(pl.Enum(list(codes)), strict=False).to_physical().cast(pl.UInt32)
    return rows.with_columns(code.alias(STRATUM)).drop(LABEL)


def with_stratum_values(rows: pl.LazyFrame, values: pl.DataFrame) -> pl.LazyFrame:
    """Add the columns of `values`, one row per STRATUM, to every row; keeps the order of `rows`."""
    if len(values) == 1:
        return rows.with_columns(
            pl.lit(values[name][0], dtype=values.schema[name]).alias(name)
            for name in values.columns
            if name != STRATUM
        )
    # A join, because `replace_strict` collects its input.
    return rows.join(values.lazy(), on=STRATUM, how="left", maintain_order="left")
