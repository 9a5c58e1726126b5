"""Labels of several samples against the classes that a model predicts, in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.single_sample import HasClassLogits


@dataclass(frozen=True)
class LabelCheck:
    """A label and the most probable other class, by name or number, with their probabilities.

    One that cannot be checked has a `reason`.
    """

    label: str = ""
    label_share: float = 0.0
    other: str = ""
    other_share: float = 0.0
    reason: str = ""


def check_labels(task: Any, model: Any, samples: Sequence[Sample]) -> list[LabelCheck]:
    """Return a check for each sample, in their order.

    Raises:
        InputError: the task has no classes, or fewer than two.
    """
    if not isinstance(task, HasClassLogits):
        raise InputError(f"the task {type(task).__name__} does not predict a class")
    checks, items, places = [LabelCheck()] * len(samples), [], []
    for place, sample in enumerate(samples):
        try:
            items.append(task.prepare(sample, generator=None))  # type: ignore[attr-defined]
            places.append(place)
        except SampleError as error:
            checks[place] = LabelCheck(reason=f"{error.status}: {error}")
    if not items:
        return checks
    with eval_mode(model) as to_device:
        logits, labels = task.class_logits(model, to_device(task.collate(items)))  # type: ignore[attr-defined]
    if logits.shape[1] < 2:
        raise InputError("the model has one class: there is no other label")
    names = [str(name) for name in task.classes or range(logits.shape[1])]
    shares = logits.float().softmax(dim=1).cpu()
    for place, label, row in zip(places, labels.tolist(), shares, strict=True):
        checks[place] = _check(names, label, row.tolist())
    return checks


def _check(names: Sequence[str], label: int, shares: Sequence[float]) -> LabelCheck:
    if not 0 <= label < len(shares):
        return LabelCheck(reason="the model lacks the class of the label")
    other = max(
        (number for number in range(len(shares)) if number != label), key=shares.__getitem__
    )
    return LabelCheck(names[label], shares[label], names[other], shares[other])
