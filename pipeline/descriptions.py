"""Rounds and decisions as lines of text, for logs and the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from attent_select.schedule.adaptive import Decision
from catalogs.losses.unusable import Unusable

# The metrics of the evaluation that are shown; all of them are in the run's metrics.
_SHOWN_METRICS = (
    "target_loss",
    "corpus_loss",
    "eval_loss",
    "accuracy",
    "perplexity",
    "exact_match",
    "mean_iou",
    "rmse",
    "delta1",
)


def describe_round(round_: Mapping[str, Any]) -> str:
    """Return a line with a round's samples, metrics and seconds, and one for each of its stages
    that could not use all samples.
    """
    names = ["train_loss", *(name for name in _SHOWN_METRICS if name in round_)]
    metrics = ", ".join(f"{name} {round_[name]:.4f}" for name in names)
    seen = round_.get("units_seen", 0)
    units = f" ({seen:,.0f} units)" if seen > round_["samples_seen"] else ""
    line = (
        f"round {round_['round']} ({round_['phase']}, {round_['ratio']:.0%}): "
        f"{round_['samples_seen']:,} samples{units}, {metrics}, {round_['seconds']['total']:.1f} s"
    )
    unusable = round_.get("unusable", {})
    return "\n".join(
        [
            line,
            *(f"  unusable in {stage}: {Unusable.of(unusable[stage])}" for stage in unusable),
        ]
    )


def describe_rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return a line with the number of rounds, and their samples and seconds in all.

    Before it, a line for each stage that could not use all samples, but could in the last round.
    """
    samples = sum(each["samples_seen"] for each in rounds)
    seconds = sum(each["seconds"]["total"] for each in rounds)
    total = (
        f"{len(rounds):,} rounds are done: {samples:,} samples, {seconds:.1f} s in all; the last:"
    )
    earlier = {
        stage: f"unusable in {stage} of round {each['round']}: {Unusable.of(counts)}"
        for each in rounds[:-1]
        for stage, counts in each.get("unusable", {}).items()
        if stage not in rounds[-1].get("unusable", {})
    }
    return "\n".join([*earlier.values(), total])


def describe_decision(decision: Decision) -> str:
    """Return what was decided for a round and why, in a line each."""
    values = {
        "ratio": decision.round.ratio,
        "explore": decision.explore,
        "rescore": decision.rescore,
    }
    lines = [f"  {name} {value:.1%}: {decision.reasons[name]}" for name, value in values.items()]
    if decision.multiple is not None:
        lines.append(f"  multiple {decision.multiple:.2f}: {decision.reasons['multiple']}")
    return "\n".join([f"round {decision.round.number} was decided:", *lines])
