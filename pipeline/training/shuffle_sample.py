"""A sample of the training order on which the quality of its shuffle is measured."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from trainers.streaming.index_rows import Ids
from trainers.streaming.order import Order
from trainers.task import Batch

_MAX_SAMPLES = 1 << 20


@dataclass(frozen=True, eq=False)
class ShuffleSample:
    """The first samples of an epoch in training order, and the group of each.

    A group is the shard, or what `set_groups` takes from batches. `keys` are the sample keys,
    sorted by `by_key`.
    """

    ids: Ids
    groups: npt.NDArray[np.int64]
    by_key: Ids
    keys: npt.NDArray[np.uint64]

    @staticmethod
    def of_order(order: Order) -> "ShuffleSample":
        """Take samples of the last epoch, as the first epoch starts with smaller blocks."""
        steps = order.steps(order.num_steps - order.steps_per_epoch)
        num_steps = max(_MAX_SAMPLES // order.batch_size, 1)
        batches = (ids for _, ids in islice(steps, num_steps))
        ids = np.concatenate([np.zeros(0, np.int64), *batches])
        keys = order.selected.sample_keys(ids)
        by_key = np.argsort(keys)
        groups = order.selected.shards_of(ids).astype(np.int64)
        return ShuffleSample(ids, groups, by_key, keys[by_key])

    def set_groups(self, batch: Batch) -> None:
        """Use the classes of a batch as the groups of its samples."""
        shards, rows = (batch[name].numpy().astype(np.uint64) for name in ("shard_id", "row"))
        keys = (shards << np.uint64(32)) | rows
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        is_sampled = self.keys[positions] == keys
        self.groups[self.by_key[positions[is_sampled]]] = batch["class"].numpy()[is_sampled]
