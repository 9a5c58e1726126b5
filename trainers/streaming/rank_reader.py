"""One rank's share of the order → collated micro-batches: read → prepare → collate → pin.

Each stage runs ahead of the next in separate threads (`catalogs.concurrency.ordered_map`).
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attent_select.errors import InputError, SampleError, StorageError
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from catalogs.concurrency import ordered_map
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Sample, samples_of
from trainers.filling import computed_units, fill
from trainers.settings import StreamingSettings
from trainers.streaming.index_rows import SAMPLE_OVERHEAD_BYTES, Ids
from trainers.streaming.order import Order
from trainers.streaming.rank_reads import RankReads
from trainers.streaming.rank_share import RankShare
from trainers.streaming.sample_buffer import Columns, SampleBuffer
from trainers.streaming.sources import Source
from trainers.streaming.stats import StreamStats
from trainers.streaming.turns import Turns
from trainers.task import (
    Batch,
    HasLength,
    Item,
    SampleColumns,
    Task,
    draws,
    mixes,
    packs,
    prepare_each,
    takes_columns,
)

# Samples that are tried as the stand-in for a part without a usable sample.
_STAND_IN_ATTEMPTS = 100


@dataclass(frozen=True, eq=False)
class _Read:
    """Samples of one shard, and the memory that they take once read: not their bytes at rest, which
    compression can make a thousand times fewer.
    """

    ids: Ids
    num_bytes: int


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples that are prepared together: one of `num_parts` micro-batches of a step, or all of
    them.
    """

    step: int
    ids: Ids
    values: SampleColumns
    num_parts: int

    @property
    def samples(self) -> list[Sample]:
        return samples_of(self.values, num_samples=len(self.ids))


