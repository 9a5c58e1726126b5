"""Everything with a tensor: tasks, the stream of selected samples, scoring, training of one round.

    from trainers import OrderSettings, RankShare, TeachingStream, TrainingSettings, fit

    stream = TeachingStream(index, corpus, task, ...)  # a torch IterableDataset
    result = fit(stream, task=task, models=task.models(settings), ...)

Tasks are in `trainers.tasks`, one per file; `trainers.testing` has the conformance suite for new
ones. `trainers.antk` measures the attention neural tangent kernel. Importing `trainers` does not
import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attent_select import __version__
from attent_select.extras import missing_extras_named
from attent_select.siblings import check_siblings

if TYPE_CHECKING:
    from trainers.fitting import FitResult, fit
    from trainers.settings import OrderSettings, TrainingSettings
    from trainers.streaming.rank_share import RankShare
    from trainers.streaming.stream import TeachingStream
    from trainers.teacher import Teacher

__all__ = [
    "FitResult",
    "OrderSettings",
    "RankShare",
    "Teacher",
    "TeachingStream",
    "TrainingSettings",
    "__version__",
    "fit",
]

_MODULES = {
    "FitResult": "trainers.fitting",
    "OrderSettings": "trainers.settings",
    "RankShare": "trainers.streaming.rank_share",
    "Teacher": "trainers.teacher",
    "TeachingStream": "trainers.streaming.stream",
    "TrainingSettings": "trainers.settings",
    "fit": "trainers.fitting",
}

check_siblings(__file__, "catalogs", "attent_select")


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use: settings and checkpoints need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with missing_extras_named():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
