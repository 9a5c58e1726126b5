"""Labels as classes: names in a file's metadata, and the class numbers of labels. Pure."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from attent_select.errors import InputError, SampleError

# Footer note of `datasets`: the features of the columns as JSON.
_HUGGING_FACE: Final = b"huggingface"
# Names of classes in a message.
_SHOWN: Final = 5


def class_names(notes: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Return the names of a `ClassLabel` column by the footer notes of `datasets`, in order.

    None if the notes do not say that the column is one.
    """
    try:
        feature = json.loads((notes or {})[_HUGGING_FACE])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):  # notes may hold anything
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def label_text(label: Any) -> str | None:
    """Return the text of a label of text or float; None for other values and NaN.

    `1.0` is `1`: a column of numbers with nulls comes as floats.
    """
    if isinstance(label, float):
        return None if math.isnan(label) else f"{label:.17g}"
    return label if isinstance(label, str) else None


def sorted_classes(texts: Iterable[str]) -> tuple[str, ...]:
    """Return different labels in the order of their class numbers: numbers by value, then text."""
    return tuple(sorted(set(texts), key=_order))


def _order(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


@dataclass(frozen=True)
class Classes:
    """The class numbers of the labels in a column.

    `names` are those of the classes 0, 1, …; without them a label is its class number. With them, a
    label is one of the names or its number.
    """

    column: str
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.names is not None and len(set(self.names)) < len(self.names):
            double = next(name for name in self.names if list(self.names).count(name) > 1)
            raise InputError(f"classes: {double!r} is listed twice: expected different names")

    def number_of(self, label: Any) -> int:
        """Return the class number of a label; True is 1, and 2.0 is 2 unless it is a name.

        Raises:
            SampleError: `empty` without a label (None, NaN), `unreadable` for another value.
        """
        if label is None or label != label:
            raise SampleError(f"column {self.column!r} is empty", status="empty")
        text = label_text(label)
        if text is not None and text in self._numbers:
            return self._numbers[text]
        is_number = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
        if is_number and 0 <= label < self._limit:
            return int(label)
        raise SampleError(
            f"column {self.column!r} holds {label!r}: expected {self._expected}",
            status="unreadable",
        )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names or ())}

    @property
    def _limit(self) -> int:
        return (1 << 63) - 1 if self.names is None else len(self.names)

    @property
    def _expected(self) -> str:
        if self.names is None:
            return "a class number, or the names of the classes in task.classes"
        shown = ", ".join(self.names[:_SHOWN]) + (", …" if len(self.names) > _SHOWN else "")
        return f"one of the {len(self.names)} task.classes ({shown}), or its number"
