"""Reading samples by id, from the corpus or from compact shards made of the selected rows."""

import contextlib
import threading
from collections.abc import Iterator
from time import monotonic

import numpy as np

from attent_select.errors import InputError, StorageError
from catalogs import storage
from catalogs.corpus import Corpus
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Reading, Shard
from catalogs.shards import plan_shard, read_shard
from trainers.settings import StreamingSettings
from trainers.streaming.index_rows import Ids, Selected


class Source:
    """Reader of samples by id, under a read policy; knows which reads are running.

    `compact`, where given, is a corpus of exactly the selected rows, in their order: id n is its
    n-th row. The order of training does not depend on it. `reader` names the rank in errors.
    """

    def __init__(
        self,
        selected: Selected,
        corpus: Corpus,
        columns: tuple[str, ...],
        *,
        compact: Corpus | None = None,
        policy: storage.ReadPolicy,
        reader: str,
    ) -> None:
        self._selected, self._corpus, self._columns = selected, corpus, columns
        self._compact, self._policy, self._reader = compact, policy, reader
        self._starts = selected.starts if compact is None else _starts(compact, selected)
        # Thread → what it reads, and since when.
        self._running: dict[int, tuple[str, float]] = {}

    @property
    def is_local(self) -> bool:
        """Whether samples are read from local files."""
        shards = (self._compact or self._corpus).shards
        return all(storage.is_local(shard.uri) for shard in shards[:1])

    @property
    def cost(self) -> storage.ReadCost:
        """The cost of a request to the storage of the samples."""
        with storage.use_read_policy(self._policy):
            return storage.read_cost((self._compact or self._corpus).shards[0].uri)

    def split(self, ids: Ids) -> Iterator[Ids]:
        """Yield ascending ids, split into reads of one shard each."""
        ordinals = np.searchsorted(self._starts, ids, side="right")
        reads = np.split(ids, np.flatnonzero(np.diff(ordinals)) + 1)
        yield from (read for read in reads if len(read))

    def plan(self, ids: Ids) -> ReadPlan:
        """Return the plan of reading these ids of one shard."""
        shard, rows = self._locate(ids)
        with self._reading(shard):
            return plan_shard(shard, rows=rows, columns=self._columns)

    def read(self, ids: Ids) -> Reading:
        """Read the samples of these ids of one shard.

        Raises:
            InputError: the shard is missing, has changed, or is damaged.
            StorageError: storage failed after its retries.
        """
        shard, rows = self._locate(ids)
        with self._reading(shard):
            return read_shard(shard, rows=rows, columns=self._columns)

    def longest_read(self) -> str:
        """Describe the read that has been running for longest."""
        running = list(self._running.values())  # a copy: other threads change the dict
        if not running:
            return "no read is running"
        what, since = min(running, key=lambda entry: entry[1])
        return f"reading {what} has taken {monotonic() - since:.0f} s so far"

    def _locate(self, ids: Ids) -> tuple[Shard, list[int]]:
        if self._compact is not None:
            ordinal = int(np.searchsorted(self._starts, ids[0], side="right")) - 1
            return self._compact.shards[ordinal], (ids - self._starts[ordinal]).tolist()
        shard_id = int(self._selected.shards_of(ids[:1])[0])
        return self._corpus.shard(shard_id), self._selected.rows_of(ids).tolist()

    @contextlib.contextmanager
    def _reading(self, shard: Shard) -> Iterator[None]:
        thread = threading.get_ident()
        self._running[thread] = (f"shard {shard.shard_id} ({shard.uri})", monotonic())
        try:
            with storage.use_read_policy(self._policy):
                yield
        except (InputError, StorageError) as error:
            raise type(error)(f"{self._reader}, shard {shard.shard_id}: {error}") from error
        finally:
            self._running.pop(thread, None)


def read_policy(
    settings: StreamingSettings, *, meter: storage.ReadMeter | None = None
) -> storage.ReadPolicy:
    """Return the policy of the settings: the cost of a request, the node's cache, the meter."""
    cost, cache = None, None
    if settings.latency_ms is not None and settings.connection_mb_per_second is not None:
        cost = storage.ReadCost(
            latency_seconds=settings.latency_ms / 1000,
            bytes_per_second=settings.connection_mb_per_second * 1e6,
        )
    if settings.cache is not None:
        cache = storage.NodeCache(settings.cache, max_bytes=settings.cache_bytes)
    return storage.ReadPolicy(cost=cost, cache=cache, meter=meter)


def _starts(compact: Corpus, selected: Selected) -> Ids:
    """Return the first id of each compact shard, and the end.

    Raises:
        InputError: the shards hold another number of samples than the index.
    """
    counts = [shard.num_samples for shard in compact.shards]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if starts[-1] != len(selected):
        raise InputError(
            f"the compact shards hold {starts[-1]} samples, the index {len(selected)}: they were "
            "made for another index; remove them"
        )
    return starts
