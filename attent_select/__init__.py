"""The words and the decisions: schemas, errors, strategies, schedules, the exact top m.

Pure: nothing here opens a file or knows a clock. Losses come in as a polars LazyFrame and the
teaching subset goes out as one.
"""

from attent_select.schedule.rounds import Ratio, Round, Schedule, SelectionInterval, plan_rounds
from attent_select.selection.composition import Composition
from attent_select.selection.select import Preview, Selection, num_samples_of, select

__all__ = [
    "Composition",
    "Preview",
    "Ratio",
    "Round",
    "Schedule",
    "Selection",
    "SelectionInterval",
    "num_samples_of",
    "plan_rounds",
    "select",
]
