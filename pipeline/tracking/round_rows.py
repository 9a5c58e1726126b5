"""The numbers of a finished round that trackers are sent, from what the run stores.

Curves of training are rows of their steps. What a round selected and scored stands at its first
step, what came of it at its last.
"""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import polars as pl

from catalogs import IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import metrics
from pipeline.config.run_config import load_frozen
from pipeline.reports import step_curves
from pipeline.reports.annotation_tables import AnnotatedRows, selected_shares
from pipeline.reports.query import selected_rounds
from pipeline.reports.report_tables import loss_distribution, overlaps
from pipeline.reports.text_tables import COSTS
from pipeline.tracking.tracker import TrackedRound
from pipeline.training.round_notes import FINISHED

# Groups of the metrics of a round; all others are those of the evaluation.
_GROUPS: Final = {
    "train": ("train_loss", "units_per_second", "padding", "num_skipped"),
    "selection": ("ratio", "num_samples", "num_units"),
    "scoring": ("samples_scored", "score_rank_correlation", "score_cost_share"),
    "cost": (
        *(f"{stage}_seconds" for stage in (*COSTS, "evaluate", "blocked")),
        *("samples_seen", "units_seen", "num_steps"),
        *("bytes_read", "bytes_cached", "bytes_selected", "num_requests"),
    ),
}
_GROUP_OF: Final = {name: group for group, names in _GROUPS.items() for name in names}
_QUANTILES: Final = (5, 25, 50, 75, 95)
# Sums of many floats differ in their last bits from call to call; a round has the same numbers.
_DIGITS: Final = 7
# Not every tracker takes them in a name.
_OTHER_CHARACTERS: Final = re.compile(r"[^\w.-]+")

_Numbers = Iterator[tuple[str, float | None]]


def tracked_round(run: str, number: int) -> TrackedRound:
    """Return a finished round with its rows."""
    finished = metrics.table(run).filter(pl.col("round") <= number)
    steps = finished["num_steps"].cast(pl.Int64)
    end, first = int(steps.sum()), int(steps.sum()) - int(steps[-1])
    rows: dict[int, dict[str, float]] = {}
    for step, name, value in (
        *_curves(run, number),
        *((first, name, value) for name, value in _selection(run, number)),
        *((first, name, value) for name, value in _scoring(run, number)),
        *((max(first, end - 1), name, value) for name, value in _results(finished)),
    ):
        if value is not None and math.isfinite(value):
            rows.setdefault(step, {})[name] = float(f"{value:.{_DIGITS}g}")
    return TrackedRound(number, _time_of(run, number), dict(sorted(rows.items())))


def _time_of(run: str, number: int) -> datetime:
    written = metrics.read_notes(run, number).get(FINISHED)
    return datetime.now(UTC) if written is None else datetime.fromisoformat(written)


def _curves(run: str, number: int) -> Iterator[tuple[int, str, float]]:
    curves = {
        "train/loss": step_curves.training_losses(run, round_number=number),
        "train/learning_rate": step_curves.learning_rates(run, round_number=number),
    }
    for name, table in curves.items():
        yield from ((step, name, value) for step, value in table.iter_rows())


def _results(finished: pl.DataFrame) -> _Numbers:
    """Yield the metrics of the last of these rounds, and the cost of all of them."""
    for name, value in finished.drop("round").row(-1, named=True).items():
        yield f"{_GROUP_OF.get(name, 'eval')}/{name}", value
    costs = [f"{stage}_seconds" for stage in COSTS]
    known = [float(finished[name].sum()) for name in costs if name in finished.columns]
    yield "cost/total_seconds", sum(known)
    yield "cost/total_samples", float(finished["samples_seen"].sum())


def _selection(run: str, number: int) -> _Numbers:
    selected = selected_rounds(run)
    if number not in selected:
        return
    index = IndexFile.open(Layout(run).index(number))
    yield "selection/threshold", index.provenance.get("threshold")
    if number - 1 in selected:
        pairs = overlaps(run, among=[number - 1, number])
        between = pairs.filter(first=number - 1, second=number)["overlap"].to_list()
        yield "selection/overlap_with_round_before", next(iter(between), None)
    by = load_frozen(run).selection.composition.by
    if (annotated := AnnotatedRows.of(run, round_number=number)) is not None:
        for name, value, share in selected_shares(annotated, by=by):
            yield f"selection/share/{name}/{_OTHER_CHARACTERS.sub('_', value)[:80]}", share


def _scoring(run: str, number: int) -> _Numbers:
    table = metrics.scoring_table(run).filter(round=number).drop("round")
    if len(table):
        yield from ((f"scoring/{name}", value) for name, value in table.row(0, named=True).items())
    catalog = LossCatalog(run)
    if number in catalog.rounds():
        losses = catalog.latest(number)
    elif number in pools.pool_rounds(run):
        losses = pools.pool_losses(catalog, number).frame()
    else:
        return
    distribution = loss_distribution(losses)
    if distribution.num_samples:
        for percent in _QUANTILES:
            yield f"scoring/loss_p{percent:02d}", distribution.quantile(percent / 100)
