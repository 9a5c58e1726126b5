"""The decision of a round, made from the files of its run and published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attent_select.errors import InputError, MissingError
from attent_select.schedule.adaptive import Decision, Signals, decide_round
from attent_select.schedule.cost import RoundSeconds, ScoringCost
from attent_select.schedule.rounds import Round
from catalogs import Corpus, LossCatalog, storage
from catalogs.layout import Layout, join
from pipeline import metrics
from pipeline.adaptive import decision_log, signals
from pipeline.config.sections import RunConfig

# PEFT writes this file beside the weights if only adapters are trained.
_ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class RunHistory:
    """What a decision is based on: the run, the rounds before, all trained, and their decisions."""

    config: RunConfig
    corpus: Corpus
    before: Sequence[Round]
    decisions: Mapping[int, Decision]


def needs_decision(config: RunConfig, round_: Round) -> bool:
    """Whether the schedule alone does not determine the round's parameters."""
    schedule, needs_losses = config.schedule, config.needs_losses
    is_partial = schedule.rescore.kind != "full" and needs_losses
    return round_.phase == "teach" and (schedule.ratio.kind == "adaptive" or is_partial)


def publish_decision(
    history: RunHistory, scheduled: Round, *, fraction: float | None = None
) -> Decision:
    """Decide the round `scheduled` and publish the decision.

    `fraction` is the share to score again if the user gave one.

    Raises:
        MissingError: a round before it is not finished.
        InputError: a share is to be scored again, and nothing was scored before.
    """
    config, before = history.config, history.before
    values = {each.number: metrics.read(config.run, each.number) or {} for each in before}
    if unfinished := [number for number, of_round in values.items() if not of_round]:
        raise MissingError(
            f"round {scheduled.number} is decided from the results of earlier rounds, and round "
            f"{unfinished[0]} is not finished: run `attent train {config.run}` first"
        )
    decision = decide_round(
        scheduled,
        before=before,
        schedule=config.schedule,
        num_samples=history.corpus.num_samples,
        batch_size=config.training.batch_size,
        explore=config.selection.resolved_composition.explore or 0.0,
        signals=_signals(history, values),
        cost=_cost(config, values),
    )
    decision = _with_share(decision, config, fraction=fraction)
    decision_log.publish(config.run, decision)
    return decision


def _signals(history: RunHistory, values: Mapping[int, Mapping[str, float]]) -> Signals:
    schedule = history.config.schedule
    if schedule.rescore.kind == "observed" and schedule.ratio.kind != "adaptive":
        return Signals()  # no rule uses them
    last = history.decisions.get(len(history.before) - 1)
    return signals.measure(
        LossCatalog(history.config.run, carry=history.config.carry_schema),
        before=history.before,
        metrics=values,
        last=last.signals if last is not None else Signals(),
    )


def _with_share(decision: Decision, config: RunConfig, *, fraction: float | None) -> Decision:
    """Replace the share to score again by the user's, or by 0 if no losses are needed."""
    number, is_scored = decision.round.number, decision.signals.is_scored
    if fraction is not None and fraction < 1 and not is_scored:
        raise InputError(
            f"round {number}: --fraction {fraction} scores a share of the corpus again, and "
            "nothing was scored before: omit --fraction"
        )
    if fraction is not None:
        share, reason = fraction, f"asked for: --fraction {fraction}"
    elif not config.needs_losses:
        share, reason = 0.0, "nothing: the selection needs no losses"
    else:
        return decision
    return replace(decision, rescore=share, reasons=decision.reasons | {"rescore": reason})


def _cost(config: RunConfig, values: Mapping[int, Mapping[str, float]]) -> ScoringCost:
    adapter = join(Layout(config.run).initial_checkpoint, _ADAPTER_FILE)
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
