"""From one rank's share of the order to collated micro-batches: read → prepare → collate → pin.

The stages of threads and what flows between them.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

import numpy as np
import torch

from attent_select.errors import InputError, SampleError, StorageError
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from catalogs.concurrency import ordered_map
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Sample, samples_of
from trainers.settings import ReadAhead
from trainers.streaming.index_rows import SAMPLE_OVERHEAD_BYTES, Ids
from trainers.streaming.order import Order, Share
from trainers.streaming.sample_buffer import Columns, Waiting
from trainers.streaming.sources import Source
from trainers.streaming.stats import StreamStats
from trainers.streaming.turns import Turns
from trainers.task import Batch, HasLength, Item, Task, draws

# How many samples are tried for one that can stand in for a micro-batch without a usable sample.
_FILLER_ATTEMPTS = 100


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
    source: Source
    task: Task | None
    share: Share
    read_ahead: ReadAhead
    max_skipped_share: float
    stats: StreamStats
    # Bytes of a prepared sample, from the last collated batch: what a micro-batch in flight will
    # cost.
    _prepared_bytes: list[int] = field(default_factory=list)
    _turns: Turns = field(default_factory=Turns)

    def batches(self, start_step: int) -> Generator[Batch, None, None]:
        """Collated micro-batches from `start_step` to the end."""
        prepared = ordered_map(
            self._prepare,
            self._micro_batches(start_step, self._read_pieces(start_step)),
            num_threads=self.read_ahead.prepare_threads,
            budget=self.read_ahead.max_bytes,
            cost=self._bytes_prepared,
            timeout_seconds=self.read_ahead.timeout_seconds,
        )
        try:
            yield from prepared
        except TimeoutError as error:
            raise StorageError(
                f"rank {self.share.rank} of {self.share.world_size} waited "
                f"{self.read_ahead.timeout_seconds:g} s for a batch: {self.source.slowest()}. Look "
                "at the storage, or allow more (timeout_seconds)"
            ) from error

    def pieces(self, start_step: int) -> Iterator[Ids]:
        """This rank's ids of each block, in pieces of one shard, ascending."""
        for block in self.share.of_blocks(self.order, start_step):
            yield from self.source.split(np.sort(block))

    def plans(self) -> Generator[ReadPlan, None, None]:
        """What `batches` would read, in order, with no sample read."""
        num_threads = self._num_read_threads
        return ordered_map(
            self.source.plan,
            self.pieces(0),
            num_threads=num_threads,
            budget=2 * num_threads,
            cost=lambda _: 1,
            timeout_seconds=self.read_ahead.timeout_seconds,
        )

    @property
    def _num_read_threads(self) -> int:
        return self.read_ahead.read_threads(is_local=self.source.is_local)

    def _read_pieces(self, start_step: int) -> Generator[Columns, None, None]:
        num_threads = self._num_read_threads
        # A stage of its own: what a piece takes may cost a request, and those go side by side.
        pieces = ordered_map(
            self._sized,
            self.pieces(start_step),
            num_threads=num_threads,
            budget=2 * num_threads,
            cost=lambda _: 1,
        )
        return ordered_map(
            lambda piece: self._read(piece.ids),
            pieces,
            num_threads=num_threads,
            budget=self.read_ahead.max_bytes,
            cost=lambda piece: piece.num_bytes,
            timeout_seconds=self.read_ahead.timeout_seconds,  # where preparing has no thread
        )

    def _sized(self, ids: Ids) -> _Piece:
        if not self._num_read_threads:
            return _Piece(ids, num_bytes=0)  # nothing is read ahead
        overhead = SAMPLE_OVERHEAD_BYTES * len(ids)
        return _Piece(ids, num_bytes=self.source.plan(ids).decoded_bytes + overhead)

    def _read(self, ids: Ids) -> Columns:
        reading = self.source.read(ids)
        self.stats.count_selected(reading.bytes_selected)
        return ids, reading.values

    def _micro_batches(
        self, start_step: int, read: Generator[Columns, None, None]
    ) -> Iterator[MicroBatch]:
        """Takes samples, in training order, out of what was read; reads on when one is missing."""
        waiting = Waiting(read)
        with closing(read):
            for step, ids in self.order.steps(start_step):
                for parts in self._read_together(self.share.of_batch(ids)):
                    wanted = np.concatenate(parts)
                    yield from self._of_like_lengths(step, parts, waiting.take(wanted))

    def _read_together(self, parts: list[Ids]) -> list[list[Ids]]:
        """One micro-batch at a time, unless samples go from one to another of their step."""
        return [parts] if isinstance(self.task, HasLength) else [[part] for part in parts]

    def _of_like_lengths(
        self, step: int, parts: list[Ids], samples: list[Sample]
    ) -> Iterator[MicroBatch]:
        """Micro-batches of the same sizes, longest samples first: less padding, and the step's loss
        is a sum over all of them, so that the update stays the same.
        """
        if len(parts) == 1 or not isinstance(self.task, HasLength):
            yield MicroBatch(step, np.concatenate(parts), samples)
            return
        lengths = [self.task.length(sample) for sample in samples]
        order = np.argsort(np.negative(lengths), kind="stable")
        ids = np.concatenate(parts)
        for places in np.split(order, np.cumsum([len(part) for part in parts])[:-1]):
            yield MicroBatch(step, ids[places], [samples[place] for place in places.tolist()])

    def _bytes_prepared(self, micro_batch: MicroBatch) -> int:
        # Before the first one is collated its size is unknown: it then runs alone.
        known = self._prepared_bytes[-1] if self._prepared_bytes else self.read_ahead.max_bytes
        return max(len(micro_batch.ids), 1) * known

    def _prepare(self, micro_batch: MicroBatch) -> Batch:
        """Prepare and collate; samples that cannot be used are left out and counted."""
        step = micro_batch.step
        with self._turns.turn(len(micro_batch.ids)):
            kept, items = self._usable(micro_batch)
        weights = self.order.selected.weights.of(kept)
        if not items:
            # Every rank takes part in every micro-batch, or the others wait for its gradients for
            # ever.
            number, item = self._filler(step)
            items, kept, weights = [item], np.array([number]), np.zeros(1, np.float32)
        batch = {} if self.task is None else dict(self.task.collate(items))
        batch.update(self._bookkeeping(kept, weights, step=step))
        truncated = int(batch["truncated"].sum()) if "truncated" in batch else 0
        self.stats.count(int(np.count_nonzero(weights)), truncated=truncated)
        num_bytes = sum(tensor.nbytes for tensor in batch.values())
        self._prepared_bytes[:] = [max(num_bytes // len(kept), 1)]
        if torch.cuda.is_available():
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch

    def _usable(self, micro_batch: MicroBatch) -> tuple[Ids, list[Item]]:
        ids, items, unusable = micro_batch.ids, [], []
        generators = self._generators(ids, step=micro_batch.step)
        prepare = self._item if self.task is None else self.task.prepare
        for sample, generator in zip(micro_batch.samples, generators, strict=True):
            try:
                items.append(prepare(sample, generator=generator))
            except SampleError as error:
                unusable.append(len(items) + len(unusable))
                self._skip(int(ids[unusable[-1]]), error)
        return np.delete(ids, unusable) if unusable else ids, items

    def _generators(self, ids: Ids, *, step: int) -> Iterator[torch.Generator]:
        """For each sample's random augmentation: the same in an epoch, whatever the step or rank.
        They are one object, to be used in turn.
        """
        generator = torch.Generator()
        if self.task is None or not draws(self.task):
            return repeat(generator, len(ids))
        epoch = step // self.order.steps_per_epoch
        key = stream_key(self.order.seed, Purpose.AUGMENT, epoch)
        seeds = numpy_bits(key, self.order.selected.sample_keys(ids)).tolist()
        return (generator.manual_seed(seed) for seed in seeds)

    def _item(self, sample: Sample, *, generator: torch.Generator) -> Item:
        return {} if self.task is None else self.task.prepare(sample, generator=generator)

    def _bookkeeping(self, ids: Ids, weights: np.ndarray, *, step: int) -> Batch:
        selected = self.order.selected
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
        following = chain.from_iterable(ids for _, ids in steps)
        for number in islice(following, _FILLER_ATTEMPTS):
            ids = np.array([number])
            try:
                (sample,) = samples_of(self._read(ids)[1], num_samples=1)
                return int(number), self._item(
                    sample, generator=next(self._generators(ids, step=step))
                )
            except SampleError:
                continue
        raise InputError(
            f"no usable sample among {_FILLER_ATTEMPTS} of step {step}: {self.stats.last_skipped}"
        )

    def _skip(self, number: int, error: SampleError) -> None:
        selected, ids = self.order.selected, np.array([number])
        shard_id, row = int(selected.shards_of(ids)[0]), int(selected.rows_of(ids)[0])
        self.stats.skip(shard_id, row=row, error=error, max_share=self.max_skipped_share)
