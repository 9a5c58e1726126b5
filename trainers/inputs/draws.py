"""Random numbers inside a batch: each sample's own, whatever else is in the batch.

Keys, and uniforms and normals from them on the model's device (splitmix64, as in
`attent_select/stats/randomness.py`). A key comes from the sample: from its bytes when it is
scored, so that a score is reproducible; from the stream's generator, which is seeded by (seed,
epoch, sample), in training.
"""

import hashlib
import math

import torch

from attent_select.stats.randomness import stream_key

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def draw_key(*contents: bytes, seed: int, generator: torch.Generator | None) -> int:
    """int64 key of a sample: a draw of `generator` (training), else a hash of (seed, contents)."""
    if generator is not None:
        return int(torch.randint(-(1 << 62), 1 << 62, (), generator=generator))
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return _signed(stream_key(seed, int.from_bytes(digest.digest(), "big")))


def uniforms(keys: torch.Tensor, num: int, *, purpose: int) -> torch.Tensor:
    """float32[batch, num] in (0, 1], multiples of 2^-24: exact, and never 0.

    Args:
        keys: int64[batch], one per sample.
        num: how many for each.
        purpose: draws for different purposes are independent.
    """
    counter = torch.arange(num, device=keys.device, dtype=torch.int64)
    streams = _bits(keys ^ _signed(stream_key(purpose)))
    top = _shifted(_bits(streams[:, None] ^ counter), 40)
    return (top.to(torch.float32) + 1.0) * 2.0**-24


def normals(keys: torch.Tensor, num: int, *, purpose: int) -> torch.Tensor:
    """float32[batch, num] of the standard normal distribution (Box and Muller)."""
    half = -(-num // 2)
    first, second = uniforms(keys, 2 * half, purpose=purpose).chunk(2, dim=1)
    radius, angle = torch.sqrt(-2.0 * torch.log(first)), 2.0 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :num]


def _bits(counter: torch.Tensor) -> torch.Tensor:
    """64 random bits per counter, as int64: torch has no u64 arithmetic, int64 wraps the same."""
    x = counter + _signed(_GAMMA)
    x = (x ^ _shifted(x, 30)) * _signed(_MULTIPLIER_1)
    x = (x ^ _shifted(x, 27)) * _signed(_MULTIPLIER_2)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, places: int) -> torch.Tensor:
    """Logical shift to the right: int64's own copies the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
