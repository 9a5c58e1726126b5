"""Figures of a regime: quality against cost, and quality during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from learning_arms.summary import ALL, SHORT

_WIDTH, _HEIGHT = 440, 330


def draw(
    trials: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    quality: str,
    title: str,
    path: Path,
) -> None:
    """Write the PNG."""
    sides = [_pareto(rows, metric=metric) for metric in dict.fromkeys((quality, "eval_loss"))]
    if any(quality in point for trial in trials for point in trial["rounds"]):
        sides.append(_curves(trials, quality=quality))
    chart = alt.hconcat(*sides, title=title).resolve_scale(color="shared")
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path), scale_factor=1.5)


def _pareto(rows: Sequence[Mapping[str, Any]], *, metric: str) -> alt.LayerChart:
    table = pl.DataFrame(
        {
            "arm": [row["arm"] for row in rows],
            "seconds": [row["cpu_seconds"]["total"] for row in rows],
            **{
                name: [row["final"][metric][name] for row in rows]
                for name in ("mean", "low", "high")
            },
        }
    )
    name = metric.replace("_", " ")
    base = alt.Chart(table).encode(
        x=alt.X("seconds:Q", title="CPU seconds, everything counted"),
        color=alt.Color("arm:N", sort=None),
    )
    y = alt.Y("mean:Q", title=f"{name}, 95 % interval", scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=90).encode(y=y)
    bars = base.mark_rule().encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    # Stopping earlier: selection is not worth its cost for an arm below this line.
    line = alt.Chart(table.filter(pl.col("arm").is_in([ALL, SHORT])))
    stopping = line.mark_line(strokeDash=[4, 4], color="#888").encode(x="seconds:Q", y="mean:Q")
    return alt.layer(stopping, bars, points).properties(
        title=f"{name} against cost", width=_WIDTH, height=_HEIGHT
    )


def _curves(trials: Sequence[Mapping[str, Any]], *, quality: str) -> alt.Chart:
    points = [
        {"arm": trial["arm"], "round": number, "seconds": point["cpu_seconds"], "y": point[quality]}
        for trial in trials
        for number, point in enumerate(trial["rounds"])
        if quality in point
    ]
    means = (
        pl.DataFrame(points)
        .group_by("arm", "round", maintain_order=True)
        .agg(pl.col("seconds").mean(), pl.col("y").mean())
    )
    name = quality.replace("_", " ")
    return (
        alt.Chart(means, title=f"{name} in the course of it", width=_WIDTH, height=_HEIGHT)
        .mark_line(point=True)
        .encode(
            x=alt.X("seconds:Q", title="CPU seconds so far"),
            y=alt.Y("y:Q", title=f"{name} on a small held-out set", scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", sort=None),
        )
    )
