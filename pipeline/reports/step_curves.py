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


def training_losses(run: str) -> pl.DataFrame:
    """Return `step` (the first of up to 400 equal ranges) and `loss`: the mean over its samples.

    These are the losses that were observed in training; a run whose observed losses were deleted
    has none.
    """
    if not storage.list_objects(Layout(run).all_observed):
        return pl.DataFrame(schema={"step": pl.UInt64, "loss": pl.Float64})
    observed = LossCatalog(run).observed_losses()
    last = observed.select(pl.col("step").max()).collect(engine="streaming").item() or 0
    stride = -(-(last + 1) // _POINTS)
    means = observed.group_by(pl.col("step") // stride * stride).agg(
        pl.col(schema.LOSS).cast(pl.Float64).mean().alias("loss")
    )
    return means.sort("step").collect(engine="streaming")


def learning_rates(run: str) -> pl.DataFrame:
    """Return `step` and `learning_rate`, up to 400 points that the finished rounds recorded."""
    points = [
        point
        for number in metrics.table(run)["round"].to_list()
        for point in metrics.read_notes(run, number).get(LEARNING_RATES, [])
    ]
    kinds = {"step": pl.UInt64, "learning_rate": pl.Float64}
    table = pl.DataFrame(points, schema=kinds, orient="row")
    return table.gather_every(max(1, len(table) // _POINTS))
