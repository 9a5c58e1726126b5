"""Protocols of tasks and their models, and the values that they exchange.

A task is a frozen dataclass: its fields are its settings (the `task:` section of the
configuration), its methods are shared by scoring and training. The suite under `tests/conformance/`
tests every file in `tasks/`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample

# Metadata of a setting that is newer than stored digests, which lack it at its default.
NEWER = {"is_newer": True}

# One prepared sample: tensors and numbers of one sample, ready to be collated.
Item = dict[str, Any]
# The values of each column of a few samples, in the same order.
SampleColumns = Mapping[str, Sequence[Any]]
# Reason for a loss without units.
UNUSABLE = "nothing in it counts for this model (a label that it lacks?)"
# One collated batch: tensors, mostly with the batch as their first dimension. The keys `shard_id`,
# `row`, `weight`, `denominator`, `step` and `micro_batches` belong to the stream, `draw_keys` to
# the training loop; `truncated` is counted if present; the losses of samples with `is_mixed`
# (bool[batch]) are not recorded.
Batch = dict[str, torch.Tensor]


class Models(Protocol):
    """Model store: builds, loads and saves the model of a run.

    A store may also have
        check()          raises `InputError` for settings with which `build` would fail; quick,
                         called before a run starts
        digest(model)    hash of the weights, where `save` does not write all of them
        merged(folder)   the saved model as a plain model, where it is not one (adapters)
    and for FSDP its `save` takes `weights`, gathered from all ranks, to write instead.
    """

    def build(self, seed: int) -> torch.nn.Module:
        """Build a new model: the same bits for the same seed."""
        ...

    def load(self, folder: Path) -> torch.nn.Module:
        """Load the model in a local folder.

        Raises:
            InputError: weights are missing or unexpected.
        """
        ...

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Save to a local folder, which exists (safetensors)."""
        ...


class Task(Protocol):
    """What a model learns: from samples to losses and metrics.

    A task may also have
        check()   raises `InputError` for settings with which `prepare` would fail for every sample
                  (a missing tokenizer); called before a run starts
        check_model(model)  tries a model on its device, before it is trained
        check_training()    raises `InputError` for a task that is only scored
        packing   whether samples are computed side by side: batches are then filled without padding
        pads(model)  whether a packed batch is padded nevertheless, because the model cannot keep
                  packed samples apart
        draws     whether `prepare` uses its generator; False avoids seeding it for every sample
        mixes     whether samples are mixed in pairs in training: then it has `mix` (`HasMixing`)
        drops_until  share of the steps of a run, from the first, in which it drops parts of its
                  inputs: their batches have `draw_keys` int64[batch], of (seed, step, sample)
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a sample that `prepare` reads."""
        ...

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the model store for the `model:` section of the configuration."""
        ...

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Decode one sample; `num_units` in the item is its cost in a batch. Random augmentation
        only with `generator`.

        Raises:
            SampleError: the sample cannot be used; the status of the error is the reason.
        """
        ...

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack prepared samples."""
        ...

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss float32[batch] (nats, mean over counted units) and num_units int64[batch].

        0 units with a loss of 0 mean that this model cannot use the sample (a label that it lacks).
        """
        ...

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return metrics over held-out batches, in eval mode; `eval_loss` is always among them."""
        ...


def packs(task: Task | None) -> bool:
    """Whether the task's samples are computed side by side, without padding."""
    return bool(getattr(task, "packing", False))


def pads(task: Task, model: torch.nn.Module) -> bool:
    """Whether packed samples of the task are padded for this model."""
    return hasattr(task, "pads") and bool(task.pads(model))


def draws(task: Task) -> bool:
    """Whether `task.prepare` uses its generator; the default is that it does."""
    return bool(getattr(task, "draws", True))


def mixes(task: Task | None) -> bool:
    """Whether samples of the task are mixed in pairs in training."""
    return bool(getattr(task, "mixes", False))


def drops_until(task: Task) -> float:
    """Return the share of the steps of a run in which the task drops parts of its inputs."""
    return float(getattr(task, "drops_until", 0.0))


class HasMixing(Protocol):
    """Optional: mix prepared samples in pairs, in training."""

    def mix(
        self, items: Sequence[Item | SampleError], generators: Iterable[torch.Generator]
    ) -> list[Item | SampleError]:
        """Return the items, each mixed with its partner: 0 with 1, 2 with 3, …"""
        ...


