"""Values of the model of growth: sizes of a corpus, machines, and the cost of a stage. Pure."""

from dataclasses import dataclass, replace
from typing import Final

from catalogs.storage.read_policy import REMOTE, ReadCost
from pipeline.doctor import scale_constants as per
from pipeline.doctor.prices import Prices

# Requests that cost as much as a whole shard: a smaller one is read at once, without its footer.
_SMALL_REQUESTS: Final = 4


@dataclass(frozen=True)
class Requests:
    """Requests to an object store: GET and HEAD, PUT and LIST, DELETE."""

    reads: float = 0.0
    writes: float = 0.0
    deletes: float = 0.0

    def __add__(self, other: "Requests") -> "Requests":
        return Requests(
            self.reads + other.reads, self.writes + other.writes, self.deletes + other.deletes
        )

    def __mul__(self, number: float) -> "Requests":
        return Requests(self.reads * number, self.writes * number, self.deletes * number)


@dataclass(frozen=True)
class CorpusSize:
    """Size of a corpus.

    Attributes:
        num_shards: shards.
        num_samples: samples of all shards.
        sample_bytes: of a sample, on average.
        group_rows: rows that are read as a whole: of a row group; 1 for Lance and tar files.
        has_members: whether shards have a member index, as tar files do.
        read_cost: of a request to its storage.
    """

    num_shards: int
    num_samples: int
    sample_bytes: float
    group_rows: int = 1024
    has_members: bool = False
    read_cost: ReadCost = REMOTE

    @property
    def num_bytes(self) -> float:
        return self.num_samples * self.sample_bytes

    @property
    def shard_rows(self) -> float:
        return self.num_samples / self.num_shards

    @property
    def is_small_sharded(self) -> bool:
        """Whether a whole shard costs less than its footer and a part of it."""
        return self.num_bytes <= _SMALL_REQUESTS * self.read_cost.request_bytes * self.num_shards

    def part_of_draw(self, num_rows: int, *, block_rows: int) -> "CorpusSize":
        """Return the part of the corpus that is read for candidates, drawn in blocks."""
        blocks = -(-num_rows // block_rows)
        rows = min(self.num_samples, blocks * max(block_rows, self.group_rows))
        return replace(self, num_shards=min(self.num_shards, blocks), num_samples=rows)

    def num_parts(self, part_samples: int) -> int:
        """Return the parts of a catalog, of whole shards."""
        return min(self.num_shards, -(-self.num_samples // part_samples))


@dataclass(frozen=True)
class Machines:
    """What computes: rates are those of one worker, or of one device that trains."""

    workers: int = 1
    scored_per_second: float = 400.0
    trained_per_second: float = 130.0
    annotated_bytes_per_second: float = per.HASHED_BYTES_PER_SECOND


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage.

    Attributes:
        name: of the stage.
        requests: to the object store.
        read_bytes: bytes that are read.
        written_bytes: bytes that are written.
        tasks: number of tasks that workers run.
        worker_seconds: seconds of all tasks together.
        task_seconds: seconds of one task.
        driver_seconds: of the driver, while workers work.
        alone_seconds: of the driver, while workers wait.
        driver_bytes: peak memory of the driver; of each rank where the stage trains.
        worker_bytes: peak memory of a worker, without the model.
    """

    name: str
    requests: Requests
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    tasks: int = 0
    worker_seconds: float = 0.0
    task_seconds: float = 0.0
    driver_seconds: float = 0.0
    alone_seconds: float = 0.0
    driver_bytes: float = 0.0
    worker_bytes: float = 0.0

    def seconds(self, workers: int, prices: Prices) -> float:
        """Return how long the stage takes: its slowest part, then the last task."""
        limits = (
            self.worker_seconds / workers,
            self.driver_seconds,
            self.requests.reads / prices.reads_per_second,
            (self.requests.writes + self.requests.deletes) / prices.writes_per_second,
        )
        return self.alone_seconds + max(limits) + self.task_seconds

    def dollars(self, workers: int, prices: Prices) -> float:
        """Return the price of requests, bytes, and workers, which are paid until the stage ends."""
        requests = self.requests
        thousands = (
            requests.reads * prices.thousand_reads
            + requests.writes * prices.thousand_writes
            + requests.deletes * prices.thousand_deletes
        ) / 1000
        hours = workers * self.seconds(workers, prices) / 3600
        bytes_price = self.read_bytes / 1e9 * prices.gigabyte_read
        return thousands + bytes_price + hours * prices.worker_hour
