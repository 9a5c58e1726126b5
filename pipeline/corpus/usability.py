"""How many samples a task can use: some are prepared before a run does any work."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attent_select.errors import InputError, SampleError
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Shard
from catalogs.shards import read_shard

if TYPE_CHECKING:
    from trainers.task import Item

_SHARDS = 4
_ROWS = 16


@dataclass(frozen=True)
class Usability:
    """Prepared samples, and those that the task cannot use."""

    items: "tuple[Item, ...]"
    unusable: Unusable

    @property
    def num_samples(self) -> int:
        return len(self.items) + self.unusable.counts.total()

    @property
    def failed_share(self) -> float:
        return self.unusable.counts.total() / max(self.num_samples, 1)

    def __str__(self) -> str:
        return f"{self.unusable.counts.total():,} of {self.num_samples:,} samples: {self.unusable}"


def try_samples(task: Any, rows: Iterable[tuple[Shard, range]]) -> Usability:
    """Prepare the samples in some rows of shards.

    Raises:
        InputError: a shard cannot be read.
    """
    from trainers.task import prepare_each

    items, unusable = [], Unusable()
    for shard, rows_of_shard in rows:
        samples = list(read_shard(shard, rows=rows_of_shard, columns=task.columns).samples)
        nones = [None] * len(samples)
        for row, item in zip(rows_of_shard, prepare_each(task, samples, nones), strict=True):
            if isinstance(item, SampleError):
                unusable.add(Example(shard.uri, row, item.status, str(item)))
            else:
                items.append(item)
    return Usability(tuple(items), unusable)


def check_some_usable(task: Any, shards: Sequence[Shard]) -> None:
    """Check that the task can use one of the first samples of some shards.

    Raises:
        InputError: it can use none of them; the message has an example of each cause.
    """
    some = shards[:: -(-len(shards) // _SHARDS)]
    tried = try_samples(task, ((s, range(min(_ROWS, s.num_samples))) for s in some))
    if tried.num_samples and not tried.items:
        raise InputError(
            f"the task can use none of {tried.num_samples} samples, the first of some shards: "
            f"{tried.unusable}. Fix the corpus or the task settings"
        )
