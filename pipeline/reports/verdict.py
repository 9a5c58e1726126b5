"""Verdict of a report: whether selection saved time. Pure.

A saving is shown if, paired by seed,
    the confidence interval of the seconds saved against all data lies above zero,
    the mean quality is not lower than that of all data, and
    the confidence interval of the quality gained over all data for fewer epochs at the same cost
    lies above zero, where there are such runs: if stopping earlier reaches the same quality,
    selection is not worth its cost.
Otherwise the verdict is "No saving shown", with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from attent_select.stats.confidence import ConfidenceInterval, paired_difference

NOT_SHOWN = "No saving shown"
_HOW_TO_MEASURE = (
    "To measure it: `attent run CONFIG --set run=OTHER --set selection='{strategy: uniform}' --set "
    "schedule.ratio='{kind: fixed, start: 1.0}'`, then `attent report RUN --all-data OTHER`."
)

_HOW_TO_REPEAT = (
    "Repeat both `attent run` with `--set seed=1` and other folders, then `attent report RUN "
    "--repeat RUN1 --all-data OTHER --all-data OTHER1`"
)


@dataclass(frozen=True)
class RunResult:
    """Cost and quality of a finished run.

    Attributes:
        seed: seed of the run; runs of different arms are paired by it.
        seconds: seconds of scoring, selection and training.
        quality: metric of the verdict on held-out data.
    """

    seed: int
    seconds: float
    quality: float


@dataclass(frozen=True)
class Comparison:
    """Our runs compared with others, paired by seed.

    Attributes:
        seconds_saved: their seconds − ours.
        share_saved: mean share of their seconds that is saved.
        quality_gained: positive if ours is better.
    """

    seconds_saved: ConfidenceInterval
    share_saved: float
    quality_gained: ConfidenceInterval


@dataclass(frozen=True)
class Verdict:
    """Whether a saving is shown, and the numbers behind it.

    Attributes:
        is_shown: whether a saving is shown.
        sentence: the verdict for people.
        quality: name of the metric.
        all_data: our runs compared with runs on all data.
        same_cost: our runs compared with runs on all data for fewer epochs.
        estimated_seconds_saved: without runs on all data: the seconds that the same number of
            epochs on all data would take, at this run's seconds per sample, less this run's.
    """

    is_shown: bool
    sentence: str
    quality: str
    all_data: Comparison | None = None
    same_cost: Comparison | None = None
    estimated_seconds_saved: float | None = None

    @property
    def details(self) -> str:
        """What `sentence` says beyond `plain`."""
        if self.all_data is None:
            return self.sentence.partition(". ")[2]
        return f"In numbers: {self.sentence}"

    @property
    def plain(self) -> str:
        """The verdict in one plain sentence, without confidence intervals."""
        if self.all_data is None:
            return f"{self.sentence.partition('. ')[0].removesuffix('.')}."
        seconds, gained = self.all_data.seconds_saved, self.all_data.quality_gained
        took = f"took {abs(seconds.mean):,.1f} s {'less' if seconds.mean >= 0 else 'more'}"
        side = "better" if gained.mean >= 0 else "worse"
        facts = f"{took} than all data, with {self.quality} {side} by {abs(gained.mean):.4f}"
        if self.is_shown:
            share = f"{self.all_data.share_saved:.0%}"
            return f"Selection saved {share} of the time: it {facts}."
        if seconds.count < 2:
            why = "one pair of runs cannot tell this from chance"
        elif not seconds.is_above_zero:
            why = "this is not a saving that can be told from chance"
        elif gained.mean < 0:
            why = "that is not the same quality"
        else:
            why = "all data for fewer epochs is not shown to be worse at that cost"
        return f"{NOT_SHOWN}: selection {facts}; {why}."


def judge(
    ours: Sequence[RunResult],
    *,
    all_data: Sequence[RunResult] = (),
    same_cost: Sequence[RunResult] = (),
    quality: str,
    higher_is_better: bool,
    estimated_seconds_saved: float | None = None,
) -> Verdict:
    """Return the verdict on the runs `ours`, which have the same settings and different seeds."""
    compared = {
        "all_data": compare(ours, all_data, higher_is_better=higher_is_better),
        "same_cost": compare(ours, same_cost, higher_is_better=higher_is_better),
    }
    against_all, control = compared["all_data"], compared["same_cost"]
    if against_all is None:
        which = "no run on all data" if not all_data else "no run on all data with the same seed"
        sentence = f"{NOT_SHOWN}: there is {which} to compare with."
        if estimated_seconds_saved is not None:
            more = "more" if estimated_seconds_saved >= 0 else "less"
            sentence += (
                f" Training on all data is estimated to take {abs(estimated_seconds_saved):,.1f} s "
                f"{more}; its quality was not measured."
            )
        if not all_data:
            sentence += f" {_HOW_TO_MEASURE}"
        return Verdict(False, sentence, quality, None, control, estimated_seconds_saved)
    reason = _reason_against(against_all, control, quality)
    sentence = f"{NOT_SHOWN}: {reason}." if reason else _saving(against_all, control, quality)
    return Verdict(not reason, sentence, quality, against_all, control)


def compare(
    ours: Sequence[RunResult], theirs: Sequence[RunResult], *, higher_is_better: bool
) -> Comparison | None:
    """Return our runs compared with theirs, or None if they have no seed in common."""

    def differences(value: Callable[[RunResult], float]) -> ConfidenceInterval | None:
        sides = ({one.seed: value(one) for one in side} for side in (ours, theirs))
        return paired_difference(*sides)

    seconds = differences(lambda one: -one.seconds)
    quality = differences(lambda one: one.quality if higher_is_better else -one.quality)
    if seconds is None or quality is None:
        return None
    seeds = {one.seed for one in ours} & {one.seed for one in theirs}
    total = fmean(one.seconds for one in theirs if one.seed in seeds)
    return Comparison(seconds, seconds.mean / total if total else 0.0, quality)


def _reason_against(against_all: Comparison, control: Comparison | None, quality: str) -> str:
    """Return why no saving is shown, or an empty text if one is."""
    seconds, gained = against_all.seconds_saved, against_all.quality_gained
    if seconds.count < 2:
        side = "better" if gained.mean >= 0 else "worse"
        return (
            f"one pair of runs gives no confidence interval ({seconds.mean:+,.1f} s saved against "
            f"all data, {quality} {side} by {abs(gained.mean):.4f}). {_HOW_TO_REPEAT}"
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


def _saving(against_all: Comparison, control: Comparison | None, quality: str) -> str:
    first = (
        f"Saves {_seconds(against_all.seconds_saved)} against all data "
        f"({against_all.share_saved:.0%}), {quality} better by "
        f"{_quality(against_all.quality_gained)}"
    )
    if control is None:
        return f"{first}; not compared with all data for fewer epochs at the same cost."
    return (
        f"{first}; against all data for fewer epochs it saves {_seconds(control.seconds_saved)}, "
        f"{quality} better by {_quality(control.quality_gained)}."
    )


def _seconds(interval: ConfidenceInterval) -> str:
    return f"{interval.mean:,.1f} s{_range(interval, '+,.1f')}"


def _quality(interval: ConfidenceInterval) -> str:
    return f"{interval.mean:+.4f}{_range(interval, '+.4f')}"


def _range(interval: ConfidenceInterval, style: str) -> str:
    if interval.low is None or interval.high is None:
        return " (one pair)"
    bounds = f"{interval.low:{style}} to {interval.high:{style}}"
    return f" (95 % confidence interval {bounds}, {interval.count} pairs)"
