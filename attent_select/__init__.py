"""Data selection for training: strategies, round schedules, and the exact top-m engine.

Pure: nothing in this package opens a file or reads a clock. Losses come in as a polars LazyFrame,
the teaching subset goes out as one.

    from attent_select import select
    from attent_select.strategies.soft import Soft

    selection = select(losses, strategy=Soft(temperature=0.5), ratio=0.2)
    selection.rows.collect()  # shard_id, row, weight, probability

Strategies are in `attent_select.strategies`, one per file; `attent_select.testing` has the
conformance suite for new ones.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attent_select.schedule.rescoring import Rescore
    from attent_select.schedule.rounds import (
        Ratio,
        Round,
        Schedule,
        SelectionInterval,
        plan_rounds,
    )
    from attent_select.selection.composition import Composition
    from attent_select.selection.select import Preview, Selection, num_samples_of, select
    from attent_select.strategy import Candidates, Cutoff, Strategy

# The only place where the version is written; pyproject.toml reads it from here.
__version__ = "0.1.0"

# Libraries do not print: the application configures logging.
logging.getLogger("attent").addHandler(logging.NullHandler())

__all__ = [
    "Candidates",
    "Composition",
    "Cutoff",
    "Preview",
    "Ratio",
    "Rescore",
    "Round",
    "Schedule",
    "Selection",
    "SelectionInterval",
    "Strategy",
    "__version__",
    "num_samples_of",
    "plan_rounds",
    "select",
]


# Imported on first use: `attent --help` and the errors need no polars.
_MODULES = {
    "Candidates": "attent_select.strategy",
    "Composition": "attent_select.selection.composition",
    "Cutoff": "attent_select.strategy",
    "Preview": "attent_select.selection.select",
    "Ratio": "attent_select.schedule.rounds",
    "Rescore": "attent_select.schedule.rescoring",
    "Round": "attent_select.schedule.rounds",
    "Schedule": "attent_select.schedule.rounds",
    "Selection": "attent_select.selection.select",
    "SelectionInterval": "attent_select.schedule.rounds",
    "Strategy": "attent_select.strategy",
    "num_samples_of": "attent_select.selection.select",
    "plan_rounds": "attent_select.schedule.rounds",
    "select": "attent_select.selection.select",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