class RankReader:
    """Reads and prepares what one rank trains on."""

    def __init__(
        self,
        order: Order,
        source: Source,
        *,
        task: Task | None,
        share: RankShare,
        settings: StreamingSettings,
        stats: StreamStats,
    ) -> None:
        self._order, self._source, self._task, self._share = order, source, task, share
        self._settings, self._stats = settings, stats
        self._reads = RankReads(order, source, share, settings)
        self._num_read_threads = self._reads.num_threads
        # Bytes of a prepared sample in the last collated batch: the estimate for those to come.
        # None before the first one, which then runs alone.
        self._prepared_bytes: int | None = None
        self._turns = Turns()
        self._collates_columns = share.micro_batch_units is None and takes_columns(task)

    def batches(self, start_step: int, num_passes: int = 1) -> Generator[Batch, None, None]:
        """Yield collated micro-batches from `start_step` to the end of that many passes."""
        if num_passes > 1:
            yield from self._with_passes(num_passes).batches(start_step)
            return
        timeout_seconds = self._settings.timeout_seconds
        prepared = ordered_map(
            self._prepare,
            self._parts(start_step),
            num_threads=self._settings.num_prepare_threads,
            budget=self._settings.read_ahead_bytes,
            cost=self._bytes_when_prepared,
            timeout_seconds=timeout_seconds,
        )
        try:
            for micro_batches in prepared:
                yield from micro_batches
        except TimeoutError as error:
            raise StorageError(
                f"rank {self._share.rank} of {self._share.world_size} waited {timeout_seconds:g} s "
                f"for a batch: {self._source.longest_read()}. Check the storage, or raise "
                "streaming.timeout_seconds"
            ) from error

    def _with_passes(self, num_passes: int) -> "RankReader":
        settings = self._order.settings
        return RankReader(
            replace(self._order, settings=replace(settings, epochs=num_passes * settings.epochs)),
            self._source,
            task=self._task,
            share=self._share,
            settings=self._settings,
            stats=self._stats,
        )

    def plans(self) -> Generator[ReadPlan, None, None]:
        """Yield the plans of all reads of `batches`, in order, without reading a sample."""
        return self._reads.plans()

    def _read_ahead(self, start_step: int) -> Generator[Columns, None, None]:
        # A separate stage: the size of a read may cost a request, and requests run in parallel.
        sized = ordered_map(
            self._size,
            self._reads.ids(start_step),
            num_threads=self._num_read_threads,
            budget=2 * self._num_read_threads,
            cost=lambda _: 1,
        )
        return ordered_map(
            lambda read: self._read(read.ids),
            sized,
            num_threads=self._num_read_threads,
            budget=self._settings.read_ahead_bytes,
            cost=lambda read: read.num_bytes,
            # Needed where preparing has no thread, and so no timeout.
            timeout_seconds=self._settings.timeout_seconds,
        )

    def _size(self, ids: Ids) -> _Read:
        if not self._num_read_threads:
            return _Read(ids, num_bytes=0)  # nothing is read ahead
        overhead = SAMPLE_OVERHEAD_BYTES * len(ids)
        return _Read(ids, num_bytes=self._source.plan(ids).decoded_bytes + overhead)

    def _read(self, ids: Ids) -> Columns:
        reading = self._source.read(ids)
        self._stats.count_selected(reading.bytes_selected)
        return ids, reading.values

    def _parts(self, start_step: int) -> Iterator[_Part]:
        """Yield the samples of each part of a step, taken from what was read."""
        columns = self._read_ahead(start_step)
        buffer = SampleBuffer(columns)
        with closing(columns):
            for step, ids in self._order.steps(start_step):
                parts = self._share.of_batch(ids, batch_size=self._order.batch_size)
                if len(parts) > 1 and isinstance(self._task, HasLength):
                    values = buffer.take(np.concatenate(parts))
                    yield from _by_length(step, parts, values, task=self._task)
                else:
                    for part in parts:
                        yield _Part(step, part, buffer.take(part), len(parts))

    def _bytes_when_prepared(self, part: _Part) -> int:
        if self._prepared_bytes is None:
            return max(len(part.ids), 1) * self._settings.read_ahead_bytes
        return max(len(part.ids), 1) * self._prepared_bytes

    def _prepare(self, part: _Part) -> list[Batch]:
        """Prepare and collate; samples that cannot be used are left out and counted."""
        step = part.step
        if self._collates_columns:
            if batches := self._collate_columns(part):
                return batches
            ids, items = part.ids, list[Item]()
        else:
            with self._turns.turn(len(part.ids)):
                ids, items = self._usable(part)
        weights = self._order.selected.weights.of(ids)
        if not items:
            # Every rank must take part in every step: the others wait for its gradients.
            stand_in, item = self._stand_in(step)
            items, ids, weights = [item], np.array([stand_in]), np.zeros(1, np.float32)
        if self._task is None:
            self._stats.count(len(items), truncated=0)
            self._prepared_bytes = SAMPLE_OVERHEAD_BYTES + sum(map(_num_bytes, items)) // len(ids)
            bookkeeping = self._bookkeeping(ids, weights, step=step, number=part.num_parts)
            return [_raw_columns(items, reserved=bookkeeping) | bookkeeping]
        positions = self._positions(items)
        number = part.num_parts * len(positions)
        batches = []
        for chosen in positions:
            batch = dict(self._task.collate([items[k] for k in chosen]))
            batch |= self._bookkeeping(ids[chosen], weights[chosen], step=step, number=number)
            batches.append(self._count_and_pin(batch))
        self._estimate_bytes(batches, num_samples=len(ids))
        return batches

    def _collate_columns(self, part: _Part) -> list[Batch]:
        """Return the batch of a task that takes columns; none without a usable sample."""
        task: Any = self._task  # has `collate_columns`, see `HasColumns`
        with self._turns.turn(len(part.ids)):
            batch, errors = task.collate_columns(part.values)
        for position, error in errors.items():
            self._skip(int(part.ids[position]), error)
        ids = np.delete(part.ids, list(errors)) if errors else part.ids
        if not len(ids):
            return []
        self._stats.count_units(len(ids), padded=len(ids))
        weights = self._order.selected.weights.of(ids)
        bookkeeping = self._bookkeeping(ids, weights, step=part.step, number=part.num_parts)
        batches = [self._count_and_pin(dict(batch) | bookkeeping)]
        self._estimate_bytes(batches, num_samples=len(ids))
        return batches

    def _estimate_bytes(self, batches: Sequence[Batch], *, num_samples: int) -> None:
        num_bytes = sum(tensor.nbytes for batch in batches for tensor in batch.values())
        self._prepared_bytes = max(num_bytes // num_samples, 1)

    def _positions(self, items: Sequence[Item]) -> list[list[int]]:
        """Return the positions in `items` of each micro-batch, and count its units."""
        units, is_packed = self._share.micro_batch_units, packs(self._task)
        # A walk over the stream has items without units (`attent stream --classes`).
        lengths = [item.get("num_units", 1) for item in items]
        positions = [list(range(len(items)))]
        if units is not None:
            positions = fill(lengths, units=units, is_packed=is_packed)
        for chosen in positions:
            of_batch = [lengths[k] for k in chosen]
            padded = computed_units(of_batch, is_packed=is_packed, pads=self._stats.pads)
            self._stats.count_units(sum(of_batch), padded=padded)
        return positions

    def _count_and_pin(self, batch: Batch) -> Batch:
        """Count the samples of a batch, and pin it where it will be copied to a GPU."""
        truncated = int(batch["truncated"].sum()) if "truncated" in batch else 0
        self._stats.count(int(torch.count_nonzero(batch["weight"])), truncated=truncated)
        if torch.cuda.is_available():
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch

    def _usable(self, part: _Part) -> tuple[Ids, list[Item]]:
        """Return the ids and prepared items of the samples that can be used."""
        ids, items = part.ids, list[Item]()
        unusable: list[int] = []
        generators = self._generators(ids, step=part.step)
        prepared = self._prepare_each(part.samples, generators)
        if mixes(self._task):
            task: Any = self._task  # has `mix`, see `HasMixing`
            generators = self._generators(ids, step=part.step, purpose=Purpose.MIX)
            prepared = iter(task.mix(list(prepared), generators))
        for position, item in enumerate(prepared):
            if isinstance(item, SampleError):
                unusable.append(position)
                self._skip(int(ids[position]), item)
            else:
                items.append(item)
        return np.delete(ids, unusable) if unusable else ids, items

    def _generators(
        self, ids: Ids, *, step: int, purpose: Purpose = Purpose.AUGMENT
    ) -> Iterator[torch.Generator]:
        """Yield the generator for each sample's augmentation: it depends on the sample and the
        epoch, not on step or rank. All are one object, seeded again for each sample.
        """
        generator = torch.Generator()
        if self._task is None or not draws(self._task):
            return repeat(generator, len(ids))
        epoch = step // self._order.steps_per_epoch
        key = stream_key(self._order.settings.seed, purpose, epoch)
        seeds = numpy_bits(key, self._order.selected.sample_keys(ids)).tolist()
        return (generator.manual_seed(seed) for seed in seeds)

    def _prepare_each(
        self, samples: Sequence[Sample], generators: Iterator[torch.Generator]
    ) -> Iterator[Item | SampleError]:
        if self._task is None:
            return iter(samples)
        return prepare_each(self._task, samples, generators)

    def _bookkeeping(
        self, ids: Ids, weights: npt.NDArray[np.float32], *, step: int, number: int
    ) -> Batch:
        selected = self._order.selected
        return {
            "shard_id": torch.from_numpy(selected.shards_of(ids).astype(np.int64)),
            "row": torch.from_numpy(selected.rows_of(ids).astype(np.int64)),
            "weight": torch.from_numpy(weights),
            # Constant: dividing by each batch's sum of weights would bias 1/probability weights.
            "denominator": torch.tensor(float(self._order.batch_size)),
            "step": torch.tensor(step),
            "micro_batches": torch.tensor(number),
        }

    def _stand_in(self, step: int) -> tuple[int, Item]:
        """Return the first usable sample from `step` in global order: the same after a resume."""
        steps = chain(self._order.steps(step), self._order.steps())
        following = chain.from_iterable(ids for _, ids in steps)
        for sample_id in islice(following, _STAND_IN_ATTEMPTS):
            ids = np.array([sample_id])
            try:
                samples = samples_of(self._read(ids)[1], num_samples=1)
            except SampleError:
                continue
            (item,) = self._prepare_each(samples, self._generators(ids, step=step))
            if not isinstance(item, SampleError):
                return int(sample_id), item
        raise InputError(
            f"none of {_STAND_IN_ATTEMPTS} samples from step {step} can be used: "
            f"{self._stats.last_skipped}"
        )

    def _skip(self, sample_id: int, error: SampleError) -> None:
        selected, ids = self._order.selected, np.array([sample_id])
        shard_id, row = int(selected.shards_of(ids)[0]), int(selected.rows_of(ids)[0])
        self._stats.skip(shard_id, row=row, error=error)


def _raw_columns(samples: Sequence[Sample], *, reserved: Collection[str]) -> dict[str, Any]:
    """Return the values of every column; a column with a `reserved` name gets another one."""
    names = samples[0].keys()
    return {
        f"{name}_column" if name in reserved else name: [sample[name] for sample in samples]
        for name in names
    }


def _num_bytes(sample: Sample) -> int:
    return sum(len(value) for value in sample.values() if isinstance(value, bytes | str))


def _by_length(
    step: int, parts: list[Ids], values: SampleColumns, *, task: HasLength
) -> Iterator[_Part]:
    """Yield parts of the same sizes, longest samples first: less padding.

    The step's loss is a sum over all of its micro-batches, so that the update stays the same.
    """
    ids = np.concatenate(parts)
    lengths = [task.length(sample) for sample in samples_of(values, num_samples=len(ids))]
    longest_first = np.argsort(np.negative(lengths), kind="stable")
    ends = np.cumsum([len(part) for part in parts])
    for positions in np.split(longest_first, ends[:-1]):
        chosen = positions.tolist()
        columns = {name: [column[k] for k in chosen] for name, column in values.items()}
        yield _Part(step, ids[positions], columns, len(parts))
