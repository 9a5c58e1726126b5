"""From a sample's whole text to tokens: one tokenisation, and which of the tokens count.

A text is never tokenised in pieces: a tokenizer may start a text with a space, or join characters
of two pieces to one token.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attent_select.errors import SampleError
from trainers.hf import Span
from trainers.scoring.token_loss import IGNORED
from trainers.task import Item


@dataclass(frozen=True)
class Text:
    """The whole text of a sample.

    `counted` are the characters whose tokens count, in order (None: all). With `has_ends`, the text
    contains its begin and end tokens, as a rendered chat does; otherwise they are added.
    """

    text: str
    counted: tuple[Span, ...] | None = None
    has_ends: bool = False


def check_text(text: str) -> str:
    """Return a text that can be tokenised.

    Raises:
        SampleError: it is not valid Unicode: an unpaired surrogate has no UTF-8.
    """
    try:
        text.encode()
    except UnicodeError as error:
        raise SampleError(f"the text is not valid Unicode: {error}", status="unreadable") from error
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of one text, without special tokens.

    Raises:
        SampleError: the text is not valid Unicode.
    """
    ((ids, _),) = encode_all(tokenizer, [Text(check_text(text))])
    return ids


def encode_all(tokenizer: Any, texts: Sequence[Text]) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of each text, and its labels (-100: does not count).

    A token counts if any of its characters does. The tokens are those of the tokenizer itself for
    the whole text; special tokens are neither added nor removed.
    """
    # The backend, because the tokenizer itself changes shared state without a lock.
    backend = tokenizer.backend_tokenizer
    whole = [entry.text for entry in texts if entry.counted is None]
    partly = [entry.text for entry in texts if entry.counted is not None]
    # Without offsets where no token needs them, which is faster.
    without_offsets = iter(backend.encode_batch_fast(whole, add_special_tokens=False))
    with_offsets = iter(backend.encode_batch(partly, add_special_tokens=False))
    encoded = []
    for entry in texts:
        if entry.counted is None:
            ids: list[int] = next(without_offsets).ids
            encoded.append((ids, list(ids)))
        else:
            encoding = next(with_offsets)
            labels = _labels(encoding, entry.counted, num_characters=len(entry.text))
            encoded.append((encoding.ids, labels))
    return encoded


def text_or_error(make: Callable[[], Text]) -> Text | SampleError:
    """Return the text that `make` returns, or the `SampleError` that it raises."""
    try:
        return make()
    except SampleError as error:
        return error


def items_of(
    tokenizer: Any,
    texts: Sequence[Text | SampleError],
    *,
    max_length: int,
    truncate: bool,
) -> list[Item | SampleError]:
    """Return the item of each text (`item_of`), all of them tokenised at once, or its error."""
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    encoded = iter(encode_all(tokenizer, [text for text in texts if isinstance(text, Text)]))
    items: list[Item | SampleError] = []
    for text in texts:
        if isinstance(text, SampleError):
            items.append(text)
            continue
        ids, labels = next(encoded)
        try:
            items.append(
                item_of(text, ids, labels, ends=ends, max_length=max_length, truncate=truncate)
            )
        except SampleError as error:
            items.append(error)
    return items


def item_of(
    text: Text,
    ids: list[int],
    labels: list[int],
    *,
    ends: tuple[int | None, int | None],
    max_length: int,
    truncate: bool,
) -> Item:
    """Return `input_ids` and `labels` as lists, cut to `max_length`; `truncated`; `num_units`.

    A text without ends gets `ends`, the tokenizer's begin and end tokens, where it has them and the
    text does not. The end counts.

    Raises:
        SampleError: no token that counts is left, or the text is too long and not to be truncated.
    """
    if labels.count(IGNORED) == len(labels):
        raise SampleError("no token counts", status="empty")
    start, end = ends
    if not text.has_ends and start is not None and ids[0] != start:
        ids, labels = [start, *ids], [IGNORED, *labels]
    if not text.has_ends and end is not None and (ids[-1] != end or len(ids) == 1):
        ids, labels = [*ids, end], [*labels, end]
    truncated = len(ids) > max_length
    ids, labels = ids[:max_length], labels[:max_length]
    if labels[1:].count(IGNORED) == len(labels) - 1:
        raise SampleError(
            f"none of the first {max_length} tokens counts"
            if truncated
            else "a single token has no context to be predicted from",
            status="empty",
        )
    if truncated and not truncate:
        raise SampleError(f"more than {max_length} tokens", status="too_long")
    return {"input_ids": ids, "labels": labels, "truncated": truncated, "num_units": len(ids)}


def first_share(item: Item, *, share: float) -> Item:
    """Return the item with its tokens up to the last of the first `share` of those that count.

    A prompt is kept whole, and at least one token that counts; `num_counted` is the number of all.
    """
    labels = item["labels"]
    counted = [place for place in range(1, len(labels)) if labels[place] != IGNORED]
    end = counted[math.ceil(share * len(counted)) - 1] + 1
    return {
        **item,
        "input_ids": item["input_ids"][:end],
        "labels": labels[:end],
        "num_units": end,
        "num_counted": len(counted),
    }


def _labels(encoding: Any, counted: Sequence[Span], *, num_characters: int) -> list[int]:
    """Return the label of each token from the characters that it was made of.

    Tokens are in the order of their characters, so that a few of them are looked up instead of the
    offsets of all.
    """
    ids: list[int] = encoding.ids
    labels = [IGNORED] * len(ids)
    offsets = _Offsets(encoding)
    for first, end in counted:
        start = bisect_right(range(len(ids)), first, key=offsets.end)
        stop = len(ids)
        if end < num_characters:
            stop = bisect_left(range(len(ids)), end, lo=start, key=offsets.start)
            # Some tokenizers leave the spaces out of a token's characters; of spaces none are left.
            while stop < len(ids) and offsets.is_empty(stop) and offsets.end(stop - 1) < end:
                stop += 1
        labels[start:stop] = ids[start:stop]
    return labels


@dataclass(frozen=True)
class _Offsets:
    """Where the characters of a token begin and end; special tokens have none."""

    encoding: Any

    def start(self, token: int) -> int:
        return int((self.encoding.token_to_chars(token) or (0, 0))[0])

    def end(self, token: int) -> int:
        return int((self.encoding.token_to_chars(token) or (0, 0))[1])

    def is_empty(self, token: int) -> bool:
        return self.start(token) == self.end(token)
