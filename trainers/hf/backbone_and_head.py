"""Split a causal language model into its backbone and its head (hidden states → logits).

The split is used only where it reproduces the model's own logits.
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
# Model → how its head is computed, and the width of its widest layer.
_known_splits: "WeakKeyDictionary[torch.nn.Module, tuple[_HeadKind, int]]" = WeakKeyDictionary()


class _HeadKind(Enum):
    """How a model computes logits from hidden states."""

    LAYER = auto()  # one layer
    LAYER_AND_MORE = auto()  # a layer, then the model's own code: scales, caps, shifts
    UNKNOWN = auto()


@dataclass(frozen=True)
class BackboneAndHead:
    """The two parts of a model; `widest` is the width of the backbone's widest activation."""

    backbone: torch.nn.Module
    head: Head
    vocabulary: int
    widest: int


def split_model(model: torch.nn.Module, *, is_text_only: bool) -> BackboneAndHead | None:
    """Return the backbone and head of a model; None if it cannot be split.

    Whether it can is tried once per model.

    Args:
        model: a causal language model of transformers, with or without adapters.
        is_text_only: the model takes text alone, so that it can be checked whether it is causal.

    Raises:
        InputError: a model of text alone is not causal.
    """
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # adapters are injected into the base model's modules
        inner = inner.get_base_model()
    layer = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    backbone = getattr(inner, "base_model", None)
    if layer is None or backbone is None or backbone is inner or not hasattr(layer, "weight"):
        return None
    if inner not in _known_splits:
        kind = _head_kind(inner, backbone, layer, is_text_only=is_text_only)
        _known_splits[inner] = (kind, _widest_layer(backbone))
    kind, widest = _known_splits[inner]
    if kind is _HeadKind.UNKNOWN:
        return None
    head = layer if kind is _HeadKind.LAYER else _head_by_model_code(inner)
    return BackboneAndHead(backbone, head, layer.weight.shape[0], widest)


def _widest_layer(backbone: torch.nn.Module) -> int:
    layers = (module for module in backbone.modules() if not isinstance(module, torch.nn.Embedding))
    return max((_width(layer) for layer in layers), default=1)


def _width(layer: Any) -> int:
    if hasattr(layer, "in_features"):  # not the shape of the weight, which may be packed (4 bits)
        return max(int(layer.in_features), int(layer.out_features))
    weight = getattr(layer, "weight", None)
    return max(weight.shape) if weight is not None and weight.ndim == 2 else 1


def _head_kind(
    model: Any, backbone: Any, layer: torch.nn.Module, *, is_text_only: bool
) -> _HeadKind:
    """Compare backbone and head with the model's own logits."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=device)
            logits = model(input_ids=tokens, use_cache=False).logits
            if is_text_only:
                _check_causal(model, logits[:, :3])
            hidden = backbone(input_ids=tokens, use_cache=False).last_hidden_state
            if torch.equal(logits, layer(hidden)):
                return _HeadKind.LAYER
            if _model_code_gives(model, hidden, logits):
                return _HeadKind.LAYER_AND_MORE
            return _HeadKind.UNKNOWN
    finally:
        for module, training in modes.items():
            module.training = training


def _model_code_gives(model: Any, hidden: torch.Tensor, logits: torch.Tensor) -> bool:
    # Hooks (FSDP gathers weights in them) would not be called.
    has_hooks = model._forward_pre_hooks or model._forward_hooks  # noqa: SLF001
    if has_hooks or model.base_model_prefix not in model._modules:  # noqa: SLF001
        return False
    try:
        return bool(torch.equal(logits, _head_by_model_code(model)(hidden)))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError):
        return False  # the model needs more from its backbone than hidden states


def _head_by_model_code(model: Any) -> Head:
    """Return what the model's own code does after its backbone.

    It runs in a copy of the model with the same weights, whose backbone returns its input.
    """
    copied = copy.copy(model)
    copied._modules = model._modules | {model.base_model_prefix: _Passthrough()}  # noqa: SLF001

    def head(hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        logits: torch.Tensor = copied.forward(inputs_embeds=rows, use_cache=False).logits
        return logits.reshape(*hidden.shape[:-1], -1)

    return head


class _Passthrough(torch.nn.Module):
    """Stand-in for a backbone that returns its input as hidden states."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def _check_causal(model: Any, logits: torch.Tensor) -> None:
    """Check that logits do not depend on later tokens: `logits` of two rows that differ only there.

    BERT has a class for causal models, too. The comparison has a tolerance, because experts may be
    computed for several rows at once.
    """
    difference = (logits[0] - logits[1]).abs().max() / logits.abs().max()
    if difference > (5e-4 if torch.finfo(logits.dtype).bits >= 32 else 2e-2):
        raise InputError(
            "the model is not causal: its outputs depend on later tokens, which are to be "
            f"predicted. Use another model than {type(model).__name__}, or set "
            "model.config.is_decoder: true if it has that field"
        )
