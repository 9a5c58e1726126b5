"""One random projection of gradients, the same for all checkpoints of a run.

A count sketch: every parameter is added, with a random sign, to one of r numbers. ⟨Sg, Sh⟩ is ⟨g,
h⟩ on average, with a variance of at most (‖g‖²‖h‖² + ⟨g, h⟩²)/r, so that the kernel of the probe
set is off by about

    ‖K̂ − K‖_F / ‖K‖_F ≈ tr K / (√r ‖K‖_F)

Bucket and sign come from a counter (seed, parameter's name, place): nothing is kept but one index
and one sign per parameter, and r numbers per row of the kernel and group.

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

# Parameters whose random bits are made at once.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Sketch:
    """`size` (r) numbers instead of all parameters of a group."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.size < 1 << 31:
            raise InputError(f"--sketch {self.size}: expected a number from 1 to 2^31 - 1")

    def table(self, name: str, num: int, *, device: torch.device) -> "Table":
        """Where the numbers of a parameter go."""
        name_bits = hashlib.blake2b(name.encode(), digest_size=8).digest()
        key = stream_key(self.seed, Purpose.SKETCH, int.from_bytes(name_bits, "big"))
        buckets, signs = torch.empty(num, dtype=torch.int32), torch.empty(num, dtype=torch.int8)
        for part, bits in _random_bits(key, num):
            # The upper half times r, divided by 2^32: uniform, without a division.
            above = (bits >> np.uint64(32)) * np.uint64(self.size) >> np.uint64(32)
            buckets[part] = torch.from_numpy(above.astype(np.int32))
            signs[part] = torch.from_numpy((bits & np.uint64(1)).astype(np.int8)) * 2 - 1
        return Table(buckets.to(device), signs.to(device))


@dataclass(frozen=True)
class Table:
    """Bucket int32[num] and sign int8[num] of every number of a parameter."""

    buckets: torch.Tensor
    signs: torch.Tensor

    def add(self, gradients: torch.Tensor, to: torch.Tensor) -> None:
        """Adds the sketch of float[rows, num] to float64[rows, size]."""
        for gradient, row in zip(gradients, to, strict=True):
            # One by one: along the second of two dimensions it takes seven times as long.
            row.index_add_(0, self.buckets, (gradient * self.signs).double())


def _random_bits(key: int, num: int) -> Iterator[tuple[slice, np.ndarray]]:
    for first in range(0, num, _CHUNK):
        part = slice(first, min(first + _CHUNK, num))
        yield part, numpy_bits(key, np.arange(part.start, part.stop, dtype=np.uint64))
