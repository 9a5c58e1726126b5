"""Curves of a run by optimizer step: training loss and learning rate."""

from typing import Final

import polars as pl

from attent_select import schema
from catalogs import LossCatalog, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.training.round_notes import LEARNING_RATES

# A line of more points is not smoother on a screen.
_POINTS: Final = 400


def training_losses(run: str, *, round_number: int | None = None) -> pl.DataFrame:
    """Return `step` (the first of up to 400 equal ranges) and `loss`: the mean over its samples.

    Of a round, or of all rounds. These are the losses that were observed in training; a run whose
    observed losses were deleted has none.
    """
    layout = Layout(run)
    folder = layout.all_observed if round_number is None else layout.observed(round_number)
    if not storage.list_objects(folder):
        return pl.DataFrame(schema={"step": pl.UInt64, "loss": pl.Float64})
    observed, step = LossCatalog(run).observed_losses(round_number), pl.col("step")
    ends = observed.select(step.min().alias("first"), step.max().alias("last"))
    first, last = ends.collect(engine="streaming").row(0)
    stride = -(-(last - first + 1) // _POINTS)
    means = observed.group_by((first + (step - first) // stride * stride).alias("step")).agg(
        pl.col(schema.LOSS).cast(pl.Float64).mean().alias("loss")
    )
    return means.sort("step").collect(engine="streaming")


def learning_rates(run: str, *, round_number: int | None = None) -> pl.DataFrame:
    """Return `step` and `learning_rate`, up to 400 points that finished rounds recorded.

    Of a round, or of all rounds.
    """
    numbers = metrics.table(run)["round"].to_list() if round_number is None else [round_number]
    points = [
        point
        for number in numbers
        for point in metrics.read_notes(run, number).get(LEARNING_RATES, [])
    ]
    kinds = {"step": pl.UInt64, "learning_rate": pl.Float64}
    table = pl.DataFrame(points, schema=kinds, orient="row")
    return table.gather_every(max(1, len(table) // _POINTS))
