"""Random permutation of any size, computed per position: no memory, no sorting.

A Feistel network over counter-based random bits. A number is split into a high and a low half; each
round changes one half by random bits of the other, which is invertible, so the result is a
permutation of a power of two. Numbers outside `size` are permuted again until they are inside
(cycle walking): fewer than two times on average.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
"""

import numpy as np
import numpy.typing as npt

from attent_select.stats.randomness import numpy_bits, stream_key

_ROUNDS = 6  # even, so that the halves end where they began
_MIN_BITS = 2


def permute(positions: npt.NDArray[np.int64], *, size: int, key: int) -> npt.NDArray[np.int64]:
    """Return the item, of `size` items, at each of `positions`: int64, each in [0, size)."""
    numbers = positions.astype(np.uint64)
    outside = np.arange(len(numbers))
    while len(outside):
        numbers[outside] = _feistel(numbers[outside], size=size, key=key)
        outside = outside[numbers[outside] >= np.uint64(size)]
    return numbers.astype(np.int64)


def _feistel(numbers: npt.NDArray[np.uint64], *, size: int, key: int) -> npt.NDArray[np.uint64]:
    bits = max(int(size - 1).bit_length(), _MIN_BITS)
    low_bits, high_bits = bits // 2, bits - bits // 2
    low = numbers & np.uint64((1 << low_bits) - 1)
    high = numbers >> np.uint64(low_bits)
    for number in range(_ROUNDS):
        random = numpy_bits(stream_key(key, number), low)
        low, high = high ^ (random & np.uint64((1 << high_bits) - 1)), low
        low_bits, high_bits = high_bits, low_bits
    return (high << np.uint64(low_bits)) | low
