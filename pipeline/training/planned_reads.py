"""The planned reads of one rank: what training on an index would read. Needs no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from catalogs import Corpus, IndexFile, storage
from catalogs.storage import ReadCost
from pipeline.config.run_config import frozen_section
from pipeline.config.validation import check
from pipeline.config.yaml_values import replace_keys
from pipeline.corpus import shard_layouts
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Selected
from trainers.streaming.order import Order
from trainers.streaming.rank_reads import RankReads
from trainers.streaming.rank_share import RankShare
from trainers.streaming.sources import Source, read_policy


@dataclass(frozen=True)
class ReadPlanResult:
    """The planned reads of one rank over all epochs, without footers and member indexes.

    `num_reads` counts reads, each of one shard, by method in `methods`; `connection_seconds` is the
    time that one connection would take, by the cost of a request to that storage. `advice` says
    which format and row groups this share of the rows asks for.
    """

    num_samples: int
    num_steps: int
    num_shards: int
    total_shards: int
    num_reads: int
    methods: dict[str, int]
    num_requests: int
    bytes_read: int
    bytes_selected: int
    read_amplification: float
    connection_seconds: float
    largest_read_bytes: int
    padded: int
    dropped: int
    advice: str
    seconds: float


def plan_reads(
    corpus: str,
    *,
    index: str,
    order: OrderSettings,
    share: RankShare | None = None,
    settings: StreamingSettings | None = None,
) -> ReadPlanResult:
    """Plan the reads of `dry_run.read_stream` without reading a sample; takes the same arguments.

    Raises:
        InputError: there is no such corpus or index, or the index is of another corpus.
    """
    started = monotonic()
    opened = Corpus.open(corpus)
    rows = IndexFile.open(index, corpus=opened)
    reads = _reads(rows, opened, order, share, settings)
    methods: Counter[str] = Counter()
    requests = bytes_read = selected = largest = 0
    for plan in reads.plans():
        methods[plan.method] += 1
        requests += len(plan.ranges)
        bytes_read += plan.num_bytes
        selected += plan.bytes_selected
        largest = max(largest, plan.num_bytes)
    cost, amplification = reads.source.cost, bytes_read / selected if selected else 0.0
    return ReadPlanResult(
        num_samples=reads.share.num_samples(reads.order),
        num_steps=reads.order.num_steps,
        num_shards=len(reads.order.selected.shard_ids),
        total_shards=len(opened.shards),
        num_reads=methods.total(),
        methods=dict(methods),
        num_requests=requests,
        bytes_read=bytes_read,
        bytes_selected=selected,
        read_amplification=amplification,
        connection_seconds=cost.seconds(num_requests=requests, num_bytes=bytes_read),
        largest_read_bytes=largest,
        padded=reads.order.num_padded,
        dropped=reads.order.num_dropped,
        advice=_advice(opened, cost, rows.num_samples, amplification),
        seconds=monotonic() - started,
    )


def _advice(corpus: Corpus, cost: ReadCost, num_selected: int, amplification: float) -> str:
    reads = shard_layouts.Corpus(
        sample_bytes=corpus.num_bytes / corpus.num_samples,
        shard_samples=corpus.num_samples // len(corpus.shards),
        cost=cost,
        is_local=storage.is_local(corpus.shards[0].uri),
    )
    share = num_selected / corpus.num_samples
    return shard_layouts.advise(reads, share=share, current=amplification)


def _reads(
    index: IndexFile,
    corpus: Corpus,
    order: OrderSettings,
    share: RankShare | None,
    settings: StreamingSettings | None,
) -> RankReads:
    settings, share = settings or StreamingSettings(), share or RankShare()
    selected = Selected.of_index(index, corpus)
    source = Source(
        selected,
        corpus,
        corpus.columns,
        policy=read_policy(settings),
        reader=f"rank {share.rank}",
    )
    return RankReads(Order(selected, order, settings), source, share, settings)


def streaming_settings(run: str, overrides: Sequence[str]) -> StreamingSettings:
    """Return the streaming settings of a run, else the defaults, with each `key=value` replaced.

    Raises:
        InputError: a key or value is wrong.
    """
    values = frozen_section(run, "streaming")
    return check(StreamingSettings, replace_keys(values, overrides), source="--set")
