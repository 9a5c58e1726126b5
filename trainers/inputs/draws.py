"""Random numbers of each sample, independent of the other samples in its batch.

Each sample has a key; uniforms and normals are computed from keys on the model's device
(splitmix64, as in `attent_select/stats/randomness.py`). In scoring, the key comes from the sample's
bytes, so that a score is reproducible. In training, it comes from the stream's generator, which is
seeded by (seed, epoch, sample).
"""

import hashlib
import math

import torch

from attent_select.stats.randomness import stream_key

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def draw_key(*contents: bytes, seed: int, generator: torch.Generator | None) -> int:
    """Return the int64 key of a sample: drawn from `generator` (training), else a hash of (seed,
    contents).
    """
    if generator is not None:
        return int(torch.randint(-(1 << 62), 1 << 62, (), generator=generator))
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return _to_int64(stream_key(seed, int.from_bytes(digest.digest(), "big")))


def uniforms(keys: torch.Tensor, num: int, *, purpose: int) -> torch.Tensor:
    """Return float32[batch, num] in (0, 1], multiples of 2^-24: exact, and never 0.

    Args:
        keys: int64[batch], one per sample.
        num: number of draws per key.
        purpose: draws for different purposes are independent.
    """
    counter = torch.arange(num, device=keys.device, dtype=torch.int64)
    streams = _bits(keys ^ _to_int64(stream_key(purpose)))
    top = _shift_right(_bits(streams[:, None] ^ counter), 40)
    return (top.to(torch.float32) + 1.0) * 2.0**-24


def random_subset(keys: torch.Tensor, num: int, *, share: float, purpose: int) -> torch.Tensor:
    """Return ⌈share · num⌉ random numbers below `num` of each key: int64[batch, size], ascending.

    All subsets of this size are equally likely.
    """
    order = uniforms(keys, num, purpose=purpose).argsort(dim=1, stable=True)
    return order[:, : math.ceil(share * num)].sort(dim=1).values


def normals(keys: torch.Tensor, num: int, *, purpose: int) -> torch.Tensor:
    """Return float32[batch, num] of the standard normal distribution (Box and Muller)."""
    half = -(-num // 2)
    first, second = uniforms(keys, 2 * half, purpose=purpose).chunk(2, dim=1)
    radius, angle = torch.sqrt(-2.0 * torch.log(first)), 2.0 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :num]


def _bits(counter: torch.Tensor) -> torch.Tensor:
    """Return 64 random bits per counter, as int64: torch lacks u64, int64 wraps alike."""
    x = counter + _to_int64(_GAMMA)
    x = (x ^ _shift_right(x, 30)) * _to_int64(_MULTIPLIER_1)
    x = (x ^ _shift_right(x, 27)) * _to_int64(_MULTIPLIER_2)
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, places: int) -> torch.Tensor:
    """Shift right logically: the shift of int64 copies the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _to_int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
