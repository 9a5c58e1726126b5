"""Per-token losses of causal language models, without the whole vocabulary × sequence matrix.

Here: hidden states → nats per counted token, a chunk of tokens at a time. Not here: which tokens
count (`tasks/causal_lm.py`).
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED = -100
# Elements of the float32 logits that exist at once: 64 MiB of them.
CHUNK_ELEMENTS = 1 << 24

# Logits [tokens, vocabulary] and targets [tokens] → a value, or several, per token.
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_plain_heads: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()


def token_losses(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every counted token given those before it.

    Args:
        model: a causal language model of transformers, with or without adapters.
        batch: `input_ids`, `attention_mask`, `labels` int64[batch, tokens]; label -100 does not
            count.
        chunk_elements: bound of tokens × vocabulary for the logits that exist at once.

    Returns:
        Nats float32[batch, tokens - 1], 0 where nothing counts, and counted bool[batch, tokens -
        1].
    """
    values, counted = _per_token(model, batch, _cross_entropy, chunk_elements=chunk_elements)
    return _placed(values, counted), counted


def token_scores(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of every counted token, and whether it is the model's first choice.

    Args and memory as for `token_losses`.

    Returns:
        Nats float32[counted tokens] and hits bool[counted tokens].
    """

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hits = (logits.argmax(dim=-1) == targets).float()
        return torch.stack([_cross_entropy(logits, targets), hits], dim=-1)

    values, _ = _per_token(model, batch, measure, chunk_elements=chunk_elements)
    return values[:, 0], values[:, 1] > 0


def _per_token(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    measure: Measure,
    *,
    chunk_elements: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`measure` of the logits of every counted token, and which tokens those are."""
    targets = batch["labels"][:, 1:]
    counted = targets != IGNORED
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    parts = _backbone_and_head(model)
    if parts is None:
        logits = model(**inputs, use_cache=False).logits[:, :-1][counted]
        return measure(logits, targets[counted]), counted
    backbone, head = parts
    hidden = backbone(**inputs, use_cache=False).last_hidden_state[:, :-1][counted]
    found = _in_chunks(head, hidden, targets[counted], measure, chunk_elements=chunk_elements)
    return found, counted


def _placed(losses: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    # By mask, not index_add: sums per sample must not depend on the order of atomic adds.
    nats = torch.zeros(counted.shape, dtype=torch.float32, device=losses.device)
    return nats.masked_scatter(counted, losses)


def _in_chunks(
    head: torch.nn.Module,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    measure: Measure,
    *,
    chunk_elements: int,
) -> torch.Tensor:
    def measured(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return measure(head(part), wanted)

    vocabulary = next(head.parameters()).shape[0]
    num_rows = max(chunk_elements // vocabulary, 1)
    chunks = zip(torch.split(hidden, num_rows), torch.split(targets, num_rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([measured(part, wanted) for part, wanted in chunks])
    # Recomputed in the backward pass, or every chunk's logits would be kept for it.
    return torch.cat(
        [checkpoint(measured, part, wanted, use_reentrant=False) for part, wanted in chunks]
    )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def _backbone_and_head(
    model: torch.nn.Module,
) -> tuple[torch.nn.Module, torch.nn.Module] | None:
    """The two halves, if the model's logits are nothing but head(backbone(tokens))."""
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # adapters: injected into the modules of the base model
        inner = inner.get_base_model()
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    backbone = getattr(inner, "base_model", None)
    if head is None or backbone is None or backbone is inner or not hasattr(head, "weight"):
        return None
    if inner not in _plain_heads:
        _plain_heads[inner] = _is_plain(inner, backbone, head)
    return (backbone, head) if _plain_heads[inner] else None


def _is_plain(model: Any, backbone: torch.nn.Module, head: torch.nn.Module) -> bool:
    """Tries it: several architectures scale, cap or shift their logits after the head."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            tokens = torch.arange(4, device=next(model.parameters()).device)[None]
            expected = model(input_ids=tokens, use_cache=False).logits
            found = head(backbone(input_ids=tokens, use_cache=False).last_hidden_state)
            return bool(torch.equal(expected, found))
    finally:
        for module, training in modes.items():
            module.training = training
