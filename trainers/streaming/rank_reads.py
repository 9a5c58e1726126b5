"""The reads of one rank in training order, and what each will cost; needs no torch."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from catalogs.concurrency import ordered_map
from catalogs.read_plan import ReadPlan
from trainers.settings import StreamingSettings
from trainers.streaming.index_rows import Ids
from trainers.streaming.order import Order
from trainers.streaming.rank_share import RankShare
from trainers.streaming.sources import Source


@dataclass(frozen=True, eq=False)
class RankReads:
    """What one rank reads of `source`."""

    order: Order
    source: Source
    share: RankShare
    settings: StreamingSettings

    @property
    def num_threads(self) -> int:
        """Threads that read; 0: the training thread reads itself."""
        return self.settings.num_read_threads(is_local=self.source.is_local)

    def ids(self, start_step: int = 0) -> Iterator[Ids]:
        """Yield this rank's ids of each block, in reads of one shard each, ascending."""
        for block in self.share.of_blocks(self.order, start_step):
            yield from self.source.split(np.sort(block))

    def plans(self) -> Generator[ReadPlan, None, None]:
        """Yield the plans of all reads, in order, without reading a sample."""
        return ordered_map(
            self.source.plan,
            self.ids(),
            num_threads=self.num_threads,
            budget=2 * self.num_threads,
            cost=lambda _: 1,
            timeout_seconds=self.settings.timeout_seconds,
        )
