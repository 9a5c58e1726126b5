"""Result of a round, as its published checkpoint stores it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from attent_select.errors import ExistsError
from trainers.checkpoint import Checkpoint
from trainers.streaming.stream import TeachingStream

# Key beside the result's own fields: whether the metrics are final.
_IS_EVALUATED = "is_evaluated"


@dataclass(frozen=True)
class FitResult:
    """Result of a round.

    `train_loss` is Σ weight·loss over the samples seen, divided by their number, or with
    `average: tokens` Σ weight·units·loss / Σ units (nats); `units_seen` are their counted units
    (tokens); `seconds` is the time spent in training steps, over all attempts; `metrics` are those
    of the evaluation.
    """

    train_loss: float
    samples_seen: int
    num_steps: int
    seconds: float
    checkpoint: str
    metrics: dict[str, float]
    units_seen: int = 0


def to_json(result: FitResult, *, is_evaluated: bool) -> dict[str, Any]:
    """Return the result as a checkpoint stores it."""
    return asdict(result) | {_IS_EVALUATED: is_evaluated}


def with_metrics(stored: dict[str, Any], metrics: dict[str, float]) -> dict[str, Any]:
    """Return a stored result with the metrics of its evaluation."""
    return stored | {"metrics": metrics, _IS_EVALUATED: True}


def is_evaluated(stored: dict[str, Any]) -> bool:
    """Whether the metrics of a stored result are final."""
    return bool(stored.get(_IS_EVALUATED, True))


def result_of(published: Checkpoint, *, stream: TeachingStream) -> FitResult:
    """Return the result of the round that trained on `stream`, from its checkpoint.

    Raises:
        ExistsError: the checkpoint belongs to another round, index or order.
    """
    if published.result is None or published.stream != stream.state_at(stream.num_steps):
        raise ExistsError(
            f"{published.url} holds a checkpoint of another round, index or order: remove it first"
        )
    values = {name: value for name, value in published.result.items() if name != _IS_EVALUATED}
    return replace(FitResult(**values), checkpoint=published.url)
