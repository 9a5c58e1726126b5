"""A token's place in a text, from the offsets of any tokenizer."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainers.hf import Span


def tokens_by_offsets(encoding: Any, spans: Sequence[Span], *, num_characters: int) -> list[Span]:
    """Return the positions of the tokens with a character in each span.

    Tokens are in the order of their characters, so that a few of them are looked up instead of the
    offsets of all.
    """
    num_tokens = len(encoding)
    offsets = _Offsets(encoding)
    counted = []
    for first, end in spans:
        if first == end:
            continue
        start = bisect_right(range(num_tokens), first, key=offsets.end)
        stop = num_tokens
        if end < num_characters:
            stop = bisect_left(range(num_tokens), end, lo=start, key=offsets.start)
            # Some tokenizers leave the spaces out of a token's characters; of spaces none are left.
            while stop < num_tokens and offsets.is_empty(stop) and offsets.end(stop - 1) < end:
                stop += 1
        counted.append((start, stop))
    return counted


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
