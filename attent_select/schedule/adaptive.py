"""Decides before a teaching round: how many samples, how many at random, how much to re-score.

Pure rules, each bounded and with its reason in words, and the rounds that follow from what was
decided.

An adaptive run spends exactly the optimizer steps that its schedule would take with the fixed
ratio `start`, annealing included, so that the learning rate decays fully over them. A smaller
ratio means shorter rounds, and more of them.

ratio     ρ′ = ρ · 2^(x/2) within [low, high], x = 1 − g/g₀ within [−1, 1]: g is the fall of the
          mean loss per sample trained in the last round, g₀ in the round before. Where a subset
          teaches less than the last one did, the next is wider; where it teaches more, narrower.
explore   base + (cap − base)·(1 − max(0, A)): the less the losses observed in training agree with
          the scored ones (rank correlation A), the more is drawn at random.
rescore   what the cost model finds worthwhile (`cost.py`).

Without a signal the ratio stays, `explore` is the configuration's, and so is the share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from attent_select.schedule.cost import ScoringCost, need
from attent_select.schedule.rescoring import Rescore
from attent_select.schedule.rounds import Ratio, Round, Schedule, plan_rounds
from attent_select.selection.select import num_samples_of

# The most that is drawn at random, unless the configuration asks for more.
MAX_EXPLORE: Final = 0.25


@dataclass(frozen=True)
class Signals:
    """What is known before a round; None where nothing can be said.

    Attributes:
        is_scored: whether there are losses at all.
        drift: how far the losses of the rows that were measured last had moved since the time
            before: Kolmogorov–Smirnov distance, in [0, 1]. The newest that could be measured.
        agreement: between losses scored and losses observed afterwards, of the rows that have
            both: Spearman's rank correlation, in [−1, 1]. The newest that could be measured.
        covered: share of the rows observed since they were measured, in [0, 1].
        gain: fall of the mean loss per sample trained in the last round (nats; held-out loss where
            there is evaluation, else that of the catalog).
        gain_before: the same, before the round before that was decided.
    """

    is_scored: bool = False
    drift: float | None = None
    agreement: float | None = None
    covered: float = 0.0
    gain: float | None = None
    gain_before: float | None = None


@dataclass(frozen=True)
class Decision:
    """What a round will do; `reasons` are of `ratio`, `explore` and `rescore`.

    `rescore` is the share of the corpus to measure again, 1 all of it.
    """

    round: Round
    rescore: float
    explore: float
    reasons: dict[str, str] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    cost: ScoringCost = field(default_factory=lambda: ScoringCost.of([], adapters=False))


# A value and why.
Choice = tuple[float, str]


def decide_round(
    planned: Round,
    *,
    before: Sequence[Round],
    schedule: Schedule,
    num_samples: int,
    batch_size: int,
    explore: float,
    signals: Signals,
    cost: ScoringCost,
) -> Decision:
    """What the teaching round `planned` will do.

    Args:
        planned: as the plan has it; an adaptive ratio makes another of it.
        before: the rounds before it, as they were.
        schedule: of the run.
        num_samples: of the corpus.
        batch_size: global.
        explore: the configuration's share.
        signals: what the files of the run show.
        cost: of scoring.
    """
    ratio: Choice = planned.ratio, "the schedule's"
    exploring: Choice = explore, "the configuration's"
    if schedule.ratio.kind == "adaptive":
        wished = _wished(schedule, before)
        ratio = next_ratio(wished.ratio, ratio=schedule.ratio, signals=signals)
        exploring = explore_share(explore, signals=signals)
        left = _to_teach(schedule, num_samples=num_samples, batch_size=batch_size)
        left -= sum(each.num_steps for each in before)
        planned = _fitted(
            replace(wished, ratio=ratio[0], first_step=planned.first_step),
            schedule=schedule,
            left=left,
            num_samples=num_samples,
            batch_size=batch_size,
        )
        if (planned.ratio, planned.epochs) != (ratio[0], wished.epochs):
            ratio = ratio[0], f"{ratio[1]}; then fitted into the {left} steps that are left"
    trained = planned.epochs * planned.ratio
    share = rescore_share(schedule.rescore, signals=signals, trained=trained, cost=cost)
    reasons = {"ratio": ratio[1], "explore": exploring[1], "rescore": share[1]}
    return Decision(planned, share[0], exploring[0], reasons, signals, cost)


def next_ratio(before: float, *, ratio: Ratio, signals: Signals) -> Choice:
    """The ratio after `before`: a larger gain never makes it larger."""
    low, high = ratio.bounds
    gain, last = signals.gain, signals.gain_before
    if gain is None or last is None:
        return min(high, max(low, before)), "as before: no two rounds to compare yet"
    if gain > 0 and last > 0:
        change = max(-1.0, min(1.0, 1 - gain / last))
    else:
        change = 1.0 if gain <= 0 else -1.0
    found = min(high, max(low, before * 2 ** (change / 2)))
    what = "wider" if found > before else "narrower" if found < before else "kept"
    return found, (
        f"{what}: the last round lowered the loss by {gain:.3g} nats per sample trained, the one "
        f"before by {last:.3g}"
    )


def explore_share(base: float, *, signals: Signals) -> Choice:
    """The share drawn at random: more agreement never makes it larger."""
    if signals.agreement is None:
        return base, "the configuration's: no losses to compare yet"
    cap = max(base, MAX_EXPLORE)
    share = base + (cap - base) * (1 - max(0.0, signals.agreement))
    return share, (
        f"losses observed in training agree with the scored ones to {signals.agreement:.2f} "
        "(rank correlation)"
    )


def rescore_share(
    rescore: Rescore, *, signals: Signals, trained: float, cost: ScoringCost
) -> Choice:
    """The share to measure again; `trained` is the round's epochs times its ratio."""
    if rescore.kind == "observed":
        return 0.0, "nothing: what training observed is all that is asked for"
    if not signals.is_scored:
        return 1.0, "all: nothing was scored before"
    if rescore.kind != "auto":
        return rescore.planned_share, f"the configuration's: {rescore.kind}"
    if signals.drift is None:
        return rescore.planned_share, "the configuration's: no two scorings to compare yet"
    agreement = signals.agreement or 0.0
    lacking = need(signals.drift, agreement=agreement, covered=signals.covered)
    share = cost.worthwhile(need=lacking, trained=trained)
    epochs = cost.round_cost(trained=trained, share=share)
    return share, (
        f"the losses measured last had moved by {signals.drift:.2f} (KS distance); training has "
        f"observed {signals.covered:.0%} of the rows since; scoring a sample costs {cost.phi:.2f} "
        f"of training it ({cost.source}), so the round about {epochs:.2f} epochs"
    )


