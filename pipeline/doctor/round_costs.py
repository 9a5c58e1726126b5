"""Costs of the rounds of a run: what each draws, scores, trains on and reads, and its seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np

from attent_select.schedule.budget import Pool
from attent_select.schedule.candidate_walk import CandidateWalk, Numbers, Place
from attent_select.schedule.rounds import Round
from attent_select.stats.permutation import permute
from pipeline.config.sections import RunConfig

_MAX_MIXED: Final = 1 << 20


@dataclass(frozen=True)
class Rates:
    """What a run is measured by: its corpus, and the rates of this machine.

    Attributes:
        num_samples: of the corpus.
        sample_bytes: of a sample, on average.
        scored_per_second: samples, of all tasks at a time.
        trained_per_second: samples.
        group_rows: rows that are read as a whole: those of a row group, 1 for Lance and tar files.
    """

    num_samples: int
    sample_bytes: float
    scored_per_second: float
    trained_per_second: float
    group_rows: int = 1


@dataclass(frozen=True)
class RoundCost:
    """The cost of one round.

    `drawn` are the fresh candidates of a round with a budget, else 0. `read_share` is `read_bytes`
    as a share of the corpus, which is read once for scoring (`scored_bytes`) and once for each
    epoch.
    """

    number: int
    phase: str
    drawn: int
    scored: int
    trained: int
    read_bytes: int
    read_share: float
    score_seconds: float
    train_seconds: float
    epochs: int = 1
    scored_bytes: int = 0

    @property
    def seconds(self) -> float:
        return self.score_seconds + self.train_seconds


@dataclass(frozen=True)
class PoolMix:
    """Total variation distance, in [0, 1], between the shards of candidates and of all rows.

    `random` is that of as many random rows.
    """

    distance: float
    random: float


def round_costs(config: RunConfig, rounds: Sequence[Round], rates: Rates) -> list[RoundCost]:
    """Return the cost of every round.

    Reading counts the samples that are scored and trained on; of drawn ones with all rows of their
    row groups.
    """
    first = next((each.number for each in rounds if each.phase == "teach"), None)
    return [
        _cost(config, each, rates, scored_share=_scored_share(config, each, first=first))
        for each in rounds
    ]


def cost_lines(costs: Sequence[RoundCost]) -> Iterator[str]:
    """Yield one line for each sequence of rounds that cost the same."""
    for _, same in groupby(costs, key=lambda cost: (cost.phase, cost.scored, cost.trained)):
        group = list(same)
        first, last, cost = group[0].number, group[-1].number, group[0]
        name = f"round {first}" if first == last else f"rounds {first} to {last}, each"
        drawn = f"draws {cost.drawn:,}, " if cost.drawn else ""
        read = f"{size_of(cost.read_bytes)} ({cost.read_share:.2%} of the corpus)"
        yield (
            f"{name} ({cost.phase}): {drawn}scores {cost.scored:,}, trains on {cost.trained:,} "
            f"samples, reads {read}, {time_of(cost.seconds)}"
        )


def smallest_share(config: RunConfig, costs: Sequence[RoundCost], rates: Rates) -> float | None:
    """Return the smallest share of the rows that a round selects one by one; None without one."""
    shares = [
        cost.trained / cost.epochs / (cost.drawn or rates.num_samples)
        for cost in costs
        if cost.phase == "teach" and config.selection.granularity == "sample"
    ]
    return min(shares) if shares and min(shares) < 1 else None


def size_of(num_bytes: float) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if (value := num_bytes / size) >= 1:
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{num_bytes:,.0f} bytes"


def count_of(number: int, name: str) -> str:
    """Return a number of things for people."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def time_of(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _scored_share(config: RunConfig, round_: Round, *, first: int | None) -> float:
    """Return the share of the candidates that a round scores, as long as losses say nothing else;
    `first` is the first teaching round.
    """
    if round_.phase != "teach" or not config.needs_losses:
        return 0.0
    rescore = config.schedule.rescore
    is_new = round_.number == first and rescore.kind != "observed"
    return 1.0 if is_new or config.pool is not None else rescore.planned_share


def _cost(config: RunConfig, round_: Round, rates: Rates, *, scored_share: float) -> RoundCost:
    pool, drawn = config.pool, 0
    if config.schedule.budget is not None and (pool is not None or round_.phase != "teach"):
        chooses = pool is not None and round_.phase == "teach"
        drawn = pool.num_candidates(round_.num_samples) if chooses and pool else round_.num_samples
    scored = round(scored_share * (drawn or rates.num_samples))
    trained = round_.num_samples * round_.epochs
    num_read: float = scored + trained
    read_to_score: float = scored
    if drawn:
        chosen = min(round_.num_samples / drawn, 1.0)
        once, again = read_shares(
            drawn / rates.num_samples,
            chosen=chosen,
            block_rows=block_rows_of(config, rates.group_rows),
            group_rows=rates.group_rows,
        )
        read_to_score = rates.num_samples * bool(scored) * once
        num_read = read_to_score + rates.num_samples * round_.epochs * again
    return RoundCost(
        number=round_.number,
        phase=round_.phase,
        drawn=drawn,
        scored=scored,
        trained=trained,
        read_bytes=round(rates.sample_bytes * num_read),
        read_share=num_read / rates.num_samples,
        score_seconds=scored / rates.scored_per_second,
        train_seconds=trained / rates.trained_per_second,
        epochs=round_.epochs,
        scored_bytes=round(rates.sample_bytes * read_to_score),
    )


def block_rows_of(config: RunConfig, group_rows: int) -> int:
    """Return the rows that are drawn together; of row groups their mean, `group_rows`."""
    block_rows = (config.pool or Pool()).block_rows
    return group_rows if block_rows == "row_group" else block_rows


def pool_mix(shard_rows: Numbers, *, num_candidates: int, block_rows: int, seed: int) -> PoolMix:
    """Return how the first pool of the walk mixes the shards, as `attent stream` measures batches.

    A large pool is measured by its first million candidates.
    """
    total = int(shard_rows.sum())
    count = min(num_candidates, total, _MAX_MIXED)
    walk = CandidateWalk(shard_rows, block_rows, seed)
    drawn = walk.draw(count, start=Place()).shards
    random_rows = permute(np.arange(count), size=total, key=seed)
    random = np.searchsorted(np.cumsum(shard_rows), random_rows, side="right")
    counts = (np.bincount(shards, minlength=len(shard_rows)) for shards in (drawn, random))
    return PoolMix(*(float(np.abs(n / count - shard_rows / total).sum() / 2) for n in counts))


def read_shares(
    drawn: float, *, chosen: float, block_rows: int, group_rows: int
) -> tuple[float, float]:
    """Return the shares of the corpus that are read to score drawn rows, and to train on some.

    A row group is read as a whole if one of its blocks is drawn, and again if one of its rows is
    chosen. Blocks are drawn at random, and chosen rows are taken to be random ones.

    Args:
        drawn: share of the corpus that is drawn.
        chosen: share of the drawn rows that is trained on.
        block_rows: rows that are drawn together.
        group_rows: rows that are read together.
    """
    drawn = min(drawn, 1.0)
    touched = 1 - (1 - drawn) ** max(1.0, group_rows / block_rows)
    drawn_rows = drawn * group_rows / touched  # of a row group that is read
    return touched, touched * (1 - (1 - chosen) ** max(1.0, drawn_rows))
