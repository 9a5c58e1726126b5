"""Summary of the trials of a regime: one row per arm with means, paired differences, and when a
quality was reached; and its Markdown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from attent_select.stats.confidence import ConfidenceInterval, paired_difference
from pipeline.reports.verdict import RunResult, judge

ALL, SHORT = "all data", "all data, fewer epochs"
# Higher is better for these metrics, lower for all others.
HIGHER = ("accuracy", "mean_iou", "pixel_accuracy", "exact_match", "probe_accuracy")

Trial = Mapping[str, Any]


def summarise(trials: Sequence[Trial], *, quality: str) -> list[dict[str, Any]]:
    """One row per arm, in the order of their first trials.

    Seconds are processor seconds of all processes, divided by the slowdown of the machine during
    the trial relative to the median (`pace.py`). Differences are paired by seed; positive is
    better. Tokens are counted where a sample has more than one unit.
    """
    arms: dict[str, dict[int, Trial]] = {}
    for trial in map(_with_annotations, at_usual_pace(trials)):
        arms.setdefault(trial["arm"], {})[trial["seed"]] = trial
    return [_row(name, arms, quality=quality) for name in arms]


def at_usual_pace(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with processor seconds scaled to the median pace."""
    usual = median(trial["pace_seconds"] for trial in trials) if trials else 1.0

    def at_median_pace(trial: Trial) -> Trial:
        factor = usual / trial["pace_seconds"]
        seconds = {stage: value * factor for stage, value in trial["cpu_seconds"].items()}
        rounds = [p | {"cpu_seconds": p["cpu_seconds"] * factor} for p in trial["rounds"]]
        return {**trial, "cpu_seconds": seconds, "rounds": rounds}

    return [at_median_pace(trial) for trial in trials]


def _with_annotations(trial: Trial) -> Trial:
    """Return a trial that pays for the annotations it uses, as for scoring."""
    costs = trial["cpu_seconds"]
    once = sum(trial.get("once", {}).values())
    return {**trial, "cpu_seconds": {**costs, "score": costs["score"] + once}}


def _row(name: str, arms: Mapping[str, Mapping[int, Trial]], *, quality: str) -> dict[str, Any]:
    mine = arms[name]
    costs = {stage: _mean(t["cpu_seconds"][stage] for t in mine.values()) for stage in _STAGES}
    wall = {stage: _mean(t["wall_seconds"][stage] for t in mine.values()) for stage in _WALL}
    row: dict[str, Any] = {
        "arm": name,
        "seeds": len(mine),
        "samples_seen": _mean(t["samples_seen"] for t in mine.values()),
        "samples_scored": _mean(t["samples_scored"] for t in mine.values()),
        "cpu_seconds": costs | {"total": sum(costs.values())},
        "wall_seconds": wall,
        "overhead": (costs["score"] + costs["select"]) / costs["train"],
        "final": {
            m: asdict(ConfidenceInterval.of([t["final"][m] for t in mine.values()]))
            for m in _metrics(mine)
        },
    }
    if all("units_seen" in t and t["units_seen"] != t["samples_seen"] for t in mine.values()):
        row["tokens_seen"] = _mean(t["units_seen"] for t in mine.values())
    outcomes = {other: _outcomes(arms.get(other, {}), quality) for other in (name, ALL, SHORT)}
    for other in (ALL, SHORT):
        if other != name and other in arms:
            row[f"against {other}"] = {
                "seconds_saved": _plain(
                    paired_difference(*(_seconds(outcomes[o]) for o in (other, name)))
                ),
                **{
                    metric: _plain(_gain(mine, arms[other], metric))
                    for metric in dict.fromkeys((quality, "eval_loss"))
                },
            }
    row["seconds_to_all_data_quality"] = _time_to_quality(mine, arms.get(ALL, {}), quality=quality)
    if name not in (ALL, SHORT) and ALL in arms:
        row["verdict"] = judge(
            outcomes[name],
            all_data=outcomes[ALL],
            same_cost=outcomes[SHORT],
            quality=quality.replace("_", " "),
            higher_is_better=quality in HIGHER,
        ).sentence
    return row


_STAGES = ("score", "select", "train")
_WALL = (*_STAGES, "read")


def _mean(values: Any) -> float:
    return fmean(list(values))


def _metrics(mine: Mapping[int, Trial]) -> list[str]:
    return list(next(iter(mine.values()))["final"])


