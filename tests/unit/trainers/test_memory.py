"""Scoring a language model takes little memory beside its weights, whatever its vocabulary; the
kernel of a model little beside one sample's gradients.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples
from task_cases import LLAMA
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainers.antk import Function, Output, empirical_kernel
from trainers.antk.sketch import Sketch
from trainers.hf import HuggingFaceModels
from trainers.scoring.token_loss import (
    CHUNK_ELEMENTS,
    FORWARD_ELEMENTS,
    Limits,
    token_gradients,
    token_losses,
)

GIB = 1 << 30


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside it took at once; exact, and the same every time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in before:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        num_bytes = storage.nbytes()
        self.now += num_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, num_bytes)

    def _freed(self, num_bytes: int) -> None:
        self.now -= num_bytes


@dataclass(frozen=True)
class Shape:
    """A Llama-like model and a batch for it."""

    hidden: int
    intermediate: int
    vocabulary: int
    tokens: int
    batch: int = 8


# Llama 3.2 1B; and two reduced ones, in which other parts weigh more.
ONE_BILLION = Shape(hidden=2048, intermediate=8192, vocabulary=128_256, tokens=2048)
REDUCED = [
    Shape(hidden=64, intermediate=256, vocabulary=4003, tokens=64),
    Shape(hidden=96, intermediate=192, vocabulary=2003, tokens=128),
]


def limits_for(shape: Shape) -> Limits:
    """Such that forward passes and chunks are the same shares of the batch as for `ONE_BILLION`."""
    tokens = shape.batch * shape.tokens
    full = ONE_BILLION.batch * ONE_BILLION.tokens
    share = FORWARD_ELEMENTS / (full * ONE_BILLION.intermediate)
    chunk = CHUNK_ELEMENTS / (full * ONE_BILLION.vocabulary)
    return Limits(
        chunk_elements=int(chunk * tokens * shape.vocabulary),
        forward_elements=int(share * tokens * shape.intermediate),
    )


def expected_bytes(shape: Shape, limits: Limits, *, bfloat16: bool) -> int:
    """The arithmetic: the hidden states of the batch stay, and beside them there is either one
    forward pass (gate, up and their product; residual, normed and attended tokens; the mask), or
    the head (its weight cast once, three times a chunk's logits).
    """
    rows = max(1, limits.forward_elements // (shape.intermediate * shape.tokens))
    passed, chunk = rows * shape.tokens, max(1, limits.chunk_elements // shape.vocabulary)
    kept = shape.batch * shape.tokens * shape.hidden
    forward = 3 * passed * shape.intermediate + 4 * passed * shape.hidden
    mask = 2 * rows * shape.tokens**2
    head = kept + 3 * chunk * shape.vocabulary + chunk * shape.hidden
    cast = shape.hidden * shape.vocabulary // 2 if bfloat16 else 0
    return 4 * (kept + max(forward + mask, head + cast))


def peak_bytes(
    shape: Shape,
    limits: Limits,
    *,
    bfloat16: bool,
    measure: Callable[..., object] = token_losses,
) -> int:
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.tokens,
    }
    model = HuggingFaceModels("AutoModelForCausalLM", {"config": config}).build(1).eval()
    ids = torch.randint(0, shape.vocabulary, (shape.batch, shape.tokens))
    mask = torch.ones_like(ids)
    mask[1::2, -5:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask.bool(), -100)}
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16, cache_enabled=False)
    with torch.inference_mode(), autocast:
        token_losses(model, inputs, limits=limits)  # tries the head once
        with PeakMemory() as memory:
            measure(model, inputs, limits=limits)
    return memory.peak


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", REDUCED)
def test_a_reduced_model_uses_the_computed_memory(shape: Shape, *, bfloat16: bool) -> None:
    limits = limits_for(shape)
    measured = peak_bytes(shape, limits, bfloat16=bfloat16)
    expected = expected_bytes(shape, limits, bfloat16=bfloat16)
    assert 0.5 * expected < measured <= expected


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_scoring_with_1b_parameters_needs_at_most_1_5_gib_beside_the_weights(
    *, bfloat16: bool
) -> None:
    assert expected_bytes(ONE_BILLION, Limits(), bfloat16=bfloat16) < 1.5 * GIB


def test_scoring_without_limits_uses_more_memory() -> None:
    shape = REDUCED[0]
    everything = Limits(chunk_elements=1 << 40, forward_elements=1 << 40)
    assert peak_bytes(shape, everything, bfloat16=False) > 2 * expected_bytes(
        shape, limits_for(shape), bfloat16=False
    )


@pytest.mark.parametrize("shape", REDUCED)
def test_functional_gradients_use_no_more_memory_than_losses(shape: Shape) -> None:
    limits = limits_for(shape)
    measured = peak_bytes(shape, limits, bfloat16=False, measure=token_gradients)
    assert measured <= expected_bytes(shape, limits, bfloat16=False)


def peak_of_a_kernel(num_samples: int, **how: Any) -> tuple[int, Function]:
    model = TASK.models(VIT | {"config": VIT["config"] | {"hidden_size": 64}}).build(3)
    batches = [TASK.collate([TASK.prepare(s, generator=None)]) for s in samples(num_samples)]
    function = Function(model, batches, Output.of(TASK))
    with PeakMemory() as memory:
        empirical_kernel(function, **how)
    return memory.peak, function


def test_the_memory_of_a_sketch_does_not_grow_with_probes_times_parameters() -> None:
    sketch = Sketch(32, 0)
    few, function = peak_of_a_kernel(4, sketch=sketch)
    many, _ = peak_of_a_kernel(64, sketch=sketch)
    rows = 60 * sketch.size * 8 * len(function.groups)
    kernels = 2 * 8 * 64**2
    assert many - few < rows + kernels
    assert 60 * 4 * function.num_parameters > 10 * (many - few), "what all gradients would take"


def test_the_exact_kernel_stays_within_its_memory_limit() -> None:
    whole, function = peak_of_a_kernel(64)
    assert whole > 64 * 4 * function.num_parameters
    # Beside the gradients that are held: those of one sample, and one pass through the model.
    bounded, _ = peak_of_a_kernel(64, memory_bytes=1 << 20)
    assert bounded < (1 << 20) + 4 * 4 * function.num_parameters + (1 << 19)


def test_a_batch_in_several_forward_passes_has_the_same_losses() -> None:
    model = HuggingFaceModels("AutoModelForCausalLM", LLAMA).build(1).eval()
    ids = torch.randint(0, 300, (5, 9), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    rows: list[int] = []
    model.model.register_forward_hook(lambda *call: rows.append(len(call[2][0])))  # type: ignore
    with torch.inference_mode():
        whole, _ = token_losses(model, inputs)
        rows.clear()
        parts, _ = token_losses(model, inputs, limits=Limits(forward_elements=2 * 9 * 64))
    assert rows == [2, 2, 1]
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
