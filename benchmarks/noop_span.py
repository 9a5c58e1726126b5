"""A span of which nothing is measured, for what the driver and the scheduler take for one.

What `scoring.py` has workers do; without torch, as the driver does without it. Not here:
measuring.
"""

from catalogs.losses.catalog import BatchSplits
from pipeline.scoring.span_task import SpanResult, SpanTask


def measure_nothing(task: SpanTask) -> SpanResult:
    """What a span costs when its worker does nothing at all."""
    num_samples = task.span.num_rows
    return SpanResult(num_samples, num_samples, BatchSplits(), {}, ())
