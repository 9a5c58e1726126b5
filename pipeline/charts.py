"""Charts of a report: small tables → Altair charts. Pure."""

from typing import Any, TypeAlias

import altair as alt
import polars as pl

# The methods of altair's charts return Any or unions of chart classes.
Chart: TypeAlias = Any

_WIDTH, _HEIGHT = 460, 260
_COLORS = alt.Scale(scheme="viridis")


def loss_distribution(histograms: pl.DataFrame) -> Chart:
    """Draw the share of samples per loss, one line per round."""
    return (
        alt.Chart(histograms, title="Loss distribution per round", width=_WIDTH, height=_HEIGHT)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("low:Q", title="loss (nats)"),
            y=alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%")),
            color=alt.Color("round:O", scale=_COLORS),
            tooltip=["round", "low", "high", alt.Tooltip("share", format=".2%")],
        )
    )


def annotation_distribution(table: pl.DataFrame, *, name: str, round_number: int) -> Chart:
    """Draw the share of samples per value of an annotation: of the corpus and of a selection."""
    kind = "Q" if table["value"].dtype.is_numeric() else "N"
    base = alt.Chart(
        table,
        title=f"{name}: selected in round {round_number}, and the corpus",
        width=_WIDTH,
        height=_HEIGHT,
    )
    mark = base.mark_line(interpolate="step-after") if kind == "Q" else base.mark_bar()
    share = alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%"), stack=False)
    chart: Chart = mark.encode(
        x=alt.X(f"value:{kind}", title=name),
        y=share,
        color=alt.Color("group:N", title=None),
        tooltip=["group", "value", alt.Tooltip("share", format=".2%")],
        **({} if kind == "Q" else {"xOffset": "group:N"}),
    )
    return chart


def ratio_and_coverage(coverage: pl.DataFrame) -> Chart:
    """Draw the ratio of each round as bars, and the share that rounds so far covered as a line."""
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


def overlap_between_rounds(overlaps: pl.DataFrame) -> Chart:
    """Draw the overlap of the teaching subsets of any two rounds."""
    return (
        alt.Chart(overlaps, title="Overlap between rounds (Jaccard)", width=_WIDTH, height=_HEIGHT)
        .mark_rect()
        .encode(
            x=alt.X("first:O", title="round"),
            y=alt.Y("second:O", title="round"),
            color=alt.Color("overlap:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
            tooltip=["first", "second", alt.Tooltip("overlap", format=".3f")],
        )
    )


def seconds_per_stage(stages: pl.DataFrame) -> Chart:
    """Draw stacked seconds per round from `round`, `stage`, `seconds`."""
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


def kernels(table: pl.DataFrame) -> Chart:
    """Draw the drift and the spectrum of the kernels of one kind."""
    chart: Chart = alt.hconcat(kernel_drift(table), kernel_spectrum(table)).resolve_scale(
        color="independent"
    )
    return chart


def kernel_drift(table: pl.DataFrame) -> Chart:
    """Draw the drift of each group's kernel since the previous checkpoint.

    The dashed line is the error of the sketch: drift below it is not resolved.
    """
    moved = table.drop("eigenvalues").filter(pl.col("drift").is_not_null())
    base = alt.Chart(moved).encode(x=alt.X("step:Q", title="optimizer step"))
    lines = base.mark_line(point=True).encode(
        y=alt.Y("drift:Q", title="‖K_t − K_{t−1}‖ / ‖K_t‖", scale=alt.Scale(type="log")),
        color=alt.Color("group:N", sort=None),
        tooltip=["checkpoint", "group", alt.Tooltip("drift", format=".4g"), "resolved"],
    )
    sketched = moved.filter((pl.col("group") == "all") & (pl.col("error") > 0))
    errors = (
        alt.Chart(sketched)
        .mark_line(strokeDash=[4, 4], color="black")
        .encode(x="step:Q", y="error:Q")
    )
    return alt.layer(lines, errors).properties(
        title=f"Drift of the kernel ({_kind(table)})", width=_WIDTH, height=_HEIGHT
    )


def kernel_spectrum(table: pl.DataFrame) -> Chart:
    """Draw the largest eigenvalues of the kernel of all parameters at each checkpoint."""
    whole = table.filter(pl.col("group") == "all").select(
        "checkpoint", "eigenvalues", number=pl.lit(list(range(1, 11)))
    )
    long = whole.with_columns(pl.col("number").list.head(pl.col("eigenvalues").list.len()))
    # The axis is logarithmic.
    long = long.explode("eigenvalues", "number").filter(pl.col("eigenvalues") > 0)
    return (
        alt.Chart(
            long, title=f"Spectrum of the kernel ({_kind(table)})", width=_WIDTH, height=_HEIGHT
        )
        .mark_line(point=True)
        .encode(
            x=alt.X("number:O", title="eigenvalue"),
            y=alt.Y("eigenvalues:Q", title=None, scale=alt.Scale(type="log")),
            color=alt.Color("checkpoint:O", sort=None, scale=_COLORS),
            tooltip=["checkpoint", "number", alt.Tooltip("eigenvalues", format=".4g")],
        )
    )


def _kind(table: pl.DataFrame) -> str:
    return str(table["kind"][0])


def learning_curve(curves: pl.DataFrame, *, metric: str, against: str, title: str) -> Chart:
    """Draw `metric` of every arm over `against`: columns of `curves`, beside `arm` and `round`."""
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
