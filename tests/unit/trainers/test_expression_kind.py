"""The kind `expression`: types, nulls, and what it refuses."""

from typing import Any

import polars as pl
import pytest

from attent_select.errors import InputError
from trainers.annotations.expression import Expression

ROWS = pl.DataFrame(
    {
        "prior": pl.Series([2.0, None, 1.5, 3.0], dtype=pl.Float32),
        "conditional": pl.Series([0.5, 1.0, None, 0.0], dtype=pl.Float32),
        "units": pl.Series([3, 5, None, 7], dtype=pl.UInt32),
        "source": ["web", "book", None, "web"],
        "big": pl.Series([2**63] * 4, dtype=pl.UInt64),
    }
)


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("prior - conditional", pl.Float32, [1.5, None, None, 3.0]),
        ("units - 5", pl.Int64, [-2, 0, None, 2]),
        ("prior > 1 AND source = 'web'", pl.Boolean, [True, False, None, True]),
        ("source || '!'", pl.String, ["web!", "book!", None, "web!"]),
        ("COALESCE(prior, 0)", pl.Float32, [2.0, 0.0, 1.5, 3.0]),
        ("prior / conditional", pl.Float32, [4.0, None, None, float("inf")]),
    ],
)
def test_values_have_the_type_and_the_nulls_of_the_expression(
    text: str, dtype: pl.DataType, expected: list[Any]
) -> None:
    kind = Expression(text)
    rows = kind.derive(ROWS.select(kind.columns)).rows
    assert rows.schema["value"] == dtype
    assert rows["value"].to_list() == expected
    statuses = ["empty" if value is None else "ok" for value in expected]
    assert rows["status"].to_list() == [
        "nonfinite" if value == float("inf") else status
        for value, status in zip(expected, statuses, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prior - ", "is not an SQL expression"),
        ("1 + 1", "reads no annotation, expected one such as"),
        ("prior - AVG(prior)", "compares several rows"),
        ("prior + source", "is not a value"),
        ("big + 0", "integers that do not fit 64 bits"),
    ],
)
def test_what_is_not_an_expression_over_one_row_is_refused(text: str, message: str) -> None:
    kind = Expression(text)
    with pytest.raises(InputError, match=f"^expression: .*{message}"):
        kind.derive(ROWS.select(kind.columns))
