"""Byte-level BPE: a token's place in a text, from the number of its bytes.

The bytes of such a tokenizer's tokens, one after the other, are those of the text. Tokenising
without offsets and adding up these numbers is faster than tokenising with offsets.
"""

import json
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel

from trainers.hf import Span

# Parts of a tokenizer that neither change a text nor add to it; NFC changes only some texts.
_NORMALIZERS: Final = {"NFC"}
_PRE_TOKENIZERS: Final = {"Split", "Digits", "ByteLevel"}


@dataclass(frozen=True)
class TokenBytes:
    """The number of bytes of each token of a vocabulary, by its id."""

    num_bytes: list[int]

    def counted_tokens(
        self, text: str, ids: Sequence[int], spans: Sequence[Span]
    ) -> list[Span] | None:
        """Return the positions of the tokens with a byte in each span of characters of `text`.

        None if the tokens do not have all bytes of the text, as where a special token takes the
        spaces around it.
        """
        if not unicodedata.is_normalized("NFC", text):
            return None
        ends = list(accumulate(map(self.num_bytes.__getitem__, ids)))
        if not ends or ends[-1] != _num_bytes(text):
            return None
        counted = []
        for first, end in spans:
            if first == end:
                continue
            start = bisect_right(ends, _num_bytes(text[:first]))
            stop = bisect_left(ends, _num_bytes(text[:end])) + 1
            counted.append((start, stop))
        return counted


@lru_cache(maxsize=8)
def token_bytes(tokenizer: Any) -> TokenBytes | None:
    """Return the bytes of a fast tokenizer's tokens; None unless it is byte-level BPE."""
    backend = tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if not _is_byte_level(backend) or not set(ByteLevel.alphabet()) <= vocabulary.keys():
        return None
    added = backend.get_added_tokens_decoder()
    num_bytes = [0] * (max(*vocabulary.values(), *added, 0) + 1)
    for token, token_id in vocabulary.items():  # one character stands for each byte
        num_bytes[token_id] = len(token)
    for token_id, token in added.items():
        num_bytes[token_id] = _num_bytes(token.content)
    return TokenBytes(num_bytes)


def _is_byte_level(backend: Any) -> bool:
    """Whether each byte of a text is a byte of one of its tokens, in order, and no other is."""
    model, pre_tokenizers = backend.model, list(_parts_of(backend.pre_tokenizer))
    byte_level = [part for part in pre_tokenizers if part["type"] == "ByteLevel"]
    return (
        isinstance(model, models.BPE)
        and not model.continuing_subword_prefix
        and not model.end_of_word_suffix
        and len(byte_level) == 1
        and not byte_level[0]["add_prefix_space"]
        and {part["type"] for part in pre_tokenizers} <= _PRE_TOKENIZERS
        and {part["type"] for part in _parts_of(backend.normalizer)} <= _NORMALIZERS
    )


def _parts_of(component: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings of a component of a tokenizer, or of those in its sequence."""
    if component is not None:
        state = json.loads(component.__getstate__())
        parts = state.get("pretokenizers", state.get("normalizers"))
        yield from [state] if parts is None else parts


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
