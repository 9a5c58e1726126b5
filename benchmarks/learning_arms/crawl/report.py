"""Table and figure of `crawl`: each policy against the curve of uniform runs of the same seed.

Those of `sft_noisy`, too, where what is called the target says which weights are trained.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import altair as alt
import polars as pl

from attent_select.stats.confidence import ConfidenceInterval
from attent_select.stats.equivalence import MultipleInterval, equivalent_multiple
from learning_arms.crawl import law
from learning_arms.crawl.arms import BETWEEN, target_of
from learning_arms.crawl.pool import REST, TARGETS
from learning_arms.summary import at_usual_pace

Trial = Mapping[str, Any]

_ORDINARY: Final = "{}"
# Runs that share what is paid once.
_SHARED: Final = 10
# The policies of the picture on the first page.
_CLAIM: Final = tuple(
    f"broad{BETWEEN}{name}" for name in ("n-grams top 10", "deduplicated", "AtteNT", "oracle: ")
)
# Seven, beside ten colours: many policies differ in one or the other.
_SHAPES: Final = (
    *("circle", "square", "triangle-up", "diamond", "cross"),
    *("triangle-down", "triangle-right"),
)
# Labels of a logarithmic axis that have room.
_ONE_TWO_FIVE: Final = "test(/^[125]0*$/, '' + datum.value) ? datum.label : ''"
_TITLES: Final = (
    "arm",
    "seeds",
    "tokens",
    "score, select",
    "train",
    "once",
    "loss of the target",
    "loss of the rest",
    "equals uniform at, tokens",
    "cost saved, all counted",
    f"shared by {_SHARED} runs",
)


def metric_of(target: str) -> str:
    """Return the name of a target's loss; `eval_loss` is that of the broad one."""
    has_metric = target in TARGETS and target != "broad"
    return f"{target}_loss" if has_metric else "eval_loss"


def uniform_arms(arms: Iterable[str], target: str) -> list[str]:
    """Return the uniform runs that a target is compared with: `TARGET uniform …`, or the others."""
    uniform = [arm for arm in arms if target_of(arm) is None]
    return [arm for arm in uniform if arm.startswith(f"{target} ")] or [
        arm for arm in uniform if arm.startswith("uniform")
    ]


def summarise(trials: Sequence[Trial], *, by_token: bool) -> list[dict[str, Any]]:
    """Return one row per arm: costs, losses, and the multiples of uniform training.

    Args:
        trials: trials of any arms and seeds.
        by_token: charge training by the token (`at_token_price`); otherwise seconds are processor
            seconds at the usual pace, as in `summary.summarise`.
    """
    arms: dict[str, list[Trial]] = {}
    for trial in at_token_price(trials) if by_token else at_usual_pace(trials):
        arms.setdefault(trial["arm"], []).append(trial)
    return [_row(name, arms) for name in arms]


def at_token_price(trials: Sequence[Trial]) -> list[Trial]:
    """Charge the training of every trial by the token, and all else as on the first machine.

    The price is that of all trials with the same kind of update, in processor seconds. Those of a
    single trial say more about the hour, on a machine that is shared, than about the arm: packed
    samples of similar length take the same time, whichever arm chose them. Seconds of a machine
    without a trial with ordinary updates remain as they are.
    """
    ordinary = [trial for trial in trials if _update_of(trial) == _ORDINARY]
    prices = _prices(ordinary, by=_machine_of)
    first = next(iter(prices.values()), 1.0)

    def as_on_first(trial: Trial) -> Trial:
        factor = first / prices.get(_machine_of(trial), first)
        scaled = {
            part: {name: value * factor for name, value in trial[part].items()}
            for part in ("cpu_seconds", "once")
        }
        return {**trial, **scaled}

    on_first = [as_on_first(trial) for trial in trials]
    by_update = _prices(on_first, by=_update_of)
    return [
        {
            **trial,
            "cpu_seconds": trial["cpu_seconds"]
            | {"train": trial["units_seen"] * by_update[_update_of(trial)]},
        }
        for trial in on_first
    ]


def _prices(trials: Sequence[Trial], *, by: Callable[[Trial], str]) -> dict[str, float]:
    """Return the seconds of training a token, over all trials of a kind."""
    seconds: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for trial in trials:
        seconds[by(trial)] += trial["cpu_seconds"]["train"]
        tokens[by(trial)] += trial["units_seen"]
    return {kind: seconds[kind] / tokens[kind] for kind in seconds}


def _machine_of(trial: Trial) -> str:
    return str(trial.get("machine", ""))


def _update_of(trial: Trial) -> str:
    """Return what the arm changes about the updates of all others, as JSON."""
    return json.dumps(trial["sections"].get("training", {}), sort_keys=True)


