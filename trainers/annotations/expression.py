"""An SQL expression over other annotations of the corpus, such as `prior_loss - conditional_loss`.

No shard is read: the values are computed from the stored columns.
"""

from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select import sql_expression
from attent_select.errors import InputError
from trainers.annotation import FitContext, Fitted, Measured, Samples

_INT64: Final = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Expression:
    """Settings of the kind.

    Attributes:
        expression: SQL over annotations: `<name>` is a value, `<name>_<column>` a further column.
    """

    expression: str

    needs_target = False
    further_columns = ()

    @property
    def columns(self) -> tuple[str, ...]:
        names = sql_expression.columns_of(self.expression, what="expression")
        if not names:
            raise InputError(
                f"expression: {self.expression!r} reads no annotation, expected one such as"
                " 'prior_loss - conditional_loss'"
            )
        return names

    def fit(self, context: FitContext) -> Fitted:
        """Do nothing: there is nothing to fit."""
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the value of each sample."""
        return self.derive(pl.DataFrame(samples))

    def derive(self, rows: pl.DataFrame) -> Measured:
        """Return the value of each row: float32, int64, string or bool, as the expression gives.

        A null (status `empty`) follows the rules of SQL: where an operand is null. A number that is
        not finite has the status `nonfinite`.

        Raises:
            InputError: the expression cannot be evaluated, or its values have another type.
        """
        value = sql_expression.value(self.expression, rows.schema, what="expression")
        computed = _storable_values(
            rows.select(value.alias("value"))["value"], text=self.expression
        )
        is_finite = computed.is_finite() if computed.dtype.is_float() else pl.lit(True)
        status = (
            pl.when(pl.col("value").is_null())
            .then(pl.lit("empty"))
            .when(is_finite)
            .then(pl.lit("ok"))
            .otherwise(pl.lit("nonfinite"))
        )
        return Measured(computed.to_frame().with_columns(status=status))


def _storable_values(values: pl.Series, *, text: str) -> pl.Series:
    """Return the values with a dtype that annotations are stored with."""
    dtype = values.dtype
    if dtype.is_float() or dtype.is_decimal():
        return values.cast(pl.Float32)
    if dtype in (pl.String, pl.Boolean):
        return values
    if dtype.is_integer():
        low, high = values.min(), values.max()
        if low is not None and (low < _INT64[0] or high > _INT64[1]):  # type: ignore[operator]
            raise InputError(f"expression: {text!r} gives integers that do not fit 64 bits")
        return values.cast(pl.Int64)
    raise InputError(f"expression: {text!r} gives {dtype}, expected numbers, text, true and false")
