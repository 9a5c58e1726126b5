"""A span without work, to measure what a span costs the driver and the scheduler.

Run by workers of `scoring.py`; does not import torch, like the driver.
"""

from catalogs.losses.catalog import BatchSplits
from pipeline.scoring.span_task import SpanResult, SpanTask


def measure_nothing(task: SpanTask) -> SpanResult:
    """Return the result of a span without measuring anything."""
    num_samples = task.span.num_rows
    return SpanResult(num_samples, num_samples, BatchSplits(), {}, ())
