"""A column of the shards as an annotation, read directly: a source, a date, a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from attent_select.errors import InputError
from trainers.annotation import FitContext, Fitted, Measured, Samples

ValueType = Literal["float32", "int64", "string", "bool"]

_DTYPES: Final[dict[str, type[pl.DataType]]] = {
    "float32": pl.Float32,
    "int64": pl.Int64,
    "string": pl.String,
    "bool": pl.Boolean,
}
_TYPES: Final[dict[type, ValueType]] = {
    bool: "bool",
    int: "int64",
    float: "float32",
    str: "string",
}
# Rows that decide the type of the values.
_LOOKED_AT: Final = 4096


@dataclass(frozen=True)
class Column:
    """Settings of the kind.

    Attributes:
        column: name of the column.
        value_type: type of the values. Default: decided from a few thousand random rows.
    """

    column: str
    value_type: ValueType | None = None

    needs_target = False
    further_columns = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fit(self, context: FitContext) -> Fitted:
        """Decide the type of the values."""
        if self.value_type is not None:
            return Fitted(notes={"value_type": self.value_type})
        types: set[type] = set()
        for batch in context.pool_sample(_LOOKED_AT):
            types |= {type(value) for value in batch[self.column] if value is not None}
        return Fitted(notes={"value_type": self._value_type(types)})

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the values of the column; a missing value has the status `empty`."""
        value_type = fitted.notes["value_type"]
        values = self._values_of_type(samples[self.column], value_type)
        rows = pl.DataFrame({"value": pl.Series(values, dtype=_DTYPES[value_type])})
        value = pl.col("value")
        is_finite = value.is_finite() if value_type == "float32" else pl.lit(True)
        status = (
            pl.when(value.is_null())
            .then(pl.lit("empty"))
            .when(is_finite)
            .then(pl.lit("ok"))
            .otherwise(pl.lit("nonfinite"))
        )
        return Measured(rows.with_columns(status=status))

    def _value_type(self, types: set[type]) -> ValueType:
        if not types:
            raise InputError(
                f"the column {self.column!r} has no value in a random part of the corpus: set"
                " value_type if it has some"
            )
        if types == {int, float}:
            return "float32"
        if len(types) > 1 or not types <= set(_TYPES):
            names = ", ".join(sorted(kind.__name__ for kind in types))
            raise InputError(
                f"the column {self.column!r} has values of type {names}: expected numbers, text, or"
                " true and false"
            )
        return _TYPES[types.pop()]

    def _values_of_type(self, values: Sequence[Any], value_type: ValueType) -> list[Any]:
        """Return the values, all of which fit the type."""
        for value in values:
            if value is not None and not _fits(value, value_type):
                raise self._unfit(value, value_type)
        return list(values)

    def _unfit(self, value: Any, value_type: ValueType) -> InputError:
        return InputError(
            f"the column {self.column!r} has the value {value!r}, expected {value_type}: give the"
            f" type of all values with --set value_type=… ({', '.join(_DTYPES)})"
        )


def _fits(value: Any, value_type: ValueType) -> bool:
    if isinstance(value, bool) or value_type == "bool":
        return isinstance(value, bool) and value_type == "bool"
    if value_type == "int64":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, str if value_type == "string" else (int, float))
