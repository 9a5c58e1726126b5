"""Whether a way of choosing samples has saved time: the verdict of a report. Pure.

What is compared, when a saving counts as shown, and the sentence.

A saving is shown where, paired by seed,
    the interval of the seconds saved against all data lies above zero,
    the quality is no lower than that of all data on average, and
    the quality is above that of all data for fewer epochs at the same cost, its interval too,
    where there are such runs: whoever gets as far by stopping earlier needs no teacher.
Everything else is "no saving shown", and why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from attent_select.stats.confidence import ConfidenceInterval, paired_difference

NOT_SHOWN = "no saving shown"


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        seed: of the run; runs of different arms are paired by it.
        seconds: scoring, selecting, training.
        quality: held-out, in the metric of the verdict.
    """

    seed: int
    seconds: float
    quality: float


@dataclass(frozen=True)
class Comparison:
    """Ours against other runs, paired by seed.

    Attributes:
        seconds_saved: theirs − ours.
        share_saved: of their seconds, on average.
        quality_gained: positive where ours is better.
    """

    seconds_saved: ConfidenceInterval
    share_saved: float
    quality_gained: ConfidenceInterval


@dataclass(frozen=True)
class Verdict:
    """The sentence, whether it says that there is a saving, and the numbers behind it.

    Attributes:
        is_shown: whether a saving is shown.
        sentence: for people.
        quality: name of the metric.
        all_data: ours against all data.
        same_cost: ours against all data for fewer epochs.
        estimated_seconds_saved: where there are no runs on all data: what as many epochs on all
            data would have taken, at this run's own seconds per sample, less what this run took.
    """

    is_shown: bool
    sentence: str
    quality: str
    all_data: Comparison | None = None
    same_cost: Comparison | None = None
    estimated_seconds_saved: float | None = None


def judge(
    ours: Sequence[Outcome],
    *,
    all_data: Sequence[Outcome] = (),
    same_cost: Sequence[Outcome] = (),
    quality: str,
    higher_is_better: bool,
    estimated_seconds_saved: float | None = None,
) -> Verdict:
    """The verdict on the runs `ours`, the same settings with different seeds."""
    compared = {
        "all_data": compare(ours, all_data, higher_is_better=higher_is_better),
        "same_cost": compare(ours, same_cost, higher_is_better=higher_is_better),
    }
    against_all, control = compared["all_data"], compared["same_cost"]
    if against_all is None:
        what = "no run on all data" if not all_data else "no run on all data with the same seed"
        sentence = f"{NOT_SHOWN}: there is {what} to compare with"
        if estimated_seconds_saved is not None:
            more = "more" if estimated_seconds_saved >= 0 else "less"
            sentence += (
                f"; as many epochs on all data would take about {abs(estimated_seconds_saved):,.1f}"
                f" s {more} (estimated from this run's seconds per sample), to what quality nobody "
                "knows"
            )
        return Verdict(False, sentence, quality, None, control, estimated_seconds_saved)
    doubt = _doubt(against_all, control, quality)
    sentence = f"{NOT_SHOWN}: {doubt}" if doubt else _praise(against_all, control, quality)
    return Verdict(not doubt, sentence, quality, against_all, control)


def compare(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], *, higher_is_better: bool
) -> Comparison | None:
    """None where no seed is common to both."""

    def differences(value: Callable[[Outcome], float]) -> ConfidenceInterval | None:
        sides = ({one.seed: value(one) for one in side} for side in (ours, theirs))
        return paired_difference(*sides)

    seconds = differences(lambda one: -one.seconds)
    quality = differences(lambda one: one.quality if higher_is_better else -one.quality)
    if seconds is None or quality is None:
        return None
    seeds = {one.seed for one in ours} & {one.seed for one in theirs}
    of = fmean(one.seconds for one in theirs if one.seed in seeds)
    return Comparison(seconds, seconds.mean / of if of else 0.0, quality)


def _doubt(against_all: Comparison, control: Comparison | None, quality: str) -> str:
    """Why no saving is shown; empty where one is."""
    seconds, gained = against_all.seconds_saved, against_all.quality_gained
    if seconds.count < 2:
        return (
            f"one pair of runs tells no spread ({seconds.mean:+,.1f} s saved against all data, "
            f"{quality} better by {gained.mean:+.4f}); repeat both with other seeds"
        )
    if not seconds.is_above_zero:
        return f"against all data it saves {_seconds(seconds)}"
    if gained.mean < 0:
        return (
            f"against all data it saves {_seconds(seconds)}, and {quality} is worse: better by "
            f"{_quality(gained)}"
        )
    if control is not None and not control.quality_gained.is_above_zero:
        return (
            f"all data for fewer epochs, which costs {_seconds(control.seconds_saved)} more, is "
            f"not shown to be worse: {quality} better by {_quality(control.quality_gained)}"
        )
    return ""


def _praise(against_all: Comparison, control: Comparison | None, quality: str) -> str:
    first = (
        f"saves {_seconds(against_all.seconds_saved)} against all data "
        f"({against_all.share_saved:.0%}), {quality} better by "
        f"{_quality(against_all.quality_gained)}"
    )
    if control is None:
        return f"{first}; not compared with all data for fewer epochs at the same cost"
    return (
        f"{first}; against all data for fewer epochs it saves {_seconds(control.seconds_saved)}, "
        f"{quality} better by {_quality(control.quality_gained)}"
    )


def _seconds(found: ConfidenceInterval) -> str:
    return f"{found.mean:,.1f} s{_range(found, '+,.1f')}"


def _quality(found: ConfidenceInterval) -> str:
    return f"{found.mean:+.4f}{_range(found, '+.4f')}"


def _range(found: ConfidenceInterval, style: str) -> str:
    if found.low is None or found.high is None:
        return " (one pair)"
    return f" (95 % interval {found.low:{style}} to {found.high:{style}}, {found.count} pairs)"
