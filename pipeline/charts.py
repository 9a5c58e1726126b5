"""Charts of a report: small tables → Altair charts. Pure."""

from typing import Any, TypeAlias

import altair as alt
import polars as pl

# The methods of altair's charts return Any or unions of chart classes.
Chart: TypeAlias = Any

_WIDTH, _HEIGHT = 460, 260
# Colours that can be read on white and on black.
_COLORS = alt.Scale(scheme=alt.SchemeParams(name="viridis", extent=[0.2, 0.85]))
_CATEGORIES = alt.Scale(range=["#3b7dd8", "#d97706", "#2a9d6f", "#b4538a", "#7c6bd6", "#8a8f98"])
_GROUPS = alt.Scale(domain=["corpus", "selected"], range=["#8a8f98", "#d97706"])
# Pixels of a legend's symbol and the space around an entry; a legend fits into a narrow page.
_ENTRY_SPACE, _LEGEND_WIDTH = 30, 340
# The width includes the axes and the legend, so that neither is cut off.
_FIT = alt.AutoSizeParams(type="fit-x", contains="padding")


def _size(chart: Chart, *, title: str) -> Chart:
    """Return the chart with its title and size."""
    shown = alt.TitleParams(text=title, anchor="start", limit=_WIDTH - 20)
    return chart.properties(title=shown, width=_WIDTH, height=_HEIGHT, autosize=_FIT)


def _legend(columns: int) -> alt.Legend:
    """Return a legend below the chart, whose labels are shortened to what fits."""
    return alt.Legend(
        orient="bottom",
        columns=columns,
        labelLimit=_LEGEND_WIDTH // columns - _ENTRY_SPACE,
        titleLimit=_LEGEND_WIDTH,
        symbolLimit=0,
    )


def _rounds(name: str = "round") -> alt.X:
    axis = alt.Axis(labelOverlap=True, labelAngle=0)
    return alt.X(f"{name}:O", title="round", axis=axis)


def loss_distribution(histograms: pl.DataFrame) -> Chart:
    """Draw the share of samples per loss, one line per round."""
    chart = (
        alt.Chart(histograms)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("low:Q", title="loss (nats)"),
            y=alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%")),
            color=alt.Color("round:O", scale=_COLORS, legend=_legend(6)),
            tooltip=["round", "low", "high", alt.Tooltip("share", format=".2%")],
        )
    )
    return _size(chart, title="Loss distribution per round")


def annotation_distribution(table: pl.DataFrame, *, name: str, round_number: int) -> Chart:
    """Draw the share of samples per value of an annotation: of the corpus and of a selection."""
    is_number = table["value"].dtype.is_numeric()
    share = alt.Axis(format="%")
    common = {
        "color": alt.Color("group:N", title=None, scale=_GROUPS, legend=_legend(2)),
        "tooltip": ["group", "value", alt.Tooltip("share", format=".2%")],
    }
    if is_number:
        chart = (
            alt.Chart(table)
            .mark_line(interpolate="step-after")
            .encode(
                x=alt.X("value:Q", title=name),
                y=alt.Y("share:Q", title="share of samples", axis=share, stack=False),
                **common,
            )
        )
    else:
        chart = (
            alt.Chart(table)
            .mark_bar()
            .encode(
                x=alt.X("share:Q", title="share of samples", axis=share, stack=False),
                y=alt.Y("value:N", title=None, sort="-x", axis=alt.Axis(labelLimit=140)),
                yOffset="group:N",
                **common,
            )
        )
    return _size(chart, title=f"{name}: selected in round {round_number}, and the corpus")


def ratio_and_coverage(coverage: pl.DataFrame) -> Chart:
    """Draw the ratio of each round as bars, and the share that rounds so far covered as a line."""
    base = alt.Chart(coverage).encode(x=_rounds())
    bars = base.mark_bar(color="#8fb4e6").encode(
        y=alt.Y("ratio:Q", title="share of the corpus", axis=alt.Axis(format="%"))
    )
    line = base.mark_line(point=alt.OverlayMarkDef(color="#d97706"), color="#d97706").encode(
        y="covered:Q",
        tooltip=["round", alt.Tooltip("ratio", format=".1%"), alt.Tooltip("covered", format=".1%")],
    )
    return _size(alt.layer(bars, line), title="Ratio per round (bars) and coverage so far (line)")


def overlap_between_rounds(overlaps: pl.DataFrame) -> Chart:
    """Draw the overlap of the teaching subsets of any two rounds."""
    legend = alt.Legend(orient="bottom", gradientLength=240, format=".0%", title=None)
    chart = (
        alt.Chart(overlaps)
        .mark_rect()
        .encode(
            x=_rounds("first"),
            y=alt.Y("second:O", title="round", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "overlap:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=legend
            ),
            tooltip=["first", "second", alt.Tooltip("overlap", format=".3f")],
        )
    )
    return _size(chart, title="Overlap between rounds (Jaccard)")


