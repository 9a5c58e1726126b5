"""Adaptive pools: how many candidates a round with a budget draws, decided before the round.

The samples that a round trains on, and so the optimizer steps, are those of the schedule.

ratio: adaptive   the share of the candidates that a round takes moves by the rule of `adaptive.py`:
                  more candidates if the last round taught more per sample than the one before,
                  fewer if it taught less. It stays between half and twice its start.
multiple: auto    the multiple that the cost model recommends (`cost.py`).
"""

import numpy as np
import numpy.typing as npt

from attent_select.schedule.adaptive import Choice, Decision, Signals, explore_share, next_ratio
from attent_select.schedule.cost import ScoringCost
from attent_select.schedule.rounds import Ratio, Round, Schedule
from attent_select.stats.agreement import MIN_VALUES


def decide_pool(
    planned: Round,
    *,
    before: float | None,
    schedule: Schedule,
    num_samples: int,
    explore: float,
    signals: Signals,
    cost: ScoringCost,
    losses: npt.NDArray[np.float64],
) -> Decision:
    """Decide how many candidates the teaching round `planned` draws.

    Args:
        planned: the round as scheduled.
        before: the multiple of the last round that was decided.
        schedule: schedule of the run, with a pool.
        num_samples: size of the corpus.
        explore: exploration share of the configuration.
        signals: measurements read from the files of the run.
        cost: cost of scoring.
        losses: those of the newest scored candidates, finite, float64; none before.
    """
    pool = schedule.pool
    assert pool is not None
    before, exploration = before or pool.first_multiple, (explore, "from the configuration")
    if schedule.ratio.kind == "adaptive":
        ratio = Ratio("adaptive", 1 / pool.first_multiple)
        share, why = next_ratio(1 / before, ratio=ratio, signals=signals)
        multiple: Choice = (
            round(1 / share, 2),
            f"the share of the candidates that is taken is {why}",
        )
        exploration = explore_share(explore, signals=signals)
    else:
        multiple = _paying_multiple(losses, first=pool.first_multiple, cost=cost)
    candidates = pool.num_candidates(planned.num_samples, multiple=multiple[0])
    reasons = {
        "multiple": multiple[1],
        "ratio": "from the budget",
        "explore": exploration[1],
        "rescore": f"the {candidates:,} candidates of the round",
    }
    scored = min(1.0, candidates / num_samples)
    return Decision(planned, scored, exploration[0], reasons, signals, cost, multiple[0])


def _paying_multiple(losses: npt.NDArray[np.float64], *, first: float, cost: ScoringCost) -> Choice:
    """Return the multiple with the largest value for its cost."""
    if len(losses) < MIN_VALUES:
        return first, "the default: there are no losses of candidates yet"
    if losses.mean() <= 0:
        return first, "the default: the mean loss is not positive"
    multiple, value = cost.best_multiple(losses)
    return multiple, (
        f"the largest 1/{multiple:g} of the losses of the last candidates are {value:.2f} times"
        f" their mean, for {1 + multiple * cost.phi:.2f} times the cost of a round without scoring;"
        f" scoring a sample costs {cost.phi:.2f} of training it ({cost.source})"
    )
