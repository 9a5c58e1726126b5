"""Estimate of a run's cost: time some samples on this machine, multiply by the round schedule.

Nothing is written into the run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attent_select.errors import InputError
from attent_select.schedule.rounds import Round, plan_rounds
from catalogs import Corpus, storage
from catalogs.annotations.columns import has_units
from catalogs.corpus import has_corpus
from catalogs.shard_format import Shard
from catalogs.shards import format_named, keeps_members
from pipeline.config.sections import RunConfig
from pipeline.corpus import shard_layouts
from pipeline.corpus.ingest import shard_objects
from pipeline.corpus.usability import Usability
from pipeline.doctor import measured_rates
from pipeline.doctor.evaluation_cost import evaluated_samples
from pipeline.doctor.prices import Prices
from pipeline.doctor.round_costs import (
    PoolMix,
    Rates,
    RoundCost,
    block_rows_of,
    cost_lines,
    count_of,
    pool_mix,
    round_costs,
    size_of,
    smallest_share,
    time_of,
)
from pipeline.doctor.run_costs import RunCost, run_cost, stages_of_run
from pipeline.doctor.scale_constants import ROUND_SECONDS, START_SECONDS
from pipeline.doctor.stage_cost import CorpusSize, Machines

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
        evaluated_samples: held-out samples and those of the target, after every round.
        evaluate_seconds: of all rounds, at the rate of one scoring task.
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
    evaluated_samples: int
    evaluate_seconds: float
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
            f"corpus: {about}{self.num_samples:,} samples, {size_of(self.num_bytes)}, "
            f"{count_of(self.num_spans, 'span')}"
        )
        yield self._scoring_line()
        yield (
            f"training: {self.train_samples_per_second:,.0f} samples/s measured here; "
            f"{time_of(self.train_seconds)} on one device like this one; a round's size is in "
            f"{self.budget_unit}"
        )
        if self.evaluated_samples:
            yield (
                f"evaluation: about {self.evaluated_samples:,} samples after every round, "
                f"{time_of(self.evaluate_seconds)} in all rounds"
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
        fixed = len(self.rounds) * ROUND_SECONDS
        total = self.score_seconds + self.train_seconds + self.evaluate_seconds + fixed
        yield (
            f"in all: {time_of(total)}, with {ROUND_SECONDS} s a round around the model, and about "
            f"{START_SECONDS} s to start"
        )
        if self.num_scored_rounds:
            yield f"a span takes {time_of(self.span_seconds)}{self._advice()}"

    def _scoring_line(self) -> str:
        written = self.run_cost.catalog_bytes
        scoring = "no round scores"
        if self.num_scored_rounds:
            scoring = (
                f"{self.score_samples_per_second:,.0f} samples/s per task measured here; with "
                f"{self.places} tasks at a time {time_of(self.score_seconds_per_round)} per round, "
                f"{time_of(self.score_seconds)} for {self.num_scored_rounds} scored rounds"
            )
        read = f"reading {size_of(self.read_bytes)} and writing {size_of(written)}"
        return f"scoring: {scoring}; {read} in all rounds"

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
    config: RunConfig, first: Shard, tried: Usability, *, tasks_at_a_time: int, prices: Prices
) -> Estimate:
    """Score and train on up to 512 samples for about ten seconds each, and extrapolate.

    The samples are the `first_rows` of the `first` shard, of which `tried` are prepared. The
    workers, which run `tasks_at_a_time` scoring tasks, are assumed to be like this machine.
    """
    shards = shard_objects(config.corpus)
    num_bytes = sum(one.num_bytes for one in shards)
    num_samples = _num_samples(config.run, first, num_bytes)
    model = config.task.task.models(config.model).build(config.seed)
    score_rate = measured_rates.score_rate(config, model, first, tried.num_samples)
    train_rate = measured_rates.train_rate(config, model, tried.items)
    scored_rate, group_rows = score_rate * max(tasks_at_a_time, 1), _group_rows(first)
    rates = Rates(num_samples, num_bytes / num_samples, scored_rate, train_rate, group_rows)
    costs = round_costs(config, _rounds(config, tried, num_samples), rates)
    scored, span_samples = [cost for cost in costs if cost.scored], config.scoring.span_samples
    evaluated = evaluated_samples(config)
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
        evaluated_samples=evaluated,
        evaluate_seconds=len(costs) * evaluated / score_rate,
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
    current = shard_layouts.current_amplification(
        corpus, share=share, shard_format=first.format, group_rows=rates.group_rows
    )
    return shard_layouts.advise(corpus, share=share, current=current)


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