def seconds_per_stage(stages: pl.DataFrame) -> Chart:
    """Draw stacked seconds per round from `round`, `stage`, `seconds`."""
    names = ["score", "select", "train", "evaluate"]
    chart = (
        alt.Chart(stages)
        .mark_bar()
        .encode(
            x=_rounds(),
            y=alt.Y("seconds:Q", title="seconds", stack=True),
            color=alt.Color("stage:N", sort=names, scale=_CATEGORIES, legend=_legend(4)),
            tooltip=["round", "stage", alt.Tooltip("seconds", format=".2f")],
        )
    )
    return _size(chart, title="Seconds per stage")


def kernels(table: pl.DataFrame) -> Chart:
    """Draw the drift and the spectrum of the kernels of one kind."""
    both = [kernel_drift(table), kernel_spectrum(table)]
    for each in both:
        each.autosize = alt.Undefined  # charts side by side have only one, of all
    chart: Chart = alt.hconcat(*both).resolve_scale(color="independent")
    return chart


def kernel_drift(table: pl.DataFrame) -> Chart:
    """Draw the drift of each group's kernel since the previous checkpoint.

    The dashed line is the error of the sketch: drift below it is not resolved.
    """
    moved = table.drop("eigenvalues").filter(pl.col("drift").is_not_null())
    base = alt.Chart(moved).encode(x=alt.X("step:Q", title="optimizer step"))
    lines = base.mark_line(point=True).encode(
        y=alt.Y("drift:Q", title="‖K_t − K_{t−1}‖ / ‖K_t‖", scale=alt.Scale(type="log")),
        color=alt.Color("group:N", sort=None, legend=_legend(2)),
        tooltip=["checkpoint", "group", alt.Tooltip("drift", format=".4g"), "resolved"],
    )
    sketched = moved.filter((pl.col("group") == "all") & (pl.col("error") > 0))
    errors = (
        alt.Chart(sketched)
        .mark_line(strokeDash=[4, 4], color="#8a8f98")
        .encode(x="step:Q", y="error:Q")
    )
    return _size(alt.layer(lines, errors), title=f"Drift of the kernel ({_kind(table)})")


def kernel_spectrum(table: pl.DataFrame) -> Chart:
    """Draw the largest eigenvalues of the kernel of all parameters at each checkpoint."""
    whole = table.filter(pl.col("group") == "all").select(
        "checkpoint", "eigenvalues", number=pl.lit(list(range(1, 11)))
    )
    long = whole.with_columns(pl.col("number").list.head(pl.col("eigenvalues").list.len()))
    # The axis is logarithmic.
    long = long.explode("eigenvalues", "number").filter(pl.col("eigenvalues") > 0)
    chart = (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=alt.X("number:O", title="eigenvalue", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("eigenvalues:Q", title=None, scale=alt.Scale(type="log")),
            color=alt.Color("checkpoint:O", sort=None, scale=_COLORS, legend=_legend(4)),
            tooltip=["checkpoint", "number", alt.Tooltip("eigenvalues", format=".4g")],
        )
    )
    return _size(chart, title=f"Spectrum of the kernel ({_kind(table)})")


def _kind(table: pl.DataFrame) -> str:
    return str(table["kind"][0])


def learning_curve(curves: pl.DataFrame, *, metric: str, against: str, title: str) -> Chart:
    """Draw `metric` of every arm over `against`: columns of `curves`, beside `arm` and `round`."""
    chart = (
        alt.Chart(curves)
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{against}:Q", title=title),
            y=alt.Y(f"{metric}:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False)),
            color=_arms(),
            tooltip=["arm", "round", alt.Tooltip(against), alt.Tooltip(metric, format=".4f")],
        )
    )
    return _size(chart, title=f"{metric.replace('_', ' ')} over {title}")


def over_steps(curves: pl.DataFrame, *, metric: str, title: str, name: str) -> Chart:
    """Draw `metric` of every arm over the optimizer step; `name` is that of the axis."""
    chart = (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y(f"{metric}:Q", title=name, scale=alt.Scale(zero=False)),
            color=_arms(),
            tooltip=["arm", "step", alt.Tooltip(metric, format=".4g")],
        )
    )
    return _size(chart, title=title)


def _arms() -> alt.Color:
    return alt.Color("arm:N", title=None, sort=None, scale=_CATEGORIES, legend=_legend(2))
