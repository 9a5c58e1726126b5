"""From one rank's share of the order to collated micro-batches: read → prepare → collate → pin.

Here: the two stages of threads and what flows between them. Not here: the order itself
(`order.py`), the threads' machinery (`readahead.py`), the stream's state and its face to torch
(`stream.py`).
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import torch

from attent_select.errors import InputError, SampleError
from attent_select.randomness import Purpose, stream_key
from catalogs.corpus import Corpus
from catalogs.shard_format import Sample
from trainers.order import Order, Share
from trainers.readahead import ordered_map
from trainers.selected import Ids
from trainers.settings import ReadAhead
from trainers.task import Batch, HasLength, Item, Task

# How many samples are tried for one that can stand in for a micro-batch without a usable sample.
_FILLER_ATTEMPTS = 100
# Bad samples that are always forgiven: a share says nothing about the first few samples.
_FORGIVEN = 16


@dataclass
class StreamStats:
    """What streaming has cost so far. Bytes and requests are this rank's; `padded` and `dropped`
    are slots and samples of the global order.
    """

    num_samples: int = 0
    num_skipped: int = 0
    num_truncated: int = 0
    bytes_read: int = 0
    bytes_selected: int = 0
    num_requests: int = 0
    padded: int = 0
    dropped: int = 0
    blocked_seconds: float = 0.0
    first_batch_seconds: float = 0.0
    last_skipped: str = ""

    @property
    def read_amplification(self) -> float:
        return self.bytes_read / self.bytes_selected if self.bytes_selected else 0.0


@dataclass(frozen=True, eq=False)
class _Piece:
    """Samples of one shard, and the memory they take once they are read: not the bytes at rest,
    which compression can make a thousand times fewer.
    """

    ids: Ids
    num_bytes: int


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The samples of one micro-batch, not yet prepared."""

    step: int
    ids: Ids
    samples: list[Sample]


