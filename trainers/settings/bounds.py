"""Bounds of settings, written once in the annotations of a dataclass.

pydantic reads them when it validates a configuration file; `check_fields` applies them to settings
made in Python.
"""

from collections.abc import Iterator
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le

from attent_select.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What arithmetic runs in; weights and losses stay float32.
Dtype = Literal["float32", "bfloat16"]

NonNegative = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
# Samples per optimizer step, over all ranks.
MAX_BATCH_SIZE = 1 << 24
BatchSize = Annotated[int, Ge(1), Le(MAX_BATCH_SIZE)]


def check_fields(settings: "DataclassInstance") -> None:
    """Check every field against its `Annotated` bounds and its `Literal` choices.

    Raises:
        InputError: a value is outside; the message begins with the field's name.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if value is not None and (expected := next(_find_violation(hint, value), None)):
            raise InputError(f"{name} is {value!r}: expected {expected}")


def _find_violation(hint: Any, value: Any) -> Iterator[str]:
    """Yield what was expected instead of `value`."""
    kind = get_origin(hint)
    if kind is Literal and value not in get_args(hint):
        yield f"one of {', '.join(get_args(hint))}"
    elif kind in (Union, UnionType):
        for choice in get_args(hint):
            yield from _find_violation(choice, value)
    elif kind is Annotated:
        yield from _outside(get_args(hint)[1:], value)


def _outside(bounds: tuple[Any, ...], value: Any) -> Iterator[str]:
    for bound in bounds:
        match bound:
            case Ge(limit) if not value >= limit:
                yield f"at least {limit}"
            case Gt(limit) if not value > limit:
                yield f"more than {limit}"
            case Le(limit) if not value <= limit:
                yield f"at most {limit}"
