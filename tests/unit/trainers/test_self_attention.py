"""A single layer of self-attention: its gradients and kernel against their closed forms."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.antk import Function, Output, empirical_kernel


class SelfAttention(torch.nn.Module):
    """f(S) = softmax(S·W_Q·W_Kᵀ·Sᵀ / √d)·S·W_V for a sequence S of n tokens of m numbers."""

    def __init__(self, m: int, d: int, *, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for name in ("W_Q", "W_K", "W_V"):
            weight = torch.randn(m, d, generator=draw, dtype=torch.float64)
            self.register_parameter(name, torch.nn.Parameter(weight))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float64[batch, n, m] → [batch, n, d]."""
        queries, keys, values = (tokens @ weight for weight in self.parameters())
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values)


def closed_forms(layer: Any, s: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """∂L/∂W of each weight, given G = ∂L/∂f(S).

    With Z = S·W_Q·W_Kᵀ·Sᵀ/√d, A = softmax(Z) by rows and f = A·S·W_V:

        ∂L/∂W_V = (A·S)ᵀ·G
        ∂L/∂A   = G·(S·W_V)ᵀ
        ∂L/∂Z   = A ∘ (∂L/∂A − (A ∘ ∂L/∂A)·1·1ᵀ)        the Jacobian of softmax, diag(a) − a·aᵀ
        ∂L/∂W_Q = Sᵀ·(∂L/∂Z)·S·W_K / √d
        ∂L/∂W_K = Sᵀ·(∂L/∂Z)ᵀ·S·W_Q / √d

    The input comes in three times, once through each weight; a token counts by its attention. These
    are the gradients on which AtteNT (arXiv 2602.20461) builds the kernel; derived here by the
    chain rule.
    """
    scale = 1 / math.sqrt(layer.W_Q.shape[1])
    a = (scale * s @ layer.W_Q @ layer.W_K.T @ s.T).softmax(dim=1)
    by_a = upstream @ (s @ layer.W_V).T
    by_z = a * (by_a - (a * by_a).sum(dim=1, keepdim=True))
    return {
        "W_Q": scale * s.T @ by_z @ s @ layer.W_K,
        "W_K": scale * s.T @ by_z.T @ s @ layer.W_Q,
        "W_V": (a @ s).T @ upstream,
    }


SIZES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))


@settings(max_examples=50, deadline=None)
@given(SIZES)
def test_the_gradients_of_all_weights_are_their_closed_forms(
    sizes: tuple[int, int, int, int],
) -> None:
    n, m, d, seed = sizes
    layer = SelfAttention(m, d, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1)
    s = torch.randn(n, m, generator=draw, dtype=torch.float64)
    upstream = torch.randn(n, d, generator=draw, dtype=torch.float64)
    (layer(s[None])[0] * upstream).sum().backward()
    with torch.no_grad():
        for name, expected in closed_forms(layer, s, upstream).items():
            torch.testing.assert_close(
                layer.get_parameter(name).grad, expected, rtol=1e-9, atol=1e-12
            )


def test_a_single_token_attends_only_to_itself() -> None:
    layer = SelfAttention(3, 2, seed=0)
    found = closed_forms(layer, torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 2).double())
    assert not found["W_Q"].any()
    assert not found["W_K"].any()
    assert found["W_V"].all()


def test_the_kernel_of_each_group_is_the_product_of_the_closed_forms() -> None:
    layer, draw = SelfAttention(4, 3, seed=5), torch.Generator().manual_seed(6)
    sequences = torch.randn(5, 7, 4, generator=draw, dtype=torch.float64)
    readout = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    # f is one number of a sequence: the sum over tokens of what `readout` asks of each.
    task: Any = SimpleNamespace(
        per_sample_loss=lambda model, batch: ((model(batch["s"]) * readout).sum((1, 2)), None)
    )
    batches = [{"s": s[None]} for s in sequences]
    kernel = empirical_kernel(Function(layer, batches, Output(task, "loss"), dtype="float64"))
    with torch.no_grad():
        forms = [closed_forms(layer, s, readout) for s in sequences]
    for group, name in (("q", "W_Q"), ("k", "W_K"), ("v", "W_V")):
        rows = torch.stack([form[name].flatten() for form in forms])
        np.testing.assert_allclose(kernel.groups[group], (rows @ rows.T).numpy(), rtol=1e-10)
    assert list(kernel.groups) == ["q", "k", "v"]
    with torch.no_grad():
        values = (layer(sequences) * readout).sum((1, 2))
    assert kernel.values == pytest.approx(values.tolist())
