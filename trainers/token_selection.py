"""Token selection: only the tokens with the largest loss over a reference model's are learned.

The tokens are selected within each sample, so that the selection, and the number of tokens that a
step's loss is the mean over, do not depend on how a batch is divided among passes and ranks.

Source: Lin et al., "Rho-1: Not All Tokens Are What You Need" (NeurIPS 2024), which selects within
a batch.
"""

from dataclasses import dataclass
from typing import Any

import torch

from attent_select.errors import InputError
from trainers.task import Batch, HasTokenLosses, Task

# `keep` × tokens may exceed a whole number by rounding: 0.1 × 30 > 3.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class StepLosses:
    """Losses of a training step, one per sample.

    Attributes:
        learned: float32[batch] with gradients, mean over the learned units.
        num_learned: their number int64[batch].
        whole: float32[batch] without gradients, mean over all counted units.
        num_units: their number int64[batch].
    """

    learned: torch.Tensor
    num_learned: torch.Tensor
    whole: torch.Tensor
    num_units: torch.Tensor


@dataclass(frozen=True, eq=False)
class TokenSelector:
    """A reference model in eval mode, and the share of the tokens of each sample to keep."""

    reference: torch.nn.Module
    keep: float

    def losses(self, task: Task, model: torch.nn.Module, batch: Batch) -> StepLosses:
        """Return the losses of a step that learns the kept tokens."""
        measured: Any = task  # `HasTokenLosses`, see `check_tokens`
        nats, counted = measured.token_losses(model, batch)
        with torch.no_grad():
            reference_nats, _ = measured.token_losses(self.reference, batch)
        kept = kept_tokens(nats.detach() - reference_nats, counted, keep=self.keep)
        num_units, num_learned = counted.sum(dim=1), kept.sum(dim=1)
        return StepLosses(
            learned=torch.where(kept, nats, 0.0).sum(dim=1) / num_learned.clamp(min=1),
            num_learned=num_learned,
            whole=nats.detach().sum(dim=1) / num_units.clamp(min=1),
            num_units=num_units,
        )


def step_losses(
    task: Task, model: torch.nn.Module, batch: Batch, *, selector: TokenSelector | None
) -> StepLosses:
    """Return the losses of a step; without a selector, all units are learned.

    Raises:
        InputError: they do not depend on a weight that is trained.
    """
    if selector is not None:
        losses = selector.losses(task, model, batch)
    else:
        learned, num_units = task.per_sample_loss(model, batch)
        losses = StepLosses(learned, num_units, learned.detach(), num_units)
    if torch.is_grad_enabled() and not losses.learned.requires_grad:
        raise InputError(
            f"the loss of the task {type(task).__name__} does not depend on a weight that is "
            "trained: compute it from the model's outputs, without detach or no_grad, and leave "
            "some weights with requires_grad"
        )
    return losses


def kept_tokens(excess: torch.Tensor, counted: torch.Tensor, *, keep: float) -> torch.Tensor:
    """Return which tokens are learned, bool[batch, tokens]: `num_kept` of each sample, those with
    the largest excess loss float32[batch, tokens], of equal ones the first.
    """
    ranked = excess.masked_fill(~counted, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    return ranks < num_kept(counted.sum(dim=1), keep=keep)[:, None]


def num_kept(num_units: torch.Tensor, *, keep: float) -> torch.Tensor:
    """Return ⌈keep · num_units⌉, int64[batch]."""
    return torch.ceil(num_units.double() * keep - _ROUNDING).to(torch.int64)


def check_tokens(task: Task) -> None:
    """Raise `InputError` for a task without losses of tokens."""
    if not isinstance(task, HasTokenLosses):
        raise InputError(
            f"token_selection: the task {type(task).__name__} has no losses of single tokens: "
            "expected causal_lm"
        )
