"""A causal language model taken apart: its backbone, and what makes logits of hidden states.

Whether and how that gives the model's own logits.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from attent_select.errors import InputError

# Hidden states [..., width] → logits [..., vocabulary].
Head = Callable[[torch.Tensor], torch.Tensor]
# Of a model: how it is taken apart, and its widest layer.
_known: "WeakKeyDictionary[torch.nn.Module, tuple[_Kind, int]]" = WeakKeyDictionary()


class _Kind(Enum):
    """How a model comes from hidden states to logits."""

    HEAD = auto()  # a layer
    MORE = auto()  # a layer, and what the model does after it: scales, caps, shifts
    UNKNOWN = auto()


@dataclass(frozen=True)
class Halves:
    """`widest` is the most numbers that a layer of the backbone makes of one token."""

    backbone: torch.nn.Module
    head: Head
    vocabulary: int
    widest: int


def halves_of(model: torch.nn.Module, *, of_text: bool) -> Halves | None:
    """The two halves of a model, with or without adapters; None if it cannot be taken apart. Found
    out by trying it, once.

    Args:
        model: a causal language model of transformers.
        of_text: it takes text alone, so that it can be seen whether it is causal.

    Raises:
        InputError: a model of text alone is not causal.
    """
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # adapters: injected into the modules of the base model
        inner = inner.get_base_model()
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    backbone = getattr(inner, "base_model", None)
    if head is None or backbone is None or backbone is inner or not hasattr(head, "weight"):
        return None
    if inner not in _known:
        kind = _kind(inner, backbone, head, of_text=of_text)
        _known[inner] = (kind, _widest(backbone))
    kind, widest = _known[inner]
    if kind is _Kind.UNKNOWN:
        return None
    more = head if kind is _Kind.HEAD else _after_backbone(inner)
    return Halves(backbone, more, head.weight.shape[0], widest)


def _widest(backbone: torch.nn.Module) -> int:
    """The most numbers that a layer makes of one token."""
    layers = (module for module in backbone.modules() if not isinstance(module, torch.nn.Embedding))
    return max((_width(layer) for layer in layers), default=1)


def _width(layer: Any) -> int:
    if hasattr(layer, "in_features"):  # not by its weight, which may be packed (4 bits)
        return max(int(layer.in_features), int(layer.out_features))
    weight = getattr(layer, "weight", None)
    return max(weight.shape) if weight is not None and weight.ndim == 2 else 1


def _kind(model: Any, backbone: Any, head: torch.nn.Module, *, of_text: bool) -> _Kind:
    """Tries it: the halves must give the model's own logits."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=device)
            expected = model(input_ids=tokens, use_cache=False).logits
            if of_text:
                _check_causal(model, expected[:, :3])
            hidden = backbone(input_ids=tokens, use_cache=False).last_hidden_state
            if torch.equal(expected, head(hidden)):
                return _Kind.HEAD
            return _Kind.MORE if _is_after_backbone(model, hidden, expected) else _Kind.UNKNOWN
    finally:
        for module, training in modes.items():
            module.training = training


def _is_after_backbone(model: Any, hidden: torch.Tensor, expected: torch.Tensor) -> bool:
    # Hooks (FSDP gathers weights in them) would not be called.
    has_hooks = model._forward_pre_hooks or model._forward_hooks  # noqa: SLF001
    if has_hooks or model.base_model_prefix not in model._modules:  # noqa: SLF001
        return False
    try:
        return bool(torch.equal(expected, _after_backbone(model)(hidden)))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError):
        return False  # it asks more of its backbone than hidden states


def _after_backbone(model: Any) -> Head:
    """What a model does after its backbone, by its own code: that of a copy, with the same weights,
    whose backbone answers what it is given.
    """
    copied = copy.copy(model)
    copied._modules = model._modules | {model.base_model_prefix: _Answer()}  # noqa: SLF001

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        found: torch.Tensor = copied.forward(inputs_embeds=rows, use_cache=False).logits
        return found.reshape(*hidden.shape[:-1], -1)

    return logits


class _Answer(torch.nn.Module):
    """In the place of a backbone."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def _check_causal(model: Any, logits: torch.Tensor) -> None:
    """`logits` of two rows that only the token after them tells apart: BERT has a class for causal
    models, too. Not compared bit by bit: experts may be computed for several rows at once.
    """
    differ = (logits[0] - logits[1]).abs().max() / logits.abs().max()
    if differ > (5e-4 if torch.finfo(logits.dtype).bits >= 32 else 2e-2):
        raise InputError(
            "the model is not causal: its tokens see those after them, which they are to predict. "
            f"Choose another than {type(model).__name__}, or set model.config.is_decoder: true "
            "where it has that"
        )
