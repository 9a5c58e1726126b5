"""Settings of scoring: spans, batches, arithmetic, and how many samples may fail."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import polars as pl
from annotated_types import Ge, Gt, Le

from attent_select.schema import FUNCTIONAL_GRADIENT
from trainers.settings.bounds import Dtype, Positive, check_fields


@dataclass(frozen=True)
class ScoringSettings:
    """How losses are measured.

    Attributes:
        span_samples: rows per task; a task should take half a minute or more.
        part_samples: rows per part of the catalog.
        batch_units: most units (tokens; 1 for an image) of a forward pass, padding included:
            samples × the cost of the longest.
        max_batch_samples: most samples of a forward pass.
        window_samples: consecutive rows that are sorted by length, longest first, before they form
            batches.
        dtype: autocast of the forward pass; losses are float32. Default: float32; the pipeline
            sets bfloat16 where all workers compute it fast.
        compile: run the model through torch.compile.
        torch_threads: threads of each task's arithmetic; part of what makes losses equal bit by
            bit.
        functional_gradient: also measure ‖∂ℓ/∂f‖, for the strategy of that name: a column beside
            the losses.
        units_share: measure the first share of the units of each sample, or a share of its patches:
            at a share of the cost, with a loss that ranks samples almost as well.
        proxy: a saved model that measures the losses instead of the model of the run.
        max_failed_share: more unusable samples than this share stop the run, in training too.
    """

    span_samples: Positive = 50_000
    part_samples: Positive = 2_000_000
    batch_units: Positive = 16_384
    max_batch_samples: Positive = 256
    window_samples: Positive = 1024
    dtype: Dtype | None = None
    compile: bool = False
    torch_threads: Positive = 1
    functional_gradient: bool = False
    units_share: Annotated[float, Gt(0), Le(1)] | None = None
    proxy: str | None = None
    max_failed_share: Annotated[float, Ge(0), Le(1)] = 0.1

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_cheap(self) -> bool:
        """Whether something is saved at the expense of accuracy."""
        return self != self.at_full_cost

    @property
    def at_full_cost(self) -> "ScoringSettings":
        """The settings that measure whole samples, by the model of the run in float32."""
        return replace(self, dtype="float32", units_share=None, proxy=None)

    def carry_schema(self, task: Any) -> dict[str, type[pl.DataType]]:
        """Return the columns beside the losses in every part: those of a task with
        `score_columns`, too.
        """
        gradient = (FUNCTIONAL_GRADIENT,) if self.functional_gradient else ()
        return dict.fromkeys((*gradient, *getattr(task, "score_columns", ())), pl.Float32)
