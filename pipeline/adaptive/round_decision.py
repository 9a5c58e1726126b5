"""The decision of a round, made from the files of its run and published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attent_select.errors import InputError, MissingError
from attent_select.schedule.adaptive import Decision, Signals, decide_round
from attent_select.schedule.adaptive_pool import decide_pool
from attent_select.schedule.cost import RoundSeconds, ScoringCost
from attent_select.schedule.rounds import Round
from catalogs import Corpus, LossCatalog, storage
from catalogs.layout import Layout, join
from pipeline import metrics
from pipeline.adaptive import decision_log, pool_signals, signals
from pipeline.config.sections import RunConfig

# PEFT writes this file beside the weights if only adapters are trained.
_ADAPTER_FILE = "adapter_config.json"

RoundMetrics = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class RunHistory:
    """What a decision is based on: the run, the rounds before, all trained, and their decisions."""

    config: RunConfig
    corpus: Corpus
    before: Sequence[Round]
    decisions: Mapping[int, Decision]

    @property
    def last_decision(self) -> Decision | None:
        """The decision of the round before, if it was decided."""
        return self.decisions.get(len(self.before) - 1)


def needs_decision(config: RunConfig, round_: Round) -> bool:
    """Whether the schedule alone does not determine the round's parameters."""
    schedule, needs_losses = config.schedule, config.needs_losses
    is_partial = schedule.rescore.kind != "full" and needs_losses
    is_open = schedule.ratio.kind == "adaptive" or schedule.decides_pools or is_partial
    return round_.phase == "teach" and is_open


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
    decide = _decide if config.pool is None else _decide_pool
    decision = decide(history, scheduled, values)
    decision = _with_share(decision, config, fraction=fraction)
    decision_log.publish(config.run, decision)
    return decision


def _decide(history: RunHistory, scheduled: Round, values: RoundMetrics) -> Decision:
    config = history.config
    return decide_round(
        scheduled,
        before=history.before,
        schedule=config.schedule,
        num_samples=history.corpus.num_samples,
        batch_size=config.training.batch_size,
        explore=config.selection.resolved_composition.explore or 0.0,
        signals=_signals(history, values),
        cost=_cost(config, values),
    )


def _decide_pool(history: RunHistory, scheduled: Round, values: RoundMetrics) -> Decision:
    config, before, last = history.config, history.before, history.last_decision
    catalog = LossCatalog(config.run, carry=config.carry_schema)
    return decide_pool(
        scheduled,
        before=None if last is None else last.multiple,
        schedule=config.schedule,
        num_samples=history.corpus.num_samples,
        explore=config.selection.resolved_composition.explore or 0.0,
        signals=pool_signals.measure_pools(
            catalog, before=before, metrics=values, last=last.signals if last else Signals()
        ),
        cost=_cost(config, values),
        losses=pool_signals.newest_losses(catalog, before=before),
    )


def _signals(history: RunHistory, values: RoundMetrics) -> Signals:
    schedule = history.config.schedule
    if schedule.rescore.kind == "observed" and schedule.ratio.kind != "adaptive":
        return Signals()  # no rule uses them
    last = history.last_decision
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


def _cost(config: RunConfig, values: RoundMetrics) -> ScoringCost:
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
