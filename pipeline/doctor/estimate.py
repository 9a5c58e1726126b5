"""Estimate of a run's cost: time some samples on this machine, multiply by the round schedule.

Nothing is written into the run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from attent_select.errors import InputError
from attent_select.schedule.rounds import Round, plan_rounds
from catalogs import Corpus, storage
from catalogs.annotations.columns import has_units
from catalogs.corpus import has_corpus
from catalogs.shard_format import Sample, Shard
from catalogs.shards import format_named, format_of, inspect_shard, keeps_members, read_shard
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import CorpusSettings
from pipeline.corpus import shard_layouts
from pipeline.corpus.ingest import shard_objects
from pipeline.corpus.usability import Usability
from pipeline.doctor.prices import Prices
from pipeline.doctor.round_costs import (
    PoolMix,
    Rates,
    RoundCost,
    block_rows_of,
    cost_lines,
    pool_mix,
    round_costs,
    smallest_share,
    time_of,
)
from pipeline.doctor.run_costs import RunCost, run_cost, stages_of_run
from pipeline.doctor.stage_cost import CorpusSize, Machines
from pipeline.scoring.cheap.method import is_bfloat16_fast
from trainers.filling import fill
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    import torch

    from trainers.task import Item

_SAMPLES = 512
_SECONDS = 10.0
# Multiples of it are spread evenly modulo 1, whatever their number.
_SPREAD = 0.618
# A task of the cluster should take at least this long.
_SPAN_SECONDS = 30.0


@dataclass(frozen=True)
class Estimate:
    """Seconds, bytes and counts of a run.

    Attributes:
        approximate: whether the number of samples is extrapolated from the first shard.
        places: scoring tasks at a time.
        score_samples_per_second: rate of one task on the device of this process, with reading.
        train_samples_per_second: rate of one device, without reading.
        budget_unit: what the size of a round is in, `samples` or `units`.
        rounds: the cost of each round.
        pool_mix: how the candidates of a round mix the shards; None without a pool.
        run_cost: requests, memory and dollars of all stages, by the model of docs/scale.md.
        is_local: whether shards and run are local files, which cost no requests.
        layout: the format and row groups that the share of a round asks for, or empty.
    """

    num_samples: int
    num_bytes: int
    approximate: bool
    places: int
    score_samples_per_second: float
    train_samples_per_second: float
    num_scored_rounds: int
    score_seconds_per_round: float
    score_seconds: float
    train_seconds: float
    read_bytes: int
    num_spans: int
    span_seconds: float
    budget_unit: str
    rounds: tuple[RoundCost, ...]
    pool_mix: PoolMix | None
    run_cost: RunCost
    is_local: bool
    layout: str

    def lines(self) -> Iterator[str]:
        """Yield the estimate as lines of text."""
        about = "about " if self.approximate else ""
        yield (
            f"corpus: {about}{self.num_samples:,} samples, {self.num_bytes / 1e9:,.3f} GB, "
            f"{self.num_spans:,} spans"
        )
        written = self.run_cost.catalog_bytes
        scoring = "no round scores"
        if self.num_scored_rounds:
            scoring = (
                f"{self.score_samples_per_second:,.0f} samples/s per task measured here; with "
                f"{self.places} tasks at a time {time_of(self.score_seconds_per_round)} per round, "
                f"{time_of(self.score_seconds)} for {self.num_scored_rounds} scored rounds"
            )
        read = f"reading {self.read_bytes / 1e9:,.3f} GB and writing {written / 1e9:,.3f} GB"
        yield f"scoring: {scoring}; {read} in all rounds"
        yield (
            f"training: {self.train_samples_per_second:,.0f} samples/s measured here; "
            f"{time_of(self.train_seconds)} on one such device; a round's size is in "
            f"{self.budget_unit}"
        )
        yield from cost_lines(self.rounds)
        if self.pool_mix is not None:
            yield (
                "pools: the mix of shards of a round's candidates differs by "
                f"{self.pool_mix.distance:.3f} from that of the corpus, of random rows by "
                f"{self.pool_mix.random:.3f}; a smaller schedule.pool.block_rows mixes better and "
                "reads more"
            )
        if self.layout:
            yield f"shards: {self.layout}"
        yield self.run_cost.line(is_local=self.is_local)
        if self.num_scored_rounds:
            yield f"a span takes {time_of(self.span_seconds)}{self._advice()}"

    def _advice(self) -> str:
        is_short = self.score_seconds_per_round < _SPAN_SECONDS
        if is_short or self.span_seconds >= _SPAN_SECONDS or self.num_spans <= self.places:
            return ""
        samples = round(self.score_samples_per_second * _SPAN_SECONDS, -2)
        return (
            f"; {_SPAN_SECONDS:.0f} s or more are better: set scoring.span_samples to about "
            f"{samples:,.0f}"
        )


def estimate(
    config: RunConfig,
    first: Shard,
    tried: Usability,
    *,
    tasks_at_a_time: int,
    prices: Prices,
) -> Estimate:
    """Score and train on up to 512 samples for about ten seconds each, and extrapolate.

    The samples are the `first_rows` of the `first` shard, of which `tried` are prepared. The
    workers, which run `tasks_at_a_time` scoring tasks, are assumed to be like this machine.
    """
    shards = shard_objects(config.corpus)
    num_bytes = sum(one.num_bytes for one in shards)
    num_samples = _num_samples(config.run, first, num_bytes)
    model = config.task.task.models(config.model).build(config.seed)
    score_rate = _score_rate(config, _scoring_model(config, model), first, tried.num_samples)
    train_rate = _train_rate(config, model, tried.items)
    scored_rate, group_rows = score_rate * max(tasks_at_a_time, 1), _group_rows(first)
    rates = Rates(num_samples, num_bytes / num_samples, scored_rate, train_rate, group_rows)
    costs = round_costs(config, _rounds(config, tried, num_samples), rates)
    scored, span_samples = [cost for cost in costs if cost.scored], config.scoring.span_samples
    machines = Machines(tasks_at_a_time, score_rate, train_rate)
    return Estimate(
        num_samples=num_samples,
        num_bytes=num_bytes,
        approximate=not has_corpus(config.run),
        places=tasks_at_a_time,
        score_samples_per_second=score_rate,
        train_samples_per_second=train_rate,
        num_scored_rounds=len(scored),
        score_seconds_per_round=max((cost.score_seconds for cost in scored), default=0.0),
        score_seconds=sum(cost.score_seconds for cost in scored),
        train_seconds=sum(cost.train_seconds for cost in costs),
        read_bytes=sum(cost.read_bytes for cost in costs),
        num_spans=max(len(shards), -(-num_samples // span_samples)),
        span_seconds=min(span_samples, num_samples / len(shards)) / score_rate,
        budget_unit=_budget_unit(config),
        rounds=tuple(costs),
        pool_mix=_pool_mix(config, first, costs, group_rows=group_rows),
        run_cost=_run_cost(config, costs, _size(rates, first, len(shards)), machines, prices),
        is_local=storage.is_local(config.run) and storage.is_local(first.uri),
        layout=_layout(config, costs, rates, first),
    )


def _layout(config: RunConfig, costs: Sequence[RoundCost], rates: Rates, first: Shard) -> str:
    if (share := smallest_share(config, costs, rates)) is None:
        return ""
    url, rows = first.uri, first.num_samples
    corpus = shard_layouts.Corpus(
        rates.sample_bytes, rows, storage.read_cost(url), storage.is_local(url)
    )
    return shard_layouts.advise(corpus, share=share)


def _rounds(config: RunConfig, tried: Usability, num_samples: int) -> list[Round]:
    return list(
        plan_rounds(
            config.schedule,
            num_samples=num_samples,
            batch_size=config.training.batch_size,
            mean_units=sum(item["num_units"] for item in tried.items) / max(1, len(tried.items)),
        )
    )


def _size(rates: Rates, first: Shard, num_shards: int) -> CorpusSize:
    return CorpusSize(
        num_shards,
        rates.num_samples,
        rates.sample_bytes,
        group_rows=rates.group_rows,
        has_members=keeps_members(first.format),
        read_cost=storage.read_cost(first.uri),
    )


def _run_cost(
    config: RunConfig,
    costs: Sequence[RoundCost],
    corpus: CorpusSize,
    machines: Machines,
    prices: Prices,
) -> RunCost:
    is_ingested = config.corpus.path is not None or has_corpus(config.run)
    stages = stages_of_run(config, costs, corpus, machines, is_ingested=is_ingested)
    return run_cost(list(stages), workers=max(1, machines.workers), prices=prices)


def _pool_mix(
    config: RunConfig, first: Shard, costs: Sequence[RoundCost], *, group_rows: int
) -> PoolMix | None:
    """Return the mix of a pool; before a corpus is ingested, rows are estimated by bytes."""
    drawn = max((cost.drawn for cost in costs if cost.phase == "teach"), default=0)
    if not drawn:
        return None
    if has_corpus(config.run):
        shard_rows = Corpus.open(config.run).shard_rows
    else:
        sizes = np.array([one.num_bytes for one in shard_objects(config.corpus)])
        shard_rows = np.maximum(1, np.rint(sizes / first.num_bytes * first.num_samples))
        shard_rows = shard_rows.astype(np.int64)
    return pool_mix(
        shard_rows,
        num_candidates=drawn,
        block_rows=block_rows_of(config, group_rows),
        seed=config.seed,
    )


def _budget_unit(config: RunConfig) -> str:
    if config.schedule.budget is not None:
        return "samples" if config.schedule.budget.units is None else "units"
    if config.selection.budget_unit is not None:
        return config.selection.budget_unit
    if config.schedule.ratio.kind == "adaptive":
        return "samples"
    url = config.corpus.path or config.run
    is_counted = config.needs_losses or (has_corpus(url) and has_units(url))
    return "units" if is_counted else "samples"


def _num_samples(run: str, first: Shard, num_bytes: int) -> int:
    """Return the samples of the run's corpus; before it is ingested by those of its first shard."""
    if has_corpus(run):
        return Corpus.open(run).num_samples
    return round(first.num_samples * num_bytes / first.num_bytes)


