"""What a task must do, and the values that cross that seam.

The protocol. A task is a frozen dataclass: its fields are its settings (the `task:` section of
the configuration), its methods what scoring and training share. The suite under
`tests/conformance/` tests every file in `tasks/` because it exists.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from catalogs.shard_format import Sample

# One prepared sample: tensors and numbers of one sample, ready to be collated.
Item = dict[str, Any]
# Why a model cannot use a sample: no units in its loss.
UNUSABLE = "nothing in it counts for this model (a label that it lacks?)"
# One collated batch: tensors, mostly with the batch as their first dimension. The keys `shard_id`,
# `row`, `weight`, `denominator` and `step` are the stream's, `truncated` is counted if it is there.
Batch = dict[str, torch.Tensor]


class Models(Protocol):
    """Builds, loads and saves the model of a run.

    A store may also have
        check()          raises `InputError` for settings with which `build` would fail, as far as
                         can be told at once; called before a run starts
        digest(model)    hash of the weights, where `save` does not write all of them
        merged(folder)   the saved model as a plain one, where it is not
    and for FSDP its `save` takes `weights`, gathered from all ranks, to write instead.
    """

    def build(self, seed: int) -> torch.nn.Module:
        """A new model, the same bits for the same seed."""
        ...

    def load(self, folder: Path) -> torch.nn.Module:
        """The model saved in a local folder. Raises `InputError` if any weight is missing or left
        over.
        """
        ...

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Save to a local folder (safetensors)."""
        ...


class Task(Protocol):
    """What a model learns: from a sample to a loss.

    A task may also have
        check()   raises `InputError` for settings with which `prepare` would fail for every sample
                  (a tokenizer that is not there); called before a run starts
        draws     whether `prepare` uses its generator; False saves seeding one for every sample
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a sample that `prepare` reads."""
        ...

    def models(self, settings: dict[str, Any]) -> Models:
        """The model store for the `model:` section of the configuration."""
        ...

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Decode one sample; `num_units` in the item is its cost. Random augmentation only with
        `generator`.

        Raises:
            SampleError: the sample cannot be used; its status says why.
        """
        ...

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack prepared samples."""
        ...

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """loss float32[batch] (nats, mean over counted units) and num_units int64[batch].

        No units and a loss of 0 say that this model cannot use the sample (a label that it lacks).
        """
        ...

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """The field's metrics over held-out batches, in eval mode; always has `eval_loss`."""
        ...


def draws(task: Task) -> bool:
    """Whether `task.prepare` uses its generator: unless the task says no, it does."""
    return bool(getattr(task, "draws", True))


@runtime_checkable
class HasLength(Protocol):
    """A task may also say, without preparing it, about how long a sample is (in any unit): the
    micro-batches of a step are then made of samples of like lengths.
    """

    def length(self, sample: Sample) -> int: ...


@runtime_checkable
class HasTargetLogits(Protocol):
    """A task of cross-entropies may also say how much the model speaks for the right answer."""

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """float[batch]: the logit of the right class, the mean of it over counted units."""
        ...


@runtime_checkable
class HasClassLogits(Protocol):
    """A task with one class per sample may also say what the model says of every class."""

    def class_logits(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float[batch, classes] and the right classes int64[batch] (-100: none)."""
        ...


@runtime_checkable
class HasFunctionalGradient(Protocol):
    """A task may also give, in the pass of the loss, the norm of its functional gradient."""

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `per_sample_loss` gives, and ‖∂ℓ/∂f‖ float32[batch]
        (`trainers/scoring/functional_gradient.py`).
        """
        ...
