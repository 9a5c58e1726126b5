"""Per-token losses of causal language models, without the whole vocabulary × sequence matrix.

The head and the loss are computed for a chunk of tokens at a time. Without gradients, the hidden
states are computed for a few rows of the batch at a time as well.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainers.hf.backbone_and_head import BackboneAndHead, Head, split_model
from trainers.scoring import functional_gradient
from trainers.scoring.forward_passes import packed_passes, padded_pass, padded_passes
from trainers.scoring.precision import at_least_float32

IGNORED = -100
# Elements of the float32 logits that exist at once: 64 MiB of them.
CHUNK_ELEMENTS = 1 << 24
# Elements of the widest activation of a forward pass without gradients: 256 MiB of float32. Three
# of them exist at once in a gated feed-forward layer; everything else is narrower.
FORWARD_ELEMENTS = 1 << 26

# Logits [tokens, vocabulary] and targets [tokens] → one or more values per token.
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Limits:
    """Memory limits: tokens × vocabulary of the logits that exist at once, and tokens × widest
    layer of a forward pass without gradients. Losses depend on them only in their last bits.
    """

    chunk_elements: int = CHUNK_ELEMENTS
    forward_elements: int = FORWARD_ELEMENTS


_LIMITS = Limits()


def token_losses(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    packing: bool = False,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of every counted token given those before it.

    Args:
        model: a causal language model of transformers, with or without adapters.
        batch: `input_ids`, `attention_mask`, `labels` int64[batch, tokens]; label -100 does not
            count.
        more_inputs: inputs of the model besides tokens and mask (pixels).
        packing: compute samples side by side instead of padding them (`forward_passes.py`).
        limits: memory limits.

    Returns:
        Nats float32[batch, tokens - 1], 0 for tokens that do not count, and counted
        bool[batch, tokens - 1].
    """
    values, counted = _per_token(
        model, batch, _cross_entropy, more_inputs=more_inputs or {}, packing=packing, limits=limits
    )
    return _scatter(values, counted), counted


def token_gradients(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    packing: bool = False,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return nats, ‖∂ℓ/∂f‖ and counted: as `token_losses`, and between its two tensors the norm
    float32[batch, tokens - 1], where f are the logits (`functional_gradient.py`).
    """

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        norms = functional_gradient.cross_entropy_norms(logits, targets)
        return torch.stack([_cross_entropy(logits, targets), norms], dim=-1)

    values, counted = _per_token(
        model, batch, measure, more_inputs=more_inputs or {}, packing=packing, limits=limits
    )
    nats, norms = (_scatter(part, counted) for part in values.unbind(dim=-1))
    return nats, norms, counted


def token_logits(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    packing: bool = False,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logit of every counted token, and counted: as `token_losses`."""

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return at_least_float32(logits.gather(1, targets[:, None])[:, 0])

    values, counted = _per_token(
        model, batch, measure, more_inputs=more_inputs or {}, packing=packing, limits=limits
    )
    return _scatter(values, counted), counted


def token_scores(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    packing: bool = False,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nats of every counted token, and whether it is the model's first choice.

    Args and memory as for `token_losses`.

    Returns:
        Nats float32[counted tokens] and hits bool[counted tokens].
    """

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hits = (logits.argmax(dim=-1) == targets).float()
        return torch.stack([_cross_entropy(logits, targets), hits], dim=-1)

    values, _ = _per_token(
        model, batch, measure, more_inputs=more_inputs or {}, packing=packing, limits=limits
    )
    return values[:, 0], values[:, 1] > 0


def mean_over_tokens(
    values: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean [batch] over counted tokens, and their number; other values must be 0."""
    num_units = counted.sum(dim=1)
    return values.sum(dim=1) / num_units.clamp(min=1), num_units


def _per_token(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    measure: Measure,
    *,
    more_inputs: Mapping[str, torch.Tensor],
    packing: bool,
    limits: Limits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `measure` of the logits of every counted token, and which tokens those are."""
    targets = batch["labels"][:, 1:]
    counted = targets != IGNORED
    parts = split_model(model, is_text_only=not more_inputs)
    widest = 0 if parts is None or torch.is_grad_enabled() else parts.widest
    most_tokens = limits.forward_elements // widest if widest else None
    if more_inputs:  # pixels of one sample may fill several rows
        passes = iter([padded_pass(batch, counted, slice(None))])
    elif packing and len(counted) > 1:
        passes = packed_passes(model, batch, counted, most_tokens=most_tokens)
    else:
        passes = padded_passes(batch, counted, most_tokens=most_tokens)
    forward = _logits_of(model) if parts is None else _hidden_of(parts)
    hidden = torch.cat([forward(**inputs, **more_inputs)[chosen] for inputs, chosen in passes])
    if parts is None:
        return measure(hidden, targets[counted]), counted
    with _weight_cache(hidden.device.type):
        values = _in_chunks(
            parts.head,
            hidden,
            targets[counted],
            measure,
            vocabulary=parts.vocabulary,
            chunk_elements=limits.chunk_elements,
        )
    return values, counted


def _logits_of(model: Any) -> Callable[..., torch.Tensor]:
    return lambda **inputs: model(**inputs, use_cache=False).logits


def _hidden_of(parts: BackboneAndHead) -> Callable[..., torch.Tensor]:
    return lambda **inputs: parts.backbone(**inputs, use_cache=False).last_hidden_state


@contextmanager
def _weight_cache(device: str) -> Iterator[None]:
    """Cache cast weights. Scoring casts weights at each use, to avoid a second copy of the model;
    the head, which every chunk uses, is worth one.
    """
    with torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=True,
    ):
        yield


def _scatter(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Put the values of counted tokens at their positions [batch, tokens - 1], 0 elsewhere."""
    # By mask, not index_add: sums per sample must not depend on the order of atomic adds.
    scattered = torch.zeros(counted.shape, dtype=values.dtype, device=values.device)
    return scattered.masked_scatter(counted, values)


def _in_chunks(
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    measure: Measure,
    *,
    vocabulary: int,
    chunk_elements: int,
) -> torch.Tensor:
    """Return `measure` of the logits of `hidden`, computed a chunk of tokens at a time."""

    def measure_chunk(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return measure(head(hidden), targets)

    num_rows = max(chunk_elements // vocabulary, 1)
    chunks = zip(torch.split(hidden, num_rows), torch.split(targets, num_rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([measure_chunk(*chunk) for chunk in chunks])
    # Recomputed in the backward pass, which would otherwise keep the logits of every chunk.
    return torch.cat([checkpoint(measure_chunk, *chunk, use_reentrant=False) for chunk in chunks])


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(at_least_float32(logits), targets, reduction="none")
