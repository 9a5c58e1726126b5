"""Where the samples of an index are read: in the corpus, or in the compact shards made of it.

Ids → (shard, rows), reading under a policy, and which reads take how long.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from attent_select.errors import InputError, StorageError
from catalogs import storage
from catalogs.corpus import Corpus, plan_shard, read_shard
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Reading, Shard
from trainers.streaming.index_rows import Ids, Selected


@dataclass(frozen=True, eq=False)
class Source:
    """Reads samples by id. `compact`, where there is one, is a corpus of exactly the selected rows,
    in their order: id n is its n-th row. The order of training does not know of it.
    """

    selected: Selected
    corpus: Corpus
    columns: tuple[str, ...]
    compact: Corpus | None = None
    policy: storage.ReadPolicy = field(default_factory=storage.ReadPolicy)
    # Who reads, for errors.
    reader: str = "rank 0"
    _starts: Ids = field(init=False)
    # Thread → what it reads, since when.
    _at_work: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        starts = self.selected.starts
        if self.compact is not None:
            counts = [shard.num_samples for shard in self.compact.shards]
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            if starts[-1] != len(self.selected):
                raise InputError(
                    f"the compact shards hold {starts[-1]} samples, the index {len(self.selected)}:"
                    " they were made for another index; remove them"
                )
        object.__setattr__(self, "_starts", starts)

    @property
    def is_local(self) -> bool:
        """Whether samples are read from files of this machine."""
        shards = (self.compact or self.corpus).shards
        return all(storage.is_local(shard.uri) for shard in shards[:1])

    @property
    def cost(self) -> storage.ReadCost:
        """What a request costs where the samples are."""
        with storage.use_read_policy(self.policy):
            return storage.read_cost((self.compact or self.corpus).shards[0].uri)

    def split(self, ids: Ids) -> Iterator[Ids]:
        """Ascending ids, in pieces of one shard."""
        ordinals = np.searchsorted(self._starts, ids, side="right")
        pieces = np.split(ids, np.flatnonzero(np.diff(ordinals)) + 1)
        yield from (piece for piece in pieces if len(piece))

    def plan(self, ids: Ids) -> ReadPlan:
        """What reading these ids of one shard takes."""
        shard, rows = self._locate(ids)
        with self._reading(shard):
            return plan_shard(shard, rows=rows, columns=self.columns)

    def read(self, ids: Ids) -> Reading:
        """The samples of these ids of one shard.

        Raises:
            InputError: the shard is gone, has changed, or is damaged.
            StorageError: storage failed after its retries.
        """
        shard, rows = self._locate(ids)
        with self._reading(shard):
            return read_shard(shard, rows=rows, columns=self.columns)

    def slowest(self) -> str:
        """What is being read for longest right now."""
        at_work = list(self._at_work.values())  # once: threads come and go
        if not at_work:
            return "nothing is being read"
        what, since = min(at_work, key=lambda entry: entry[1])
        return f"reading {what} has taken {monotonic() - since:.0f} s so far"

    def _locate(self, ids: Ids) -> tuple[Shard, list[int]]:
        if self.compact is not None:
            ordinal = int(np.searchsorted(self._starts, ids[0], side="right")) - 1
            return self.compact.shards[ordinal], (ids - self._starts[ordinal]).tolist()
        shard_id = int(self.selected.shards_of(ids[:1])[0])
        return self.corpus.shard(shard_id), self.selected.rows_of(ids).tolist()

    @contextlib.contextmanager
    def _reading(self, shard: Shard) -> Iterator[None]:
        me = threading.get_ident()
        self._at_work[me] = (f"shard {shard.shard_id} ({shard.uri})", monotonic())
        try:
            with storage.use_read_policy(self.policy):
                yield
        except (InputError, StorageError) as error:
            raise type(error)(f"{self.reader}, shard {shard.shard_id}: {error}") from error
        finally:
            self._at_work.pop(me, None)
