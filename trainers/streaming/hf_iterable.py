"""The samples of a stream as an `IterableDataset` of the library `datasets`.

The order is cut into ranges of steps, which are the shards of the data set: resuming opens the
range where it stopped, and skips the samples before that in it.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from attent_select import schema
from attent_select.extras import missing_extras_named
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.shard_format import Sample
from catalogs.stored_rows import has_schema, schema_of
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Selected
from trainers.streaming.order import Order
from trainers.streaming.rank_reader import RankReader
from trainers.streaming.rank_share import RankShare
from trainers.streaming.sources import Source, read_policy
from trainers.streaming.stats import StreamStats
from trainers.task import Batch

# Most ranges of a pass, and the least samples of each.
_NUM_RANGES = 1024
_MIN_SAMPLES = 256
_FACTS = (schema.SHARD_ID, schema.ROW, schema.WEIGHT)
_COUNTERS = ("denominator", "step", "micro_batches")

# First step, and the step after the last.
StepRange = tuple[int, int]


class SampleRanges:
    """Generator function of the samples in ranges of steps. A copy opens its files itself."""

    def __init__(
        self,
        index: IndexFile,
        corpus: Corpus,
        order: OrderSettings,
        share: RankShare,
        settings: StreamingSettings,
    ) -> None:
        self._arguments = (index, corpus, order, share, settings)
        self._reader: RankReader | None = None
        # The step that follows the last range, and what reads on from there.
        self._next: tuple[int, Generator[Batch, None, None]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleRanges, self._arguments

    def __call__(self, *, ranges: Sequence[StepRange]) -> Iterator[Sample]:
        """Yield the samples of each range: the columns, and shard_id, row and weight."""
        for first, end in ranges:
            # Consecutive ranges are read by one pipeline, so that reading ahead does not stop.
            is_next = self._next is not None and self._next[0] == first
            batches = self._next[1] if is_next and self._next else self._open().batches(first)
            self._next = None
            for batch in batches:
                yield from _samples(batch)
                if int(batch["step"]) + 1 == end:
                    self._next = (end, batches)
                    break

    def _open(self) -> RankReader:
        if self._reader is None:
            index, corpus, order_settings, share, settings = self._arguments
            order = Order(Selected.of_index(index, corpus), order_settings, settings)
            stats = StreamStats(corpus.shards, 0.0, padded=0, dropped=0)
            source = Source(
                order.selected,
                corpus,
                corpus.columns,
                policy=read_policy(settings, meter=stats.meter),
                reader=f"rank {share.rank}",
            )
            self._reader = RankReader(
                order, source, task=None, share=share, settings=settings, stats=stats
            )
        return self._reader


def hf_iterable(ranges: SampleRanges, corpus: Corpus, *, steps: range, batch_size: int) -> Any:
    """Return a `datasets.IterableDataset` of the samples of `steps`.

    Raises:
        MissingExtraError: the library `datasets` is not installed.
    """
    with missing_extras_named():
        import datasets
    length = max(len(steps) // _NUM_RANGES, -(-_MIN_SAMPLES // batch_size), 1)
    bounds = [(first, min(first + length, steps.stop)) for first in steps[::length]]
    return datasets.IterableDataset.from_generator(
        ranges, features=_features(corpus), gen_kwargs={"ranges": bounds}
    )


def _features(corpus: Corpus) -> Any:
    """Return the features of shards with a schema, as their writer declared them; else None."""
    import datasets

    if not all(map(has_schema, corpus.shards)):
        return None
    declared = datasets.Features.from_arrow_schema(schema_of(corpus.shards[0]))
    reserved = (*_FACTS, *_COUNTERS)
    features = {
        f"{name}_column" if name in reserved else name: declared[name] for name in corpus.columns
    }
    facts = {name: datasets.Value("int64") for name in _FACTS[:2]}
    weight = {schema.WEIGHT: datasets.Value("float32")}
    return datasets.Features(features | facts | weight)


def _samples(batch: Batch) -> Iterator[Sample]:
    columns = {
        name: values.tolist() if name in _FACTS else values
        for name, values in batch.items()
        if name not in _COUNTERS
    }
    for values in zip(*columns.values(), strict=True):
        sample = dict(zip(columns, values, strict=True))
        if sample[schema.WEIGHT]:  # 0: a stand-in where this rank has no sample of the step
            yield sample