@runtime_checkable
class HasPrepareAll(Protocol):
    """Optional: prepare many samples at once, where that is faster (tokenisation)."""

    def prepare_all(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return what `prepare` returns for each sample, or the error that it raises."""
        ...


def prepare_each(
    task: Task, samples: Sequence[Sample], generators: Iterable[torch.Generator | None]
) -> Iterator[Item | SampleError]:
    """Yield the item of each sample, or the error that says why it cannot be used."""
    if isinstance(task, HasPrepareAll):
        yield from task.prepare_all(samples)
        return
    for sample, generator in zip(samples, generators, strict=False):
        try:
            yield task.prepare(sample, generator=generator)
        except SampleError as error:
            yield error


@runtime_checkable
class HasColumns(Protocol):
    """Optional, for quick samples of one unit each: a batch from columns, without an object for
    each sample. Training calls it where the task draws no random numbers.
    """

    def collate_columns(self, columns: SampleColumns) -> tuple[Batch, dict[int, SampleError]]:
        """Return what `collate` returns for the samples that `prepare` can use, and the errors of
        the others by their positions. Without a usable sample the batch does not matter.
        """
        ...


def takes_columns(task: Task | None) -> bool:
    """Whether training batches of the task are made from columns."""
    return isinstance(task, HasColumns) and not draws(task) and not mixes(task)


@runtime_checkable
class HasLength(Protocol):
    """Optional: estimate the length of a sample (in any unit) without preparing it, so that the
    micro-batches of a step are made of samples of similar length.
    """

    def length(self, sample: Sample) -> int: ...


@runtime_checkable
class HasCountedUnits(Protocol):
    """Optional, for samples of different length (text): how many units of each count.

    Micro-batches of such a task are filled to a number of units, and a ratio is a share of units
    where these are counted (`selection.budget_unit`).
    """

    def counted_units(self, batch: Batch) -> torch.Tensor:
        """Return the `num_units` of `per_sample_loss`, int64[batch], without the model."""
        ...


def averages_tokens(task: Task, average: str | None) -> bool:
    """Whether a step's loss is the mean over counted units (`training.average`), not over samples.

    Raises:
        InputError: it should be, and the task does not count its units.
    """
    can_count = isinstance(task, HasCountedUnits)
    if average == "tokens" and not can_count:
        raise InputError(
            f"average is tokens: the task {type(task).__name__} has no tokens; set it to samples"
        )
    return can_count and average != "samples"


@runtime_checkable
class HasTokenLosses(Protocol):
    """Optional, for text: the loss of every token (`training.token_selection`)."""

    def token_losses(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nats float32[batch, tokens], 0 for tokens that do not count, and which count
        bool[batch, tokens].
        """
        ...


@runtime_checkable
class HasTargetLogits(Protocol):
    """Optional, for cross-entropies: the logit of the target."""

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return float[batch]: the logit of the target class, as a mean over counted units."""
        ...


@runtime_checkable
class HasClassLogits(Protocol):
    """Optional, for one class per sample: the logits of all classes."""

    def class_logits(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits float[batch, classes] and target classes int64[batch] (-100: none)."""
        ...


@runtime_checkable
class HasFunctionalGradient(Protocol):
    """Optional: the norm of the functional gradient, from the same forward pass as the loss."""

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return loss and units as `per_sample_loss`, and ‖∂ℓ/∂f‖ float32[batch]
        (`trainers/scoring/functional_gradient.py`).
        """
        ...


@runtime_checkable
class HasScoreColumns(Protocol):
    """Optional: more columns beside the losses (float32), such as the parts of a loss."""

    @property
    def score_columns(self) -> tuple[str, ...]: ...

    def loss_and_scores(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return loss and units as `per_sample_loss`, and each column as float32[batch]."""
        ...


@runtime_checkable
class HasModelInputs(Protocol):
    """Optional: the inputs of the model without what it is to predict, for its hidden states
    (`trainers/scoring/hidden_states.py`).
    """

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of a sample that `prepare_inputs` reads."""
        ...

    def prepare_inputs(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return each item with its `num_units`, or the error that says why it cannot be used."""
        ...

    def collate_inputs(self, items: Sequence[Item]) -> tuple[Batch, torch.Tensor]:
        """Return the keyword arguments of the model's forward pass, and the units int64[batch]."""
        ...


@runtime_checkable
class HasItemShares(Protocol):
    """Optional, for samples of different length (text): the loss of a part of each sample."""

    def share_of(self, item: Item, *, share: float) -> Item:
        """Return the shortest item that has the first `share` of the counted units, at least one;
        its `num_counted` is the number of all.
        """
        ...


@runtime_checkable
class HasModelShares(Protocol):
    """Optional: the loss of a part of each sample, of which the model leaves out the rest."""

    def on_share(self, model: torch.nn.Module, *, share: float) -> AbstractContextManager[None]:
        """Return a context in which the model takes a share of its input.

        Raises:
            InputError: the model cannot.
        """
        ...


def check_training(task: Task) -> None:
    """Raise `InputError` if samples of the task are only scored."""
    if hasattr(task, "check_training"):
        task.check_training()
