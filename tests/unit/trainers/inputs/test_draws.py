"""Draws inside a batch: each sample's own, the bits of splitmix64, the right distribution."""

import numpy as np
import torch

from attent_select.stats.randomness import numpy_bits
from trainers.inputs import draws
from trainers.inputs.draws import draw_key, normals, uniforms

KEYS = torch.tensor([1, -5, 1 << 62])


def test_the_bits_are_those_of_the_counter_generator() -> None:
    counters = torch.tensor([0, 1, -1, 1 << 62, -(1 << 63)])
    expected = numpy_bits(0, counters.numpy().view(np.uint64)).view(np.int64)
    assert draws._bits(counters).tolist() == expected.tolist()


def test_draws_do_not_depend_on_the_rest_of_the_batch() -> None:
    together = uniforms(KEYS, 7, purpose=1)
    alone = torch.cat([uniforms(key[None], 7, purpose=1) for key in KEYS])
    assert torch.equal(together, alone)
    assert torch.equal(uniforms(KEYS, 5, purpose=1), together[:, :5])


def test_golden_values() -> None:
    found = uniforms(KEYS[:1], 3, purpose=1)[0].double() * 2**24
    assert found.tolist() == [5731623.0, 7378367.0, 4494167.0]


def test_uniforms_and_normals_have_their_moments() -> None:
    flat = uniforms(torch.arange(50), 2000, purpose=3)
    assert flat.min() > 0
    assert flat.max() <= 1
    assert abs(flat.mean() - 0.5) < 0.005
    bell = normals(torch.arange(50), 2001, purpose=3)
    assert bell.shape == (50, 2001)
    assert abs(bell.mean()) < 0.01
    assert abs(bell.std() - 1) < 0.01
    assert abs((bell**4).mean() - 3) < 0.1


def test_keys_purposes_and_counters_are_independent() -> None:
    first, second = uniforms(KEYS, 4000, purpose=1), uniforms(KEYS, 4000, purpose=2)
    rows = torch.cat([first, second])
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.06


def test_a_scored_sample_has_the_key_of_its_bytes_and_the_seed() -> None:
    def key(*contents: bytes, seed: int = 0) -> int:
        return draw_key(*contents, seed=seed, generator=None)

    assert key(b"a", b"bc") == key(b"a", b"bc")
    assert len({key(b"a", b"bc"), key(b"ab", b"c"), key(b"abc"), key(b"abc", seed=1)}) == 4


def test_a_trained_sample_has_the_key_of_its_generator() -> None:
    def key(seed: int) -> int:
        return draw_key(b"a", seed=0, generator=torch.Generator().manual_seed(seed))

    assert key(1) == key(1) != key(2)