def _outcomes(arm: Mapping[int, Trial], quality: str) -> list[RunResult]:
    return [
        RunResult(seed, sum(trial["cpu_seconds"].values()), trial["final"][quality])
        for seed, trial in arm.items()
    ]


def _seconds(outcomes: Sequence[RunResult]) -> dict[int, float]:
    return {one.seed: one.seconds for one in outcomes}


def _gain(
    mine: Mapping[int, Trial], theirs: Mapping[int, Trial], metric: str
) -> ConfidenceInterval | None:
    sign = 1 if metric in HIGHER else -1
    sides = ({s: sign * t["final"][metric] for s, t in arm.items()} for arm in (mine, theirs))
    return paired_difference(*sides)


def _time_to_quality(
    mine: Mapping[int, Trial], full: Mapping[int, Trial], *, quality: str
) -> dict[str, Any]:
    """Number of seeds that reached the final quality of all data on the small held-out set that is
    evaluated after each round, and the mean seconds until then.
    """
    seconds_of_seeds = [
        seconds
        for seed, trial in mine.items()
        if seed in full and (goal := _last(full[seed], quality)) is not None
        if (seconds := first_reaching(trial["rounds"], goal, quality=quality)) is not None
    ]
    return {
        "of_seeds": len(seconds_of_seeds),
        "seconds": fmean(seconds_of_seeds) if seconds_of_seeds else None,
    }


def _last(trial: Trial, quality: str) -> float | None:
    return trial["rounds"][-1].get(quality) if trial["rounds"] else None


def first_reaching(
    rounds: Sequence[Mapping[str, float]], goal: float, *, quality: str
) -> float | None:
    """Seconds until `goal`, linearly interpolated between rounds; None if it was not reached."""
    sign = 1 if quality in HIGHER else -1
    before: Mapping[str, float] | None = None
    for point in rounds:
        if quality not in point:
            return None
        if sign * point[quality] >= sign * goal:
            if before is None:
                return point["cpu_seconds"]
            step = (goal - before[quality]) / (point[quality] - before[quality])
            return before["cpu_seconds"] + step * (point["cpu_seconds"] - before["cpu_seconds"])
        before = point
    return None


def markdown(rows: Sequence[Mapping[str, Any]], *, quality: str) -> str:
    """Format the rows as a Markdown table."""
    has_tokens = any("tokens_seen" in row for row in rows)
    titles = ["arm", "samples seen", *(["tokens seen"] if has_tokens else [])]
    titles += ["score", "select", "train", "CPU s", "overhead"]
    titles += [quality.replace("_", " "), "held-out loss", "CPU s saved"]
    titles += [f"{quality.replace('_', ' ')} against all data", "against fewer epochs", "reached"]
    lines = [f"| {' | '.join(titles)} |", "| --- |" + " ---: |" * (len(titles) - 1)]
    for row in rows:
        costs = row["cpu_seconds"]
        cells = [row["arm"], f"{row['samples_seen']:,.0f}"]
        if has_tokens:
            cells.append(f"{row['tokens_seen']:,.0f}" if "tokens_seen" in row else "")
        cells += [f"{costs[stage]:.1f}" for stage in (*_STAGES, "total")]
        cells += [f"{row['overhead']:.1%}"]
        cells += [_around(row["final"][metric]) for metric in (quality, "eval_loss")]
        for other, key, style in (
            (ALL, "seconds_saved", ".1f"),
            (ALL, quality, "+.4f"),
            (SHORT, quality, "+.4f"),
        ):
            cells.append(_between(row.get(f"against {other}", {}).get(key), style))
        reached = row["seconds_to_all_data_quality"]
        seconds = "" if reached["seconds"] is None else f"{reached['seconds']:.0f} s, "
        cells.append(f"{seconds}{reached['of_seeds']}/{row['seeds']}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _around(interval: Mapping[str, Any]) -> str:
    half = "" if interval["low"] is None else f" ± {interval['high'] - interval['mean']:.4f}"
    return f"{interval['mean']:.4f}{half}"


def _between(interval: Mapping[str, Any] | None, style: str) -> str:
    if interval is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:{style}}"
    return f"{interval['mean']:{style}} ({interval['low']:{style}} to {interval['high']:{style}})"


def _plain(interval: ConfidenceInterval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)
