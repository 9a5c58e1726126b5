"""Makes the decision of a round from what a run's files show, and writes it down.

Finding out what the pure rules need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attent_select.errors import InputError, MissingError
from attent_select.schedule.adaptive import Decision, Signals, decide_round
from attent_select.schedule.cost import RoundSeconds, ScoringCost
from attent_select.schedule.rounds import Round
from catalogs import Corpus, LossCatalog, storage
from catalogs.layout import Layout, join
from pipeline import metrics
from pipeline.adaptive import decision_log, signals
from pipeline.config.sections import RunConfig

# What PEFT leaves beside the weights: only adapters are trained.
_ADAPTER = "adapter_config.json"


def is_decided(config: RunConfig, round_: Round) -> bool:
    """Whether a round is decided before it begins, and not by the plan alone."""
    schedule, needs_losses = config.schedule, config.selection.needs_losses
    is_cheap = schedule.rescore.kind != "full" and needs_losses
    return round_.phase == "teach" and (schedule.ratio.kind == "adaptive" or is_cheap)


def make(
    config: RunConfig,
    planned: Round,
    *,
    before: Sequence[Round],
    corpus: Corpus,
    made: Mapping[int, Decision],
    fraction: float | None = None,
) -> Decision:
    """Decides the round `planned` and publishes the decision.

    Args:
        config: of the run.
        planned: as the plan has it.
        before: the rounds before it, all trained.
        corpus: of the run.
        made: the decisions before.
        fraction: the share to score again that somebody asked for.

    Raises:
        MissingError: a round before it is not finished.
        InputError: a part is to be scored again, and nothing was scored before.
    """
    values = {each.number: metrics.read(config.run, each.number) or {} for each in before}
    if unfinished := [number for number, of_round in values.items() if not of_round]:
        raise MissingError(
            f"round {planned.number} is decided by what the rounds before it show, and round "
            f"{unfinished[0]} is not finished: run `attent train {config.run}` first"
        )
    last = made.get(len(before) - 1)
    if config.schedule.rescore.kind == "observed" and config.schedule.ratio.kind != "adaptive":
        found = Signals()  # nobody asks
    else:
        found = signals.measure(
            LossCatalog(config.run, carry=config.scoring.carry_schema),
            before=before,
            metrics=values,
            last=last.signals if last is not None else Signals(),
        )
    decision = decide_round(
        planned,
        before=before,
        schedule=config.schedule,
        num_samples=corpus.num_samples,
        batch_size=config.training.batch_size,
        explore=config.selection.composition.explore,
        signals=found,
        cost=_cost(config, values),
    )
    decision = _with_share(decision, config, fraction=fraction)
    decision_log.publish(config.run, decision)
    return decision


def _with_share(decision: Decision, config: RunConfig, *, fraction: float | None) -> Decision:
    """With the share to score again that somebody asked for, or that nobody needs."""
    number, is_scored = decision.round.number, decision.signals.is_scored
    if fraction is not None and fraction < 1 and not is_scored:
        raise InputError(
            f"round {number}: --fraction {fraction} measures a part of the corpus again, and "
            "nothing was scored before it: leave it out"
        )
    if fraction is not None:
        share, reason = fraction, f"asked for: --fraction {fraction}"
    elif not config.selection.needs_losses:
        share, reason = 0.0, "nothing: the selection asks for no losses"
    else:
        return decision
    return replace(decision, rescore=share, reasons=decision.reasons | {"rescore": reason})


def _cost(config: RunConfig, values: Mapping[int, Mapping[str, float]]) -> ScoringCost:
    adapter = join(Layout(config.run).initial_checkpoint, _ADAPTER)
    return ScoringCost.of(
        (
            RoundSeconds(
                scored=of_round.get("samples_scored", 0.0),
                score_seconds=of_round.get("score_seconds", 0.0),
                trained=of_round.get("samples_seen", 0.0),
                train_seconds=of_round.get("train_seconds", 0.0),
            )
            for of_round in values.values()
        ),
        adapters=storage.info(adapter) is not None,
    )
