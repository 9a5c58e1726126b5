"""Settings of a target: where the examples of what a model should be good at are."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt


@dataclass(frozen=True)
class TargetSettings:
    """Where the examples are.

    Attributes:
        shards: URLs, folders or globs of shards with the columns that the annotation reads.
        kind_column: column with the kind of reference of each example.
        judge_share: share of the examples that judges; they do not make annotations.
    """

    shards: tuple[str, ...]
    kind_column: str | None = None
    judge_share: Annotated[float, Gt(0), Lt(1)] = 0.5
