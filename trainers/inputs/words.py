"""Hashes of the words of texts, by numpy operations on all bytes at once.

A word is a run of letters, digits and `_`, without regard to the case of ASCII letters. Any other
visible ASCII character is a separate word. A character of Chinese, Japanese or Korean begins a new
word, since these scripts are written without spaces.
"""

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from attent_select.stats.randomness import numpy_bits, stream_key

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_SEPARATOR, _WORD, _ALONE, _IDEOGRAPH = range(4)
# An odd number has an inverse modulo 2^64.
_FACTOR: Final = 0xD1342543DE82EF95


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """Return the hashes of all words, and where each text's words start, with the end.

    The hash of the bytes c₁ … cₙ is Σ v(cᵢ)·fⁱ modulo 2^64: a difference of two running sums, so
    that no word is looked at alone.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    content = np.frombuffer(b"\n".join([*encoded, b""]), np.uint8)
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    text_starts = np.concatenate([[0], np.cumsum(sizes + 1)])
    starts, ends = _words(content)
    powers, inverses = _powers(_rounded_up(len(content)))
    sums = np.zeros(len(content) + 1, np.uint64)
    np.cumsum(_VALUES.take(content) * powers[: len(content)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    return hashes, np.searchsorted(starts, text_starts).astype(np.int64)


def _words(content: npt.NDArray[np.uint8]) -> tuple[Offsets, Offsets]:
    """Return the positions at which words start, and where they end."""
    classes = _CLASSES.take(content)
    before = np.empty_like(classes)
    before[:1], before[1:] = _SEPARATOR, classes[:-1]
    first_letters = (classes == _WORD) & ((before == _SEPARATOR) | (before == _ALONE))
    is_start = (classes >= _ALONE) | first_letters
    is_edge = is_start | ((classes == _SEPARATOR) & (before != _SEPARATOR))
    edges = np.flatnonzero(is_edge)
    numbers = np.flatnonzero(is_start[edges])
    # A word ends at the next edge; the content ends with a separator.
    return edges[numbers], edges[numbers + 1]


def _class_of(byte: int) -> int:
    if 0xE3 <= byte <= 0xED:  # first bytes of U+3000 … U+DFFF
        return _IDEOGRAPH
    if byte >= 0x80 or chr(byte).isalnum() or byte == ord("_"):
        return _WORD
    return _SEPARATOR if byte <= ord(" ") or byte == 0x7F else _ALONE


_CLASSES: Final = np.array([_class_of(byte) for byte in range(256)], np.uint8)
_LOWER: Final = np.frombuffer(bytes(range(256)).lower(), np.uint8)
_VALUES: Final = numpy_bits(stream_key(0), _LOWER.astype(np.uint64))


@functools.lru_cache(maxsize=4)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return f⁰, f¹, … and their inverses modulo 2^64."""
    inverse = pow(_FACTOR, -1, 1 << 64)
    return _geometric(_FACTOR, count), _geometric(inverse, count)


def _geometric(factor: int, count: int) -> Hashes:
    factors = np.full(count, factor, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _rounded_up(count: int) -> int:
    """Return the next power of two, so that few sizes are kept."""
    return 1 << max(18, (count - 1).bit_length())
