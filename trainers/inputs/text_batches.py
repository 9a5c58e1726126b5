"""Texts of a batch of samples: which of them are text, and batches that fit into the CPU cache.

A chat, a list of messages or JSON of one, is the text that its messages say.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from attent_select.errors import InputError, SampleError
from trainers.inputs.chat_messages import is_chat_text, spoken_text

OK: Final = "ok"
EMPTY: Final = "empty"
UNREADABLE: Final = "unreadable"

_BATCH_CHARACTERS: Final = 1 << 17


def texts_of(values: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return the text and the status of each value; the text is empty unless the status is `ok`."""
    texts, statuses = [], []
    for value in values:
        text, status = _text_of(value)
        texts.append(text)
        statuses.append(status)
    return texts, statuses


def check_text(values: Sequence[Any], *, column: str, what: str) -> None:
    """Raise `InputError` unless a column has some text."""
    statuses = texts_of(values)[1]
    if not any(s == OK or isinstance(v, str) for v, s in zip(values, statuses, strict=True)):
        types = sorted({type(value).__name__ for value in values}) or ["nothing"]
        raise InputError(
            f"the column {column!r} of {what} has values of type {', '.join(types)}, expected text:"
            " name a column of text with --set text=COLUMN"
        )


def small_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield consecutive texts with about 128 thousand characters together, or one longer text."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _text_of(value: Any) -> tuple[str, str]:
    if isinstance(value, list) or (isinstance(value, str) and is_chat_text(value)):
        try:
            value = spoken_text(value)
        except (SampleError, RecursionError, TypeError) as error:
            # Text in JSON that is not a chat is a text.
            if isinstance(value, list):
                return "", getattr(error, "status", UNREADABLE)
    status = _status_of(value)
    return (value if status == OK else ""), status


def _status_of(value: Any) -> str:
    if value is None:
        return EMPTY
    if not isinstance(value, str):
        return UNREADABLE
    try:
        value.encode()
    except UnicodeEncodeError:  # an unpaired surrogate
        return UNREADABLE
    return OK if value.strip() else EMPTY
