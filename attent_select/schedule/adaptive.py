"""Adaptive rounds: ratio, exploration and rescoring share, decided before each teaching round.

Every rule is bounded and gives its reason in words. An adaptive run spends exactly the optimizer
steps that its schedule would take with the fixed ratio `start`, annealing included, so the learning
rate decays fully. A smaller ratio means shorter rounds, and more of them.

ratio     ρ′ = ρ · 2^(x/2) within [low, high], x = 1 − g/g₀ within [−1, 1]. g is the decrease of the
          mean loss per sample trained in the last round, g₀ in the round before. If g < g₀ the next
          subset is larger, if g > g₀ smaller.
explore   base + (cap − base)·(1 − max(0, A)): the less the losses observed in training agree with
          the scored ones (rank correlation A), the more rows are drawn uniformly.
rescore   the share recommended by the cost model (`cost.py`).

Without a signal the ratio stays as it is; `explore` and the rescoring share are those of the
configuration.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from attent_select.schedule.cost import ScoringCost, outdated_share
from attent_select.schedule.rescoring import Rescore
from attent_select.schedule.rounds import Ratio, Round, Schedule, plan_rounds
from attent_select.selection.select import num_samples_of

# Upper bound of the exploration share, unless the configuration sets a larger one.
MAX_EXPLORE: Final = 0.25
# Beginnings of the reasons of values that no measurement changed.
_OBSERVED: Final = "nothing: only losses observed in training are used"
_PLANNED: Final = ("from the schedule", "from the configuration", _OBSERVED)


@dataclass(frozen=True)
class Signals:
    """Measurements available before a round; None if unknown.

    Attributes:
        is_scored: whether any losses were scored.
        drift: Kolmogorov–Smirnov distance, in [0, 1], between the newest losses of rows that were
            measured twice and their previous losses. The latest value available.
        agreement: Spearman's rank correlation, in [−1, 1], between scored losses and losses
            observed afterwards, over rows that have both. The latest value available.
        covered: share of the rows observed since they were measured, in [0, 1].
        gain: decrease of the mean loss per sample trained in the last round, in nats (held-out loss
            with evaluation, otherwise the loss of the catalog).
        gain_before: the same for the round before the last.
    """

    is_scored: bool = False
    drift: float | None = None
    agreement: float | None = None
    covered: float = 0.0
    gain: float | None = None
    gain_before: float | None = None


@dataclass(frozen=True)
class Decision:
    """Parameters of the next round.

    Attributes:
        round: the round with its decided ratio and size.
        rescore: share of the corpus to score again, in [0, 1].
        explore: share of the subset to draw uniformly.
        reasons: reason for each of `ratio`, `explore`, `rescore` and, with a pool, `multiple`.
        signals: measurements that the decision is based on.
        cost: cost of scoring that the decision is based on.
        multiple: fresh candidates for each selected sample, where a pool's are decided.
    """

    round: Round
    rescore: float
    explore: float
    reasons: dict[str, str] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    cost: ScoringCost = field(default_factory=lambda: ScoringCost.of([], adapters=False))
    multiple: float | None = None

    @property
    def is_planned(self) -> bool:
        """Whether every value is that of the schedule or the configuration: nothing was chosen."""
        return all(reason.startswith(_PLANNED) for reason in self.reasons.values())


# A value and its reason.
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
    """Decide the parameters of the teaching round `planned`.

    Args:
        planned: the round as scheduled; an adaptive ratio changes it.
        before: the previous rounds, as they were run.
        schedule: schedule of the run.
        num_samples: size of the corpus.
        batch_size: global batch size.
        explore: exploration share of the configuration.
        signals: measurements read from the files of the run.
        cost: cost of scoring.
    """
    ratio: Choice = planned.ratio, "from the schedule"
    exploration: Choice = explore, "from the configuration"
    if schedule.ratio.kind == "adaptive":
        template = _next_round_template(schedule, before)
        ratio = next_ratio(template.ratio, ratio=schedule.ratio, signals=signals)
        exploration = explore_share(explore, signals=signals)
        steps_left = _teaching_steps(schedule, num_samples=num_samples, batch_size=batch_size)
        steps_left -= sum(each.num_steps for each in before)
        planned = _fit_to_budget(
            replace(template, ratio=ratio[0], first_step=planned.first_step),
            schedule=schedule,
            steps_left=steps_left,
            num_samples=num_samples,
            batch_size=batch_size,
        )
        if (planned.ratio, planned.epochs) != (ratio[0], template.epochs):
            ratio = ratio[0], f"{ratio[1]}; adjusted to the {steps_left} remaining steps"
    trained = planned.epochs * planned.ratio
    share = rescore_share(schedule.rescore, signals=signals, trained=trained, cost=cost)
    reasons = {"ratio": ratio[1], "explore": exploration[1], "rescore": share[1]}
    return Decision(planned, share[0], exploration[0], reasons, signals, cost)


def next_ratio(before: float, *, ratio: Ratio, signals: Signals) -> Choice:
    """Return the ratio after `before`; it never increases with the gain."""
    low, high = ratio.bounds
    gain, last = signals.gain, signals.gain_before
    if gain is None or last is None:
        return min(high, max(low, before)), "unchanged: there are no two rounds to compare yet"
    if gain > 0 and last > 0:
        change = max(-1.0, min(1.0, 1 - gain / last))
    else:
        change = 1.0 if gain <= 0 else -1.0
    following = min(high, max(low, before * 2 ** (change / 2)))
    direction = "larger" if following > before else "smaller" if following < before else "unchanged"
    return following, (
        f"{direction}: the last round lowered the loss by {gain:.3g} nats per sample trained, "
        f"the round before by {last:.3g}"
    )


def explore_share(base: float, *, signals: Signals) -> Choice:
    """Return the share to draw uniformly; it never increases with the agreement."""
    if signals.agreement is None:
        return base, "from the configuration: there are no losses to compare yet"
    cap = max(base, MAX_EXPLORE)
    share = base + (cap - base) * (1 - max(0.0, signals.agreement))
    return share, (
        "rank correlation of losses observed in training with scored losses: "
        f"{signals.agreement:.2f}"
    )


def rescore_share(
    rescore: Rescore, *, signals: Signals, trained: float, cost: ScoringCost
) -> Choice:
    """Return the share to score again; `trained` is the epochs of the round times its ratio."""
    if rescore.kind == "observed":
        return 0.0, _OBSERVED
    if not signals.is_scored:
        return 1.0, "everything: nothing was scored before"
    if rescore.kind != "auto":
        return rescore.planned_share, f"from the configuration: {rescore.kind}"
    if signals.drift is None:
        return (
            rescore.planned_share,
            "from the configuration: there are no two scorings to compare yet",
        )
    agreement = signals.agreement or 0.0
    outdated = outdated_share(signals.drift, agreement=agreement, covered=signals.covered)
    share = cost.best_share(outdated=outdated, trained=trained)
    epochs = cost.round_cost(trained=trained, share=share)
    return share, (
        f"the losses measured last had drifted by {signals.drift:.2f} (KS distance); training has "
        f"observed {signals.covered:.0%} of the rows since; scoring a sample costs {cost.phi:.2f} "
        f"of training it ({cost.source}); the round costs about {epochs:.2f} epochs"
    )


def plan_adaptive_rounds(
    schedule: Schedule, decided: Sequence[Round], *, num_samples: int, batch_size: int
) -> tuple[Round, ...]:
    """Return the rounds of an adaptive run: those `decided`, then the rest with an unchanged ratio.

    Their optimizer steps always add up to those of `plan_rounds`.

    Args:
        schedule: schedule with an adaptive ratio.
        decided: the first rounds of the run, finished or decided.
        num_samples: size of the corpus.
        batch_size: global batch size.
    """
    planned = plan_rounds(schedule, num_samples=num_samples, batch_size=batch_size)
    rounds = list(decided) or [each for each in planned if each.phase == "warmup"]
    if any(each.phase == "anneal" for each in rounds):
        return tuple(rounds)
    budget = _teaching_steps(schedule, num_samples=num_samples, batch_size=batch_size)
    while (steps_left := budget - sum(each.num_steps for each in rounds)) > 0:
        following = _fit_to_budget(
            _next_round_template(schedule, rounds),
            schedule=schedule,
            steps_left=steps_left,
            num_samples=num_samples,
            batch_size=batch_size,
        )
        rounds.append(following)
    rounds += [replace(e, number=len(rounds)) for e in planned if e.phase == "anneal"]
    first_steps = accumulate((each.num_steps for each in rounds), initial=0)
    return tuple(
        replace(each, first_step=first) for each, first in zip(rounds, first_steps, strict=False)
    )


def _teaching_steps(schedule: Schedule, *, num_samples: int, batch_size: int) -> int:
    """Return the budget of optimizer steps without annealing."""
    planned = plan_rounds(schedule, num_samples=num_samples, batch_size=batch_size)
    return sum(each.num_steps for each in planned if each.phase != "anneal")


def _next_round_template(schedule: Schedule, before: Sequence[Round]) -> Round:
    """Return the teaching round after `before` with the ratio of the last one, without a size."""
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


def _fit_to_budget(
    template: Round, *, schedule: Schedule, steps_left: int, num_samples: int, batch_size: int
) -> Round:
    """Return the round with a size that uses up `steps_left` or leaves enough for another round.

    If the epochs of the template do not fit, it has fewer; if one epoch does not fit, its ratio
    changes within the bounds. Only the last round may be smaller than `low`: it takes the rest.
    """
    low, high = (
        math.ceil(num_samples_of(bound, total=num_samples) / batch_size)
        for bound in schedule.ratio.bounds
    )
    m = num_samples_of(template.ratio, total=num_samples)
    steps = math.ceil(m / batch_size)
    epochs, steps_per_epoch = _fit_epochs(
        steps, epochs=template.epochs, steps_left=steps_left, low=low, high=high
    )
    ratio = template.ratio
    if steps_per_epoch != steps:
        m = min(steps_per_epoch * batch_size, num_samples)
        ratio = m / num_samples
    num_steps = epochs * steps_per_epoch
    return replace(template, ratio=ratio, num_samples=m, epochs=epochs, num_steps=num_steps)


def _fit_epochs(
    steps: int, *, epochs: int, steps_left: int, low: int, high: int
) -> tuple[int, int]:
    """Return (epochs, steps per epoch) of a round, as close as possible to `epochs` and `steps`."""
    for fewer_epochs in range(epochs, 0, -1):
        rest = steps_left - fewer_epochs * steps
        if rest == 0 or rest >= low:
            return fewer_epochs, steps
    if steps_left <= high:
        return 1, steps_left
    # Two rounds are left: this one leaves just enough for the last.
    return 1, max(low, steps_left - low)