def _group_rows(shard: Shard) -> int:
    """Return the rows of a row group, on average; 1 where samples are read one by one."""
    try:
        groups = format_named(shard.format).row_groups(shard)
    except InputError:
        return 1
    return round(shard.num_samples / max(1, len(groups)))


def first_rows(shard: Shard) -> range:
    """Return the rows that are tried."""
    return range(min(_SAMPLES, shard.num_samples))


def inspect_first_shard(corpus: CorpusSettings, folder: str) -> tuple[Shard, tuple[str, ...]]:
    """Return the first shard with its columns; the list of a tar's members is written to `folder`.

    Raises:
        InputError: the URLs match nothing, or the shard is damaged.
        MissingError: there is no shared corpus, or a shard of it was deleted.
    """
    stored = shard_objects(corpus)[0]
    kind, members = format_of(stored.url), str(Path(folder) / "members.parquet")
    inspection = inspect_shard(stored.url, kind, members_url=members)
    shard = Shard(
        shard_id=0,
        uri=stored.url,
        format=kind,
        num_samples=inspection.num_samples,
        num_bytes=stored.num_bytes,
        etag=stored.etag,
        members_uri=members if Path(members).exists() else None,
    )
    return shard, inspection.columns


def _samples(config: RunConfig, shard: Shard) -> Iterator[tuple[int, Sample]]:
    rows = first_rows(shard)
    reading = read_shard(shard, rows=rows, columns=config.task.task.columns)
    return zip(rows, reading.samples, strict=True)


