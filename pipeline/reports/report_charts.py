"""Charts of a report in groups, each with a caption that says how to read it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import altair as alt
import polars as pl

from pipeline import charts
from pipeline.antk.drift_table import drift_table
from pipeline.config.sections import RunConfig
from pipeline.reports import step_curves, text_tables
from pipeline.reports.annotation_tables import (
    AnnotatedRows,
    distributions,
    last_part_round,
    loss_distributions,
)
from pipeline.reports.html_parts import Table
from pipeline.reports.report_tables import coverage, loss_histograms, overlaps

_LOSSES = (
    "A line is the distribution of the newest losses when a round was scored; the area is the "
    "whole corpus. A line further to the left: the model has learned more of the corpus."
)
_RATIO = (
    "A bar is the share of the corpus that a round trained on; the line is the share that some "
    "round has trained on so far. A flat line: rounds repeat the same samples."
)
_OVERLAP = (
    "A square compares the samples of two rounds: 100 % are the same samples, 0 % have none in "
    "common. Bright squares beside the diagonal: the selection hardly changes."
)
_SECONDS = (
    "The height of a bar is the time of a round. Scoring and selection are what choosing samples "
    "costs; evaluation is not part of the cost."
)
_DRIFT = (
    "The change of the kernel since the previous checkpoint, relative to its size. A falling line: "
    "training settles. Below the dashed line the drift is not resolved."
)
_SPECTRUM = (
    "The largest eigenvalues at each checkpoint. A steep fall: the model moves in few directions."
)
_STEPS = (
    "The mean loss of the samples of up to 400 ranges of steps. After a new selection the loss may "
    "rise: the samples of the round are harder, not the model worse."
)
_RATES = (
    "The learning rate of the optimizer, as it was used. Rounds that were resumed may lack steps."
)


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite chart with its caption; `number` is its place in the report."""

    number: int
    spec: dict[str, Any]
    caption: str

    @property
    def title(self) -> str:
        """The chart's title, whole."""
        return str(self.spec["title"]["text"])

    @property
    def file_name(self) -> str:
        """The name of its file, without a suffix."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:40].strip("-")
        return f"{self.number:02d}-{words or 'chart'}"


@dataclass
class Group:
    """Charts and tables about one question."""

    title: str
    intro: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


_Pair = tuple[charts.Chart, str]


def chart_groups(
    config: RunConfig,
    *,
    tables: Mapping[str, pl.DataFrame],
    runs: Mapping[str, str],
    annotated: AnnotatedRows | None,
) -> list[Group]:
    """Return the groups of a report in order. The first of `tables` and `runs` is this run."""
    run, own = config.run, next(iter(tables.values()))
    selected = Group(
        "Selected against the corpus",
        "Of the last round that selected a part of the corpus; from up to 200,000 random samples "
        "of it.",
    )
    drawn = [
        (Group("Learning"), _learning(tables)),
        (Group("Training, step by step"), _training(runs)),
        (Group("Rounds", tables=list(text_tables.decision_tables(run))), _rounds(run)),
        (selected, _shares(config, annotated, selected.tables)),
        (Group("Cost", tables=[text_tables.cost_by_round(run, own)]), _cost(own)),
        (Group("The kernel"), _kernel(run)),
    ]
    # Altair refuses more than 5,000 rows by default; a chart over many rounds has more.
    with alt.data_transformers.enable("default", max_rows=None):
        numbers = count()
        for group, pairs in drawn:
            for chart, caption in pairs:
                group.figures.append(Figure(next(numbers), chart.to_dict(), caption))
    return [group for group, _ in drawn]


def _learning(tables: Mapping[str, pl.DataFrame]) -> Iterator[_Pair]:
    curves = pl.concat(
        [_with_totals(table).with_columns(arm=pl.lit(name)) for name, table in tables.items()],
        how="diagonal",
    )
    for metric in text_tables.qualities(curves):
        better = "Higher" if metric == "accuracy" else "Lower"
        for against, title in (("samples_so_far", "samples seen"), ("seconds_so_far", "seconds")):
            caption = (
                f"A point is the end of a round. {better} is better; of two points at the same "
                f"height, the one further to the left needed fewer {title.split()[0]}."
            )
            chart = charts.learning_curve(curves, metric=metric, against=against, title=title)
            yield chart, caption


def _training(runs: Mapping[str, str]) -> Iterator[_Pair]:
    losses = {name: step_curves.training_losses(url) for name, url in runs.items()}
    if (curves := _by_arm(losses)) is not None:
        title = "Training loss by step"
        yield charts.over_steps(curves, metric="loss", title=title, name="loss (nats)"), _STEPS
    rates = {name: step_curves.learning_rates(url) for name, url in runs.items()}
    if (curves := _by_arm(rates)) is not None:
        title, name = "Learning rate by step", "learning rate"
        yield charts.over_steps(curves, metric="learning_rate", title=title, name=name), _RATES


def _by_arm(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame | None:
    shown = [table.with_columns(arm=pl.lit(name)) for name, table in tables.items() if len(table)]
    return pl.concat(shown) if shown else None


def _rounds(run: str) -> Iterator[_Pair]:
    histograms = loss_histograms(run)
    if len(histograms):
        yield charts.loss_distribution(histograms), _LOSSES
    yield charts.ratio_and_coverage(coverage(run)), _RATIO
    yield charts.overlap_between_rounds(overlaps(run)), _OVERLAP


def _shares(
    config: RunConfig, annotated: AnnotatedRows | None, shares: list[Table]
) -> Iterator[_Pair]:
    """Yield a chart of the losses, of the strata and of each annotation.

    Tables of their categories are appended to `shares`.
    """
    number = last_part_round(config.run)
    if number is None:
        return
    of_annotations = [] if annotated is None else list(distributions(annotated))
    by = config.selection.composition.by
    by = None if by in dict(of_annotations) else by
    for name, table in [*loss_distributions(config.run, number, by=by), *of_annotations]:
        caption = (
            f"The share of samples by {name}. Where the selection lies above the corpus, it has "
            "more of these samples than a random subset."
        )
        yield charts.annotation_distribution(table, name=name, round_number=number), caption
        if (of_values := text_tables.shares(name, table)) is not None:
            shares.append(of_values)


def _cost(table: pl.DataFrame) -> Iterator[_Pair]:
    yield charts.seconds_per_stage(_stages(table)), _SECONDS


def _kernel(run: str) -> Iterator[_Pair]:
    for _, of_kind in drift_table(run).group_by("kind", maintain_order=True):
        yield charts.kernel_drift(of_kind), _DRIFT
        yield charts.kernel_spectrum(of_kind), _SPECTRUM


def _with_totals(table: pl.DataFrame) -> pl.DataFrame:
    stages = [pl.col(name) for name in text_tables.stage_columns(table, stages=text_tables.COSTS)]
    return table.with_columns(
        samples_so_far=pl.col("samples_seen").cum_sum(),
        seconds_so_far=pl.sum_horizontal(stages).cum_sum(),
    )


def _stages(table: pl.DataFrame) -> pl.DataFrame:
    columns = text_tables.stage_columns(table, stages=text_tables.STAGES)
    long = table.unpivot(columns, index="round", variable_name="stage")
    return long.select(
        "round", pl.col("stage").str.strip_suffix("_seconds"), pl.col("value").alias("seconds")
    )
