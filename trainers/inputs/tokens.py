"""From a sample's whole text to tokens: one tokenisation, and which of the tokens count.

A text is never tokenised in pieces: a tokenizer may start a text with a space, or join characters
of two pieces to one token.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from attent_select.errors import SampleError
from trainers.hf import Span
from trainers.inputs.tokenising.byte_level import token_bytes
from trainers.inputs.tokenising.offsets import tokens_by_offsets
from trainers.scoring.token_loss import IGNORED
from trainers.task import Item

# Begin and end token of a text that has them already, or has none.
NO_ENDS: Final = (None, None)


class Text(NamedTuple):
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
        if not text.isascii():
            text.encode()
    except UnicodeError as error:
        raise SampleError(f"the text is not valid Unicode: {error}", status="unreadable") from error
    return text


class Tokens(NamedTuple):
    """Tokens of a text, and the positions (first, end) of those that count."""

    ids: list[int]
    counted: Sequence[Span]

    @property
    def labels(self) -> list[int]:
        """Label of each token (-100: does not count)."""
        labels = [IGNORED] * len(self.ids)
        for start, stop in self.counted:
            labels[start:stop] = self.ids[start:stop]
        return labels

    def has_counted(self, *, first: int = 0) -> bool:
        """Whether a token at position `first` or later counts."""
        last = len(self.ids)
        for start, stop in self.counted:  # noqa: SIM110  (called for every sample)
            if min(stop, last) > max(start, first):
                return True
        return False

    def with_ends(self, start: int | None, end: int | None) -> "Tokens":
        """Return the tokens with a begin and an end token, which counts, unless they have them."""
        ids, counted = self.ids, self.counted
        if start is not None and ids[0] != start:
            ids, counted = [start, *ids], tuple((first + 1, last + 1) for first, last in counted)
        if end is not None and (ids[-1] != end or len(ids) == 1):
            ids, counted = [*ids, end], (*counted, (len(ids), len(ids) + 1))
        return Tokens(ids, counted)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of one text, without special tokens.

    Raises:
        SampleError: the text is not valid Unicode.
    """
    (encoded,) = encode_all(tokenizer, [Text(check_text(text))])
    return encoded.ids


def encode_all(tokenizer: Any, texts: Sequence[Text]) -> list[Tokens]:
    """Return the tokens of each text.

    A token counts if any of its characters does. The tokens are those of the tokenizer itself for
    the whole text; special tokens are neither added nor removed.
    """
    # The backend, because the tokenizer itself changes shared state without a lock.
    backend = tokenizer.backend_tokenizer
    place = token_bytes(tokenizer)
    needs_places = any(text.counted is not None for text in texts)
    # Without offsets where they are not needed, which is faster.
    fast = [n for n, text in enumerate(texts) if place is not None or text.counted is None]
    plain = [texts[n].text for n in fast]
    ids = [each.ids for each in backend.encode_batch_fast(plain, add_special_tokens=False)]
    located: Iterable[Sequence[Span] | None] = repeat(None)
    if place is not None and needs_places:
        located = place.counted_tokens(plain, [texts[n].counted or () for n in fast], ids)
    tokens: dict[int, Tokens] = {}
    for n, of_text, counted in zip(fast, ids, located, strict=False):
        if texts[n].counted is None:
            tokens[n] = Tokens(of_text, ((0, len(of_text)),))
        elif counted is not None:
            tokens[n] = Tokens(of_text, counted)
    missing = [n for n in range(len(texts)) if n not in tokens]
    encodings = backend.encode_batch([texts[n].text for n in missing], add_special_tokens=False)
    for n, encoding in zip(missing, encodings, strict=True):
        spans, num_characters = texts[n].counted or (), len(texts[n].text)
        counted = tokens_by_offsets(encoding, spans, num_characters=num_characters)
        tokens[n] = Tokens(encoding.ids, counted)
    return [tokens[n] for n in range(len(texts))]


def items_of(
    tokenizer: Any,
    texts: Sequence[Text | SampleError],
    *,
    max_length: int,
    truncate: bool,
) -> list[Item | SampleError]:
    """Return the item of each text (`item_of`), all of them tokenised at once, or its error."""
    of_tokenizer = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    encoded = iter(encode_all(tokenizer, [text for text in texts if isinstance(text, Text)]))
    items: list[Item | SampleError] = []
    for text in texts:
        if isinstance(text, SampleError):
            items.append(text)
            continue
        tokens, ends = next(encoded), NO_ENDS if text.has_ends else of_tokenizer
        try:
            items.append(item_of(tokens, ends=ends, max_length=max_length, truncate=truncate))
        except SampleError as error:
            items.append(error)
    return items


def item_of(
    tokens: Tokens,
    *,
    ends: tuple[int | None, int | None] = NO_ENDS,
    max_length: int,
    truncate: bool,
) -> Item:
    """Return `input_ids` and `labels` as lists, cut to `max_length`; `truncated`; `num_units`.

    The tokens get `ends`, a begin and an end token, unless they have them. The end counts.

    Raises:
        SampleError: no token that counts is left, or the text is too long and not to be truncated.
    """
    if not tokens.has_counted():
        raise SampleError(
            "there is nothing to learn: the response is empty, or the assistant says nothing",
            status="empty",
        )
    tokens = tokens.with_ends(*ends)
    length = len(tokens.ids)
    truncated = length > max_length
    if truncated and not truncate:
        raise SampleError(
            f"more than {max_length} tokens: {length}. Raise max_length, or truncate",
            status="too_long",
        )
    if truncated:
        tokens = Tokens(tokens.ids[:max_length], tokens.counted)
    # The first token has no context to be predicted from.
    if not tokens.has_counted(first=1):
        raise SampleError(
            f"none of the first {max_length} tokens counts, of {length}: raise max_length"
            if truncated
            else "a single token has no context to be predicted from",
            status="empty",
        )
    return {
        "input_ids": tokens.ids,
        "labels": tokens.labels,
        "truncated": truncated,
        "num_units": len(tokens.ids),
    }


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