def plan_adaptive_rounds(
    schedule: Schedule, decided: Sequence[Round], *, num_samples: int, batch_size: int
) -> tuple[Round, ...]:
    """The rounds of an adaptive run: those `decided`, then the rest as it would be without change.

    Their steps always add up to those of `plan`.

    Args:
        schedule: with an adaptive ratio.
        decided: the first rounds of the run, as they were or will be.
        num_samples: of the corpus.
        batch_size: global.
    """
    planned = plan_rounds(schedule, num_samples=num_samples, batch_size=batch_size)
    rounds = list(decided) or [each for each in planned if each.phase == "warmup"]
    if any(each.phase == "anneal" for each in rounds):
        return tuple(rounds)
    to_teach = _to_teach(schedule, num_samples=num_samples, batch_size=batch_size)
    while (left := to_teach - sum(each.num_steps for each in rounds)) > 0:
        following = _fitted(
            _wished(schedule, rounds),
            schedule=schedule,
            left=left,
            num_samples=num_samples,
            batch_size=batch_size,
        )
        rounds.append(following)
    rounds += [replace(e, number=len(rounds)) for e in planned if e.phase == "anneal"]
    first_steps = accumulate((each.num_steps for each in rounds), initial=0)
    return tuple(
        replace(each, first_step=first) for each, first in zip(rounds, first_steps, strict=False)
    )


def _to_teach(schedule: Schedule, *, num_samples: int, batch_size: int) -> int:
    """The budget of steps but for annealing."""
    planned = plan_rounds(schedule, num_samples=num_samples, batch_size=batch_size)
    return sum(each.num_steps for each in planned if each.phase != "anneal")


def _wished(schedule: Schedule, before: Sequence[Round]) -> Round:
    """The teaching round after `before`, with the ratio of the last one; still without a size."""
    ratios = [each.ratio for each in before if each.phase == "teach"]
    lengths = schedule.interval.fill(schedule.teach_epochs)
    return Round(
        number=len(before),
        phase="teach",
        ratio=ratios[-1] if ratios else schedule.ratio.start,
        num_samples=0,
        epochs=lengths[min(len(ratios), len(lengths) - 1)],
        first_step=0,
        num_steps=0,
    )


def _fitted(
    wished: Round, *, schedule: Schedule, left: int, num_samples: int, batch_size: int
) -> Round:
    """The round with its size, so that after it `left` steps are spent, or enough for another.

    It has fewer epochs where the wished ones do not fit, and another ratio, still within the
    bounds, where even one epoch does not. Only the last round may be smaller than `low`: it takes
    what is left.
    """
    low, high = (
        math.ceil(num_samples_of(bound, total=num_samples) / batch_size)
        for bound in schedule.ratio.bounds
    )
    m = num_samples_of(wished.ratio, total=num_samples)
    steps = math.ceil(m / batch_size)
    epochs, fitting = _fit(steps, epochs=wished.epochs, left=left, low=low, high=high)
    ratio = wished.ratio
    if fitting != steps:
        m = min(fitting * batch_size, num_samples)
        ratio = m / num_samples
    return replace(wished, ratio=ratio, num_samples=m, epochs=epochs, num_steps=epochs * fitting)


def _fit(steps: int, *, epochs: int, left: int, low: int, high: int) -> tuple[int, int]:
    """(epochs, steps of each) of a round, near to what was wished for."""
    for passes in range(epochs, 0, -1):
        rest = left - passes * steps
        if rest == 0 or rest >= low:
            return passes, steps
    if left <= high:
        return 1, left
    # Two rounds are left: this one leaves just enough for the last.
    return 1, max(low, left - low)
