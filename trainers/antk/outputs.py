"""Choices of f in K(x, x′) = ⟨∂f(x)/∂θ, ∂f(x′)/∂θ⟩."""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch.nn import functional

from attent_select.errors import InputError
from trainers.task import Batch, HasClassLogits, HasTargetLogits, Task

MEANINGS: Final = {
    "target": "f(x) is the logit of the right class; with several units (tokens, pixels), the mean",
    "logits": "f(x) is the logit of every class, each a row of the kernel",
    "loss": "f(x) is the loss of the sample, as scoring measures it",
}
OUTPUTS: Final = tuple(MEANINGS)


@dataclass(frozen=True)
class Output:
    """One choice of f for the samples of a task."""

    task: Task
    name: str

    @classmethod
    def of(cls, task: Any, name: str | None = None) -> "Output":
        """Return the output called `name`; None: `target`, or `loss` for a task without logits.

        Raises:
            InputError: there is no such output, or the task lacks it.
        """
        available = {
            "target": isinstance(task, HasTargetLogits),
            "logits": isinstance(task, HasClassLogits),
            "loss": True,
        }
        chosen = name or next(output for output in ("target", "loss") if available[output])
        if chosen not in available:
            raise InputError(f"--output {name}: expected one of {', '.join(OUTPUTS)}")
        if not available[chosen]:
            usable = ", ".join(output for output in OUTPUTS if available[output])
            raise InputError(
                f"--output {chosen}: the task {type(task).__name__} has no logits of "
                f"{'one class per sample' if chosen == 'logits' else 'a right class'}: expected "
                f"one of {usable}"
            )
        return cls(task, chosen)

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name]

    def values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return f, float[components], of a batch of one sample."""
        if self.name == "target":
            return cast(HasTargetLogits, self.task).target_logits(model, batch)
        if self.name == "logits":
            return cast(HasClassLogits, self.task).class_logits(model, batch)[0][0]
        return self.task.per_sample_loss(model, batch)[0]

    def loss_gradient(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return ∂ℓ/∂f, float[components], of a batch of one sample.

        Raises:
            InputError: the loss does not depend on this f alone.
        """
        if self.name == "loss":
            return torch.ones_like(self.values(model, batch))
        if self.name == "target":
            raise InputError(
                "the loss does not depend on the target's logit alone: expected the output logits "
                "or loss"
            )
        logits, labels = cast(HasClassLogits, self.task).class_logits(model, batch)
        return logits[0].softmax(dim=0) - functional.one_hot(labels[0], logits.shape[1])
