"""Random projection of gradients (count sketch), the same for all checkpoints of a run.

Every parameter is added, with a random sign, to one of r numbers. ⟨Sg, Sh⟩ has the mean ⟨g, h⟩ and
a variance of at most (‖g‖²‖h‖² + ⟨g, h⟩²)/r, so that the error of the kernel is about

    ‖K̂ − K‖_F / ‖K‖_F ≈ tr K / (√r ‖K‖_F)

Bucket and sign come from a counter (seed, parameter's name, position). Memory holds one index and
one sign per parameter, and r numbers per row of the kernel and group.

Source: Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002; Weinberger
et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from attent_select.errors import InputError
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key

# Number of parameters whose random bits are generated at once.
_CHUNK_SIZE = 1 << 22


@dataclass(frozen=True)
class Sketch:
    """Sketch of `size` (r) numbers in place of all parameters of a group."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.size < 1 << 31:
            raise InputError(f"--sketch {self.size}: expected a number from 1 to 2^31 - 1")

    def table(self, name: str, num: int, *, device: torch.device) -> "Table":
        """Return bucket and sign of the `num` numbers of a parameter."""
        name_bits = hashlib.blake2b(name.encode(), digest_size=8).digest()
        key = stream_key(self.seed, Purpose.SKETCH, int.from_bytes(name_bits, "big"))
        buckets, signs = torch.empty(num, dtype=torch.int32), torch.empty(num, dtype=torch.int8)
        for part, bits in _random_bits(key, num):
            # The upper 32 bits times r, divided by 2^32: uniform, without a modulo.
            bucket = (bits >> np.uint64(32)) * np.uint64(self.size) >> np.uint64(32)
            buckets[part] = torch.from_numpy(bucket.astype(np.int32))
            signs[part] = torch.from_numpy((bits & np.uint64(1)).astype(np.int8)) * 2 - 1
        return Table(buckets.to(device), signs.to(device))


@dataclass(frozen=True)
class Table:
    """Bucket int32[num] and sign int8[num] of every number of a parameter."""

    buckets: torch.Tensor
    signs: torch.Tensor

    def add(self, gradients: torch.Tensor, to: torch.Tensor) -> None:
        """Add the sketch of float[rows, num] to float64[rows, size]."""
        for gradient, row in zip(gradients, to, strict=True):
            # Row by row: along the second dimension, index_add_ takes seven times as long.
            row.index_add_(0, self.buckets, (gradient * self.signs).double())


def _random_bits(key: int, num: int) -> Iterator[tuple[slice, np.ndarray]]:
    for first in range(0, num, _CHUNK_SIZE):
        part = slice(first, min(first + _CHUNK_SIZE, num))
        yield part, numpy_bits(key, np.arange(part.start, part.stop, dtype=np.uint64))
