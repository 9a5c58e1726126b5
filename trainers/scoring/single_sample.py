"""One sample under a model: the losses of its tokens or pixels, the classes that it predicts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.evaluation import eval_mode
from trainers.task import Batch, Item

_INCOMPLETE = "\ufffd"


@runtime_checkable
class HasTokenLosses(Protocol):
    """A task whose loss is a mean over tokens."""

    def token_losses(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nats and counted, both [batch, tokens - 1]."""
        ...

    def text_of_tokens(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        ...


@runtime_checkable
class HasClassLogits(Protocol):
    """A task whose model gives a logit for each class of a sample."""

    classes: Any

    def class_logits(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [batch, classes] and labels [batch]."""
        ...


@runtime_checkable
class HasPixelMaps(Protocol):
    """A task whose model gives a class for each pixel."""

    def pixel_maps(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the classes, the predicted classes and the nats [batch, height, width]."""
        ...


@dataclass(frozen=True)
class TokenLoss:
    """Text of a token (of several, where one is a part of a character) and its loss in nats; None
    for tokens that do not count.
    """

    text: str
    nats: float | None


def token_losses_of(task: Any, model: torch.nn.Module, sample: Sample) -> list[TokenLoss]:
    """Return the tokens of a sample with their losses.

    Raises:
        InputError: the task has no tokens, or cannot use the sample.
    """
    if not isinstance(task, HasTokenLosses):
        raise InputError(f"the task {type(task).__name__} has no loss for each token")
    item, batch = _batch_of(task, sample)
    with eval_mode(model) as to_device:
        nats, counted = task.token_losses(model, to_device(batch))
    losses = [None, *_where(nats[0].tolist(), counted[0].tolist())]
    return list(_join_characters(task, item["input_ids"], losses))


def class_probabilities_of(
    task: Any, model: torch.nn.Module, sample: Sample, *, count: int = 5
) -> list[tuple[str, float]]:
    """Return the most probable classes of a sample, by name or number, with their probabilities.

    Raises:
        InputError: the task has no classes, or cannot use the sample.
    """
    if not isinstance(task, HasClassLogits):
        raise InputError(f"the task {type(task).__name__} does not predict a class")
    _, batch = _batch_of(task, sample)
    with eval_mode(model) as to_device:
        logits, _ = task.class_logits(model, to_device(batch))
    probabilities = logits[0].float().softmax(dim=0)
    top = probabilities.topk(min(count, len(probabilities)))
    names = task.classes or range(len(probabilities))
    return [
        (str(names[number]), share)
        for number, share in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def pixel_maps_of(task: Any, model: torch.nn.Module, sample: Sample) -> dict[str, torch.Tensor]:
    """Return `classes` and `predicted` int64[height, width] (-100: does not count), and `nats`.

    Raises:
        InputError: the task has no classes of pixels, or cannot use the sample.
    """
    if not isinstance(task, HasPixelMaps):
        raise InputError(f"the task {type(task).__name__} does not predict the class of a pixel")
    _, batch = _batch_of(task, sample)
    with eval_mode(model) as to_device:
        maps = task.pixel_maps(model, to_device(batch))
    return dict(zip(("classes", "predicted", "nats"), (one[0].cpu() for one in maps), strict=True))


def _batch_of(task: Any, sample: Sample) -> tuple[Item, Batch]:
    try:
        item = task.prepare(sample, generator=None)
    except SampleError as error:
        raise InputError(f"the task cannot use the sample ({error.status}): {error}") from error
    return item, task.collate([item])


def _where(nats: Sequence[float], counted: Sequence[bool]) -> list[float | None]:
    return [loss if counts else None for loss, counts in zip(nats, counted, strict=True)]


def _join_characters(
    task: HasTokenLosses, ids: Sequence[int], losses: Sequence[float | None]
) -> Iterator[TokenLoss]:
    """Yield tokens; those that are only together a character, as one with the sum of losses."""
    pending: list[int] = []
    total: float | None = None
    for token, loss in zip(ids, losses[: len(ids)], strict=True):
        pending.append(token)
        total = loss if total is None else total + (loss or 0.0)
        text = task.text_of_tokens(pending)
        if not text.endswith(_INCOMPLETE) or len(pending) == 4:
            yield TokenLoss(text, total)
            pending, total = [], None
    if pending:
        yield TokenLoss(task.text_of_tokens(pending), total)
