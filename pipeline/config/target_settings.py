"""Settings of a target: where the examples of what a model should be good at are."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True)
class TargetSettings:
    """Where the examples are.

    Attributes:
        shards: URLs, folders or globs of shards with the columns that the annotation reads.
        kind_column: column with the kind of reference of each example.
        judge_share: share of the examples that judges; they do not make annotations.
        corpus_samples: random samples of the corpus that a run evaluates beside the judging
            examples: what the model forgets.
    """

    shards: tuple[str, ...]
    kind_column: str | None = None
    judge_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    corpus_samples: Annotated[int, Ge(1)] = 256
