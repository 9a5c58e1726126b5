"""Costs of the rounds of a run: what each draws, scores, trains on and reads, and its seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from attent_select.schedule.rounds import Round
from pipeline.config.sections import RunConfig


@dataclass(frozen=True)
class Rates:
    """What a run is measured by: its corpus, and the rates of this machine.

    Attributes:
        num_samples: of the corpus.
        sample_bytes: of a sample, on average.
        scored_per_second: samples, of all tasks at a time.
        trained_per_second: samples.
    """

    num_samples: int
    sample_bytes: float
    scored_per_second: float
    trained_per_second: float


@dataclass(frozen=True)
class RoundCost:
    """The cost of one round. `drawn` are the fresh candidates of a round with a budget, else 0."""

    number: int
    phase: str
    drawn: int
    scored: int
    trained: int
    read_bytes: int
    score_seconds: float
    train_seconds: float

    @property
    def seconds(self) -> float:
        return self.score_seconds + self.train_seconds


def round_costs(config: RunConfig, rounds: Sequence[Round], rates: Rates) -> list[RoundCost]:
    """Return the cost of every round; reading counts the samples that are scored and trained on."""
    return [_cost(config, each, rates) for each in rounds]


def cost_lines(costs: Sequence[RoundCost]) -> Iterator[str]:
    """Yield one line for each sequence of rounds that cost the same."""
    for _, same in groupby(costs, key=lambda cost: (cost.phase, cost.scored, cost.trained)):
        group = list(same)
        first, last, cost = group[0].number, group[-1].number, group[0]
        name = f"round {first}" if first == last else f"rounds {first} to {last}, each"
        drawn = f"draws {cost.drawn:,}, " if cost.drawn else ""
        yield (
            f"{name} ({cost.phase}): {drawn}scores {cost.scored:,}, trains on {cost.trained:,} "
            f"samples, reads {cost.read_bytes / 1e9:,.3f} GB, {time_of(cost.seconds)}"
        )


def time_of(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _cost(config: RunConfig, round_: Round, rates: Rates) -> RoundCost:
    is_scored = round_.phase == "teach" and config.needs_losses
    pool, drawn = config.pool, 0
    if config.schedule.budget is not None and (pool is not None or round_.phase != "teach"):
        chooses = pool is not None and round_.phase == "teach"
        drawn = pool.num_candidates(round_.num_samples) if chooses and pool else round_.num_samples
    scored = (drawn or rates.num_samples) if is_scored else 0
    trained = round_.num_samples * round_.epochs
    return RoundCost(
        number=round_.number,
        phase=round_.phase,
        drawn=drawn,
        scored=scored,
        trained=trained,
        read_bytes=round(rates.sample_bytes * (scored + trained)),
        score_seconds=scored / rates.scored_per_second,
        train_seconds=trained / rates.trained_per_second,
    )
