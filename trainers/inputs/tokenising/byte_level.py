"""Byte-level BPE: a token's place in a text, from the number of its bytes.

The bytes of such a tokenizer's tokens, one after the other, are those of the text. Tokenising
without offsets and adding up these numbers is faster than tokenising with offsets.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Final
from unicodedata import is_normalized

import numpy as np
import numpy.typing as npt
from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel

from trainers.hf import Span

# Parts of a tokenizer that neither change a text nor add to it; NFC changes only some texts.
_NORMALIZERS: Final = {"NFC"}
_PRE_TOKENIZERS: Final = {"Split", "Digits", "ByteLevel"}


@dataclass(frozen=True)
class TokenBytes:
    """The number of bytes of each token of a vocabulary, by its id: int64[tokens].

    `composes`: the tokenizer composes characters (NFC), which changes some texts.
    """

    num_bytes: npt.NDArray[np.int64]
    composes: bool

    def counted_tokens(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[Span]],
        ids: Sequence[Sequence[int]],
    ) -> Iterator[list[Span] | None]:
        """Yield for each text the positions of the tokens with a byte in each of its spans of
        characters.

        None if the tokens do not have all bytes of the text, as where a special token takes the
        spaces around it.
        """
        # Bytes and tokens are numbered through all texts, so that all spans are searched at once.
        last = np.cumsum([0, *map(len, ids)])
        sizes = self.num_bytes[np.fromiter(chain.from_iterable(ids), np.int64, last[-1])]
        ends = np.concatenate([[0], sizes.cumsum()])
        edges: list[int] = []
        text_ends: list[int] = []
        for text, of_text, before in zip(texts, spans, ends[last].tolist(), strict=False):
            text_ends.append(before + _num_bytes(text))
            for first, end in of_text:
                if first == end:
                    edges += [0, 0]  # no token
                    continue
                edges.append(before + _num_bytes(text[:first]))
                at_end = end == len(text)
                edges.append(text_ends[-1] if at_end else before + _num_bytes(text[:end]))
        starts = ends.searchsorted(edges[::2], "right") - 1
        stops = ends.searchsorted(edges[1::2], "left")
        located = zip(starts.tolist(), stops.tolist(), strict=True)
        has_all = (ends[last[1:]] == text_ends).tolist()
        for text, of_text, is_whole, token in zip(
            texts, spans, has_all, last.tolist(), strict=False
        ):
            counted = [
                (start - token, stop - token)
                for start, stop in islice(located, len(of_text))
                if start < stop
            ]
            is_same = text.isascii() or not self.composes or is_normalized("NFC", text)
            yield counted if is_whole and is_same else None


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
    return TokenBytes(np.array(num_bytes), composes=backend.normalizer is not None)


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
