"""The charts of a report: small tables → Altair charts. Pure.

Here: how each table is drawn. Not here: where its numbers come from (`figures.py`).
"""

import altair as alt
import polars as pl

_WIDTH, _HEIGHT = 460, 260
_SCHEME = "viridis"


def loss_distribution(histograms: pl.DataFrame) -> alt.Chart:
    """Share of samples per loss, one line a round."""
    return (
        alt.Chart(histograms, title="Loss distribution per round", width=_WIDTH, height=_HEIGHT)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("low:Q", title="loss (nats)"),
            y=alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%")),
            color=alt.Color("round:O", scale=alt.Scale(scheme=_SCHEME)),
            tooltip=["round", "low", "high", alt.Tooltip("share", format=".2%")],
        )
    )


def ratio_and_coverage(coverage: pl.DataFrame) -> alt.LayerChart:
    """Bars: the ratio of each round. Line: what all rounds so far have touched."""
    base = alt.Chart(coverage).encode(x=alt.X("round:O", title="round"))
    bars = base.mark_bar(color="#9ecae1").encode(
        y=alt.Y("ratio:Q", title="share of the corpus", axis=alt.Axis(format="%"))
    )
    line = base.mark_line(point=True, color="#08519c").encode(
        y="covered:Q",
        tooltip=["round", alt.Tooltip("ratio", format=".1%"), alt.Tooltip("covered", format=".1%")],
    )
    return alt.layer(bars, line).properties(
        title="Ratio per round (bars) and coverage so far (line)", width=_WIDTH, height=_HEIGHT
    )


def overlap_between_rounds(overlaps: pl.DataFrame) -> alt.Chart:
    """How much the teaching subsets of two rounds have in common."""
    return (
        alt.Chart(overlaps, title="Overlap between rounds (Jaccard)", width=_WIDTH, height=_HEIGHT)
        .mark_rect()
        .encode(
            x=alt.X("first:O", title="round"),
            y=alt.Y("second:O", title="round"),
            color=alt.Color("overlap:Q", scale=alt.Scale(scheme=_SCHEME, domain=[0, 1])),
            tooltip=["first", "second", alt.Tooltip("overlap", format=".3f")],
        )
    )


def seconds_per_stage(stages: pl.DataFrame) -> alt.Chart:
    """Stacked seconds per round: `round`, `stage`, `seconds`."""
    return (
        alt.Chart(stages, title="Seconds per stage", width=_WIDTH, height=_HEIGHT)
        .mark_bar()
        .encode(
            x=alt.X("round:O", title="round"),
            y=alt.Y("seconds:Q", title="seconds", stack=True),
            color=alt.Color("stage:N", sort=["score", "select", "train", "evaluate"]),
            tooltip=["round", "stage", alt.Tooltip("seconds", format=".2f")],
        )
    )


def learning_curve(curves: pl.DataFrame, *, metric: str, against: str, title: str) -> alt.Chart:
    """`metric` of every arm over `against`; columns `arm`, `metric` and `against`."""
    return (
        alt.Chart(
            curves, title=f"{metric.replace('_', ' ')} over {title}", width=_WIDTH, height=_HEIGHT
        )
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{against}:Q", title=title),
            y=alt.Y(f"{metric}:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N"),
            tooltip=["arm", "round", alt.Tooltip(against), alt.Tooltip(metric, format=".4f")],
        )
    )