def _row(name: str, arms: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    target, mine = target_of(name), arms[name]
    metrics = map(metric_of, [target] if target else TARGETS)
    row: dict[str, Any] = {
        "arm": name,
        "seeds": len(mine),
        "units_seen": fmean(trial["units_seen"] for trial in mine),
        "cpu_seconds": {
            stage: fmean(trial["cpu_seconds"][stage] for trial in mine)
            for stage in ("score", "select", "train")
        },
        "once": max(sum(trial["once"].values()) for trial in mine),
        "losses": {
            metric: asdict(ConfidenceInterval.of([trial["final"][metric] for trial in mine]))
            for metric in [*metrics, f"{REST}_loss"]
            if metric in mine[0]["final"]
        },
    }
    if target is None:
        return row
    uniform = [trial for arm in uniform_arms(arms, target) for trial in arms[arm]]
    row["tokens_multiple"] = multiple_of(mine, uniform, target, cost=lambda t: t["units_seen"])
    for runs in (1, _SHARED):
        cost = _seconds_of(runs)
        row[f"seconds_multiple_{runs}"] = multiple_of(mine, uniform, target, cost=cost)
    return row


def _seconds_of(runs: int) -> Any:
    return lambda trial: sum(trial["cpu_seconds"].values()) + sum(trial["once"].values()) / runs


def multiple_of(
    mine: Sequence[Trial], uniform: Sequence[Trial], target: str, *, cost: Any
) -> dict[str, Any] | None:
    """Return the interval of the multiples, over seeds with at least two uniform runs."""
    metric, multiples = metric_of(target), []
    for trial in mine:
        curve = {cost(u): u["final"][metric] for u in uniform if u["seed"] == trial["seed"]}
        if len(curve) > 1:
            loss = trial["final"][metric]
            multiples.append(equivalent_multiple(curve, cost=cost(trial), loss=loss))
    return asdict(MultipleInterval.of(multiples)) if multiples else None


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as a Markdown table."""
    lines = [f"| {' | '.join(_TITLES)} |", "| --- |" + " ---: |" * (len(_TITLES) - 1)]
    for row in rows:
        seconds, losses = row["cpu_seconds"], row["losses"]
        target = target_of(row["arm"]) or "broad"
        cells = [row["arm"], str(row["seeds"]), f"{row['units_seen']:,.0f}"]
        cells += [f"{seconds['score'] + seconds['select']:.1f}", f"{seconds['train']:.1f}"]
        cells += [f"{row['once']:.1f}", _around(losses[metric_of(target)])]
        cells += [_around(losses[f"{REST}_loss"]), _multiple_cell(row.get("tokens_multiple"))]
        cells += [_saved_cell(row.get(f"seconds_multiple_{runs}")) for runs in (1, _SHARED)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def law_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the table of the law of enrichment."""
    return law.markdown(rows, cell=_multiple_cell)


def _around(interval: Mapping[str, Any]) -> str:
    half = "" if interval["low"] is None else f" ± {interval['high'] - interval['mean']:.3f}"
    return f"{interval['mean']:.3f}{half}"


def _bound(multiple: Mapping[str, Any]) -> str:
    return "≥ " if multiple["is_at_least"] else "≤ " if multiple["is_at_most"] else ""


def _multiple_cell(multiple: Mapping[str, Any] | None) -> str:
    if multiple is None:
        return ""
    low, high = multiple["low"], multiple["high"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{_bound(multiple)}{multiple['mean']:.2f} ×{interval}"


def _saved_cell(multiple: Mapping[str, Any] | None) -> str:
    """Return the share of the cost that is saved, 1 − 1/k."""
    if multiple is None:
        return ""
    mean, low, high = (
        None if value is None else 1 - 1 / value
        for value in (multiple["mean"], multiple["low"], multiple["high"])
    )
    interval = "" if low is None else f" ({low:.0%} to {high:.0%})"
    return f"{_bound(multiple)}{mean:.0%}{interval}"


def draw(rows: Sequence[Mapping[str, Any]], *, path: Path) -> None:
    """Write the PNG: the loss of each target against the cost of uniform runs and of policies."""
    targets = dict.fromkeys(target for row in rows if (target := target_of(row["arm"])))
    panels = [_panel(rows, target) for target in targets]
    chart = alt.hconcat(*panels).resolve_scale(color="independent", shape="independent")
    chart.save(str(path), scale_factor=1.5)


def draw_claim(rows: Sequence[Mapping[str, Any]], *, path: Path) -> None:
    """Write the PNG of the first page: the broad target and the best-known policies."""
    shown = [row for row in rows if row["arm"].startswith(("uniform", *_CLAIM))]
    title = "Held-out loss of what is wanted, against the cost of training"
    chart = _panel(shown, "broad", title=title, width=520, height=280)
    chart.configure_axis(labelFontSize=12, titleFontSize=12).save(str(path), scale_factor=1.5)


def _panel(
    rows: Sequence[Mapping[str, Any]],
    target: str,
    *,
    title: str | None = None,
    width: int = 360,
    height: int = 300,
) -> alt.LayerChart:
    shown = uniform_arms((row["arm"] for row in rows), target)
    table = pl.DataFrame(
        [
            {
                "arm": "uniform"
                if target_of(row["arm"]) is None
                else row["arm"].partition(BETWEEN)[2],
                "seconds": sum(row["cpu_seconds"].values()) + row["once"],
                "loss": row["losses"][metric_of(target)]["mean"],
            }
            for row in rows
            if row["arm"] in shown or target_of(row["arm"]) == target
        ]
    )
    base = alt.Chart(table, title=title or f"target: {target}", width=width, height=height).encode(
        x=alt.X("seconds:Q", title="processor seconds, all counted")
        .scale(type="log", nice=False, padding=20)
        .axis(labelExpr=_ONE_TWO_FIVE),
        y=alt.Y("loss:Q", title="held-out loss of the target, nats a token").scale(zero=False),
    )
    curve = base.transform_filter("datum.arm === 'uniform'").mark_line(point=True, color="#888")
    policies = base.transform_filter("datum.arm !== 'uniform'").mark_point(filled=True, size=110)
    named = policies.encode(
        color=alt.Color("arm:N", sort=None, title="policy"),
        shape=alt.Shape("arm:N", sort=None, title="policy").scale(range=_SHAPES),
    )
    return alt.layer(curve, named)
