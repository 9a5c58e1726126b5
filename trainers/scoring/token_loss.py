"""Per-token losses of causal language models, without the whole vocabulary × sequence matrix.

Hidden states → nats per counted token, a chunk of tokens at a time; without gradients the
hidden states too come from some rows of the batch at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainers.hf.backbone_and_head import BackboneAndHead, Head, split_model
from trainers.scoring import functional_gradient
from trainers.scoring.precision import at_least_float32

IGNORED = -100
# Elements of the float32 logits that exist at once: 64 MiB of them.
CHUNK_ELEMENTS = 1 << 24
# Elements of the widest activation of a forward pass without gradients: 256 MiB of float32. Three
# of them exist at once in a gated feed-forward layer; everything else is narrower.
FORWARD_ELEMENTS = 1 << 26

# Logits [tokens, vocabulary] and targets [tokens] → a value, or several, per token.
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Limits:
    """Bounds of memory: tokens × vocabulary of the logits that exist at once, and tokens × widest
    layer of a forward pass without gradients. Losses depend on them in their last bits only.
    """

    chunk_elements: int = CHUNK_ELEMENTS
    forward_elements: int = FORWARD_ELEMENTS


_LIMITS = Limits()


def token_losses(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every counted token given those before it.

    Args:
        model: a causal language model of transformers, with or without adapters.
        batch: `input_ids`, `attention_mask`, `labels` int64[batch, tokens]; label -100 does not
            count.
        more_inputs: what the model is given beside tokens and mask (pixels).
        limits: of memory.

    Returns:
        Nats float32[batch, tokens - 1], 0 where nothing counts, and counted bool[batch, tokens -
        1].
    """
    values, counted = _per_token(
        model, batch, _cross_entropy, more_inputs=more_inputs or {}, limits=limits
    )
    return _placed(values, counted), counted


def token_gradients(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`token_losses`, and between its two tensors ‖∂ℓ/∂f‖ of every counted token, float32[batch,
    tokens - 1], f being the logits (`trainers/scoring/functional_gradient.py`).
    """

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        norms = functional_gradient.cross_entropy_norms(logits, targets)
        return torch.stack([_cross_entropy(logits, targets), norms], dim=-1)

    values, counted = _per_token(
        model, batch, measure, more_inputs=more_inputs or {}, limits=limits
    )
    nats, norms = (_placed(part, counted) for part in values.unbind(dim=-1))
    return nats, norms, counted


def token_logits(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `token_losses`, but the logit of every counted token itself."""

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return at_least_float32(logits.gather(1, targets[:, None])[:, 0])

    values, counted = _per_token(
        model, batch, measure, more_inputs=more_inputs or {}, limits=limits
    )
    return _placed(values, counted), counted


def token_scores(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    more_inputs: Mapping[str, torch.Tensor] | None = None,
    limits: Limits = _LIMITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of every counted token, and whether it is the model's first choice.

    Args and memory as for `token_losses`.

    Returns:
        Nats float32[counted tokens] and hits bool[counted tokens].
    """

    def measure(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hits = (logits.argmax(dim=-1) == targets).float()
        return torch.stack([_cross_entropy(logits, targets), hits], dim=-1)

    values, _ = _per_token(model, batch, measure, more_inputs=more_inputs or {}, limits=limits)
    return values[:, 0], values[:, 1] > 0


def mean_over_tokens(
    values: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [batch] over counted tokens of values that are 0 elsewhere, and their number."""
    num_units = counted.sum(dim=1)
    return values.sum(dim=1) / num_units.clamp(min=1), num_units


def _per_token(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    measure: Measure,
    *,
    more_inputs: Mapping[str, torch.Tensor],
    limits: Limits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`measure` of the logits of every counted token, and which tokens those are."""
    targets = batch["labels"][:, 1:]
    counted = targets != IGNORED
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    parts = split_model(model, is_text_only=not more_inputs)
    if parts is None:
        logits = model(**inputs, **more_inputs, use_cache=False).logits[:, :-1][counted]
        return measure(logits, targets[counted]), counted
    # Only tokens and mask can be cut by rows: pixels of one sample may fill several rows.
    rows = len(counted) if more_inputs else _rows_at_once(parts, counted, limits=limits)
    hidden = torch.cat(
        [
            parts.backbone(**part, **more_inputs, use_cache=False).last_hidden_state[:, :-1][chosen]
            for part, chosen in _by_rows(inputs, counted, rows=rows)
        ]
    )
    with _weights_cast_once(hidden.device.type):
        found = _in_chunks(
            parts.head,
            hidden,
            targets[counted],
            measure,
            vocabulary=parts.vocabulary,
            chunk_elements=limits.chunk_elements,
        )
    return found, counted


def _by_rows(
    inputs: Mapping[str, torch.Tensor], counted: torch.Tensor, *, rows: int
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    for first in range(0, len(counted), rows):
        part = slice(first, first + rows)
        yield {name: value[part] for name, value in inputs.items()}, counted[part]


def _rows_at_once(parts: BackboneAndHead, counted: torch.Tensor, *, limits: Limits) -> int:
    if torch.is_grad_enabled():
        return len(counted)
    tokens = counted.shape[1] + 1
    return max(1, limits.forward_elements // (parts.widest * tokens))


@contextmanager
def _weights_cast_once(device: str) -> Iterator[None]:
    """Scoring casts weights anew at each use, to keep no second copy of the model; the head, which
    every chunk uses, is worth it.
    """
    with torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=True,
    ):
        yield


def _placed(losses: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    # By mask, not index_add: sums per sample must not depend on the order of atomic adds.
    nats = torch.zeros(counted.shape, dtype=losses.dtype, device=losses.device)
    return nats.masked_scatter(counted, losses)


def _in_chunks(
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    measure: Measure,
    *,
    vocabulary: int,
    chunk_elements: int,
) -> torch.Tensor:
    def measured(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return measure(head(part), wanted)

    num_rows = max(chunk_elements // vocabulary, 1)
    chunks = zip(torch.split(hidden, num_rows), torch.split(targets, num_rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([measured(part, wanted) for part, wanted in chunks])
    # Recomputed in the backward pass, or every chunk's logits would be kept for it.
    return torch.cat(
        [checkpoint(measured, part, wanted, use_reentrant=False) for part, wanted in chunks]
    )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(at_least_float32(logits), targets, reduction="none")