def _scoring_model(config: RunConfig, model: "torch.nn.Module") -> "torch.nn.Module":
    """Return the model that measures the losses: the proxy, or that of the run."""
    from trainers.scoring.saved_model import SavedModel

    proxy = config.scoring.proxy
    if proxy is None:
        return model
    saved = SavedModel(proxy, config.task.task)
    return saved.open(saved.digests())


def _scoring_settings(config: RunConfig) -> ScoringSettings:
    """Return the settings with the dtype that this machine would have."""
    if config.scoring.dtype is not None:
        return config.scoring
    return replace(config.scoring, dtype="bfloat16" if is_bfloat16_fast() else "float32")


def _score_rate(config: RunConfig, model: "torch.nn.Module", shard: Shard, count: int) -> float:
    """Return the samples per second of one task, with reading."""
    import torch

    from trainers.scoring.scorer import score_rows

    before = torch.get_num_threads()
    settings = _scoring_settings(config)
    torch.set_num_threads(settings.torch_threads)
    try:
        small = list(islice(_samples(config, shard), max(1, count // 8)))
        score_rows(config.task.task, model, small, settings=settings)  # warm-up
        started, scored = perf_counter(), 0
        while perf_counter() - started < _SECONDS and scored < 4 * count:
            rows = score_rows(config.task.task, model, _samples(config, shard), settings=settings)
            scored += len(rows)
        return scored / (perf_counter() - started)
    finally:
        torch.set_num_threads(before)


def _train_rate(config: RunConfig, model: "torch.nn.Module", items: "Sequence[Item]") -> float:
    """Return the samples per second of one device: forward and backward, and that of the reference
    of a token selection, without optimizer.
    """
    import torch

    from trainers.fitting.training_round import load_selector
    from trainers.task import drops_until
    from trainers.token_selection import step_losses

    task, micro_batches = config.task.task, _micro_batches(config, items)
    device = next(model.parameters()).device
    selector = load_selector(task, config.training)
    if selector is not None:
        selector.reference.to(device)
    model.train()
    started, trained = perf_counter(), 0
    for number, micro_batch in enumerate(islice(cycle(micro_batches), 4 * len(micro_batches))):
        batch = dict(task.collate(micro_batch))
        if number * _SPREAD % 1 < drops_until(task):
            batch["draw_keys"] = torch.arange(len(micro_batch))
        batch = {name: value.to(device) for name, value in batch.items()}
        losses = step_losses(task, model, batch, selector=selector).learned
        losses.mean().backward()
        losses.detach().sum().item()  # waits for the device
        trained += sum(item["num_units"] for item in micro_batch)
        if perf_counter() - started > _SECONDS:
            break
    # By units, because the longest samples come first.
    units = [item["num_units"] for item in chain(*micro_batches)]
    return float(trained / (perf_counter() - started) * len(units) / sum(units))


def _micro_batches(config: RunConfig, items: "Sequence[Item]") -> "list[list[Item]]":
    """Return the micro-batches of one device for a global batch of `items`."""
    from trainers.streaming.rank_share import RankShare

    training = config.training
    share = RankShare(
        micro_batch_size=training.micro_batch_size, micro_batch_units=training.micro_batch_units
    ).for_task(config.task.task)
    if share.micro_batch_units is None:
        return [list(items[: training.micro_batch_size or training.batch_size])]
    batch = items[: training.batch_size]
    lengths = [item["num_units"] for item in batch]
    filled = fill(lengths, units=share.micro_batch_units)
    return [[batch[position] for position in positions] for positions in filled]
