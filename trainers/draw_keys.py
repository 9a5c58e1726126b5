"""Keys of random numbers for what a task drops of its inputs in training, such as patches."""

import numpy as np
import torch

from attent_select.schema import numpy_sample_key
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from trainers.round_hooks import Steps
from trainers.task import Batch, Task, drops_until

# `until` × steps may exceed a whole number by rounding: 0.7 × 10 > 7.
_ROUNDING = 1e-9


def with_draw_keys(batch: Batch, *, task: Task, steps: Steps, step: int) -> Batch:
    """Return the batch with `draw_keys` int64[batch] if the task drops inputs at this step.

    They depend on (seed, step, sample), not on rank or micro-batch.
    """
    if steps.position(step) >= drops_until(task) * steps.total - _ROUNDING:
        return batch
    samples = numpy_sample_key(
        *(batch[name].numpy().astype(np.uint32) for name in ("shard_id", "row"))
    )
    keys = numpy_bits(stream_key(steps.seed, Purpose.PATCHES, step), samples)
    return batch | {"draw_keys": torch.from_numpy(keys.view(np.int64))}