@dataclass(frozen=True, eq=False)
class RankReader:
    """Reads and prepares what one rank trains on."""

    order: Order
    corpus: Corpus
    task: Task | None
    share: Share
    read_ahead: ReadAhead
    max_skipped_share: float
    stats: StreamStats
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Bytes of a prepared sample, from the last collated batch: what a micro-batch in flight will
    # cost.
    _prepared_bytes: list[int] = field(default_factory=list)

    def batches(self, start_step: int) -> Generator[Batch, None, None]:
        """Collated micro-batches from `start_step` to the end."""
        num_threads = self.read_ahead.num_read_threads
        # A stage of its own: what a piece takes may cost a request, and those go side by side.
        pieces = ordered_map(
            self._sized,
            self._share_by_shard(start_step),
            num_threads=num_threads,
            budget=2 * num_threads,
            cost=lambda _: 1,
        )
        read = ordered_map(
            lambda piece: self._read(piece.ids),
            pieces,
            num_threads=num_threads,
            budget=self.read_ahead.max_bytes,
            cost=lambda piece: piece.num_bytes,
        )
        return ordered_map(
            self._prepare,
            self._micro_batches(start_step, read),
            num_threads=self.read_ahead.num_prepare_threads,
            budget=self.read_ahead.max_bytes,
            cost=self._bytes_prepared,
        )

    def _share_by_shard(self, start_step: int) -> Iterator[Ids]:
        """This rank's ids of each block, in pieces of one shard, ascending."""
        for block in self.share.of_blocks(self.order, start_step):
            ids = np.sort(block)
            shards = self.order.selected.shard_ordinals(ids)
            yield from (
                piece for piece in np.split(ids, np.flatnonzero(np.diff(shards)) + 1) if len(piece)
            )

    @property
    def _columns(self) -> tuple[str, ...]:
        return self.corpus.columns if self.task is None else self.task.columns

    def _sized(self, ids: Ids) -> _Piece:
        selected = self.order.selected
        shard_id, rows = int(selected.shards_of(ids[:1])[0]), selected.rows_of(ids).tolist()
        plan = self.corpus.plan(shard_id, rows=rows, columns=self._columns)
        return _Piece(ids, num_bytes=plan.decoded_bytes)

    def _read(self, ids: Ids) -> dict[int, Sample]:
        selected = self.order.selected
        reading = self.corpus.read(
            int(selected.shards_of(ids[:1])[0]),
            rows=selected.rows_of(ids).tolist(),
            columns=self._columns,
        )
        with self._lock:
            self.stats.bytes_read += reading.bytes_read
            self.stats.bytes_selected += reading.bytes_selected
            self.stats.num_requests += reading.num_requests
        return dict(zip(ids.tolist(), reading.samples, strict=True))

    def _micro_batches(
        self, start_step: int, read: Generator[dict[int, Sample], None, None]
    ) -> Iterator[MicroBatch]:
        """Takes samples, in training order, out of what was read; reads on when one is missing."""
        waiting: dict[int, Sample] = {}
        with closing(read):
            for step, ids in self.order.steps(start_step):
                for parts in self._read_together(self.share.of_batch(ids)):
                    while not all(number in waiting for part in parts for number in part.tolist()):
                        waiting.update(next(read))
                    for part in self._of_like_lengths(parts, waiting):
                        samples = [waiting.pop(number) for number in part.tolist()]
                        yield MicroBatch(step=step, ids=part, samples=samples)

    def _read_together(self, parts: list[Ids]) -> list[list[Ids]]:
        """One micro-batch at a time, unless samples go from one to another of their step."""
        return [parts] if isinstance(self.task, HasLength) else [[part] for part in parts]

    def _of_like_lengths(self, parts: list[Ids], samples: dict[int, Sample]) -> list[Ids]:
        """Micro-batches of the same sizes, longest samples first: less padding, and the step's loss
        is a sum over all of them, so that the update stays the same.
        """
        if len(parts) == 1 or not isinstance(self.task, HasLength):
            return parts
        ids = np.concatenate(parts)
        lengths = [self.task.length(samples[number]) for number in ids.tolist()]
        ids = ids[np.argsort(np.negative(lengths), kind="stable")]
        return np.split(ids, np.cumsum([len(part) for part in parts])[:-1])

    def _bytes_prepared(self, micro_batch: MicroBatch) -> int:
        # Before the first one is collated its size is unknown: it then runs alone.
        known = self._prepared_bytes[-1] if self._prepared_bytes else self.read_ahead.max_bytes
        return max(len(micro_batch.ids), 1) * known

    def _prepare(self, micro_batch: MicroBatch) -> Batch:
        """Prepare and collate; samples that cannot be used are left out and counted."""
        items: list[Item] = []
        kept: list[int] = []
        for number, sample in zip(micro_batch.ids.tolist(), micro_batch.samples, strict=True):
            try:
                items.append(self._item(number, sample, step=micro_batch.step))
                kept.append(number)
            except SampleError as error:
                self._skip(number, error)
        weights = self.order.selected.weights.of(np.array(kept, np.int64))
        if not items:
            # Every rank takes part in every micro-batch, or the others wait for its gradients for
            # ever.
            number, item = self._filler(micro_batch.step)
            items, kept, weights = [item], [number], np.zeros(1, np.float32)
        batch = self._collate(items)
        batch.update(self._bookkeeping(kept, weights, step=micro_batch.step))
        with self._lock:
            self.stats.num_samples += int(np.count_nonzero(weights))
            self.stats.num_truncated += int(batch["truncated"].sum()) if "truncated" in batch else 0
        num_bytes = sum(tensor.nbytes for tensor in batch.values())
        self._prepared_bytes[:] = [max(num_bytes // len(kept), 1)]
        if torch.cuda.is_available():
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch

    def _item(self, number: int, sample: Sample, *, step: int) -> Item:
        if self.task is None:
            return {}
        key = stream_key(
            self.order.seed,
            Purpose.AUGMENT,
            step // self.order.steps_per_epoch,
            int(self.order.selected.sample_keys(np.array([number]))[0]),
        )
        return self.task.prepare(sample, generator=torch.Generator().manual_seed(key))

    def _collate(self, items: list[Item]) -> Batch:
        return {} if self.task is None else dict(self.task.collate(items))

    def _bookkeeping(self, kept: list[int], weights: np.ndarray, *, step: int) -> Batch:
        selected, ids = self.order.selected, np.array(kept)
        return {
            "shard_id": torch.from_numpy(selected.shards_of(ids).astype(np.int64)),
            "row": torch.from_numpy(selected.rows_of(ids).astype(np.int64)),
            "weight": torch.from_numpy(weights),
            # Constant: dividing by each batch's own weights would bias 1/probability weights.
            "denominator": torch.tensor(float(self.order.batch_size)),
            "step": torch.tensor(step),
        }

    def _filler(self, step: int) -> tuple[int, Item]:
        """The first usable sample from `step` on, in global order: the same one after a resume."""
        steps = chain(self.order.steps(step), self.order.steps())
        following = chain.from_iterable(ids.tolist() for _, ids in steps)
        for number in islice(following, _FILLER_ATTEMPTS):
            try:
                return number, self._item(number, self._read(np.array([number]))[number], step=step)
            except SampleError:
                continue
        raise InputError(
            f"no usable sample among {_FILLER_ATTEMPTS} of step {step}: {self.stats.last_skipped}"
        )

    def leave_out(self, shard_id: int, *, row: int) -> None:
        """Count a sample as skipped that was counted as handed out."""
        with self._lock:
            self.stats.num_samples -= 1
        reason = "nothing in it counts for this model (a label that it lacks?)"
        self._count_skipped(shard_id, row=row, error=SampleError(reason, status="unreadable"))

    def _skip(self, number: int, error: SampleError) -> None:
        selected = self.order.selected
        shard_id = int(selected.shards_of(np.array([number]))[0])
        self._count_skipped(shard_id, row=int(selected.rows_of(np.array([number]))[0]), error=error)

    def _count_skipped(self, shard_id: int, *, row: int, error: SampleError) -> None:
        where = f"shard {shard_id}, row {row}"
        with self._lock:
            self.stats.num_skipped += 1
            self.stats.last_skipped = f"{where}: {error} ({error.status})"
            skipped = self.stats.num_skipped
            seen = self.stats.num_samples + skipped
        if skipped > max(_FORGIVEN, self.max_skipped_share * seen):
            raise InputError(
                f"{skipped} of {seen} samples cannot be used, more than the share of "
                f"{self.max_skipped_share} that is allowed; the last one: {where}: {error}"
            ) from error
