"""Everything with a tensor: tasks, the stream, scoring rows, one `fit` per round."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attent_select.extras import missing_extras_named
from attent_select.siblings import check_siblings

if TYPE_CHECKING:
    from trainers.fitting import fit
    from trainers.settings import OrderSettings
    from trainers.streaming.rank_share import RankShare
    from trainers.streaming.stream import TeachingStream

__all__ = ["OrderSettings", "RankShare", "TeachingStream", "fit"]

_MODULES = {
    "OrderSettings": "trainers.settings",
    "RankShare": "trainers.streaming.rank_share",
    "TeachingStream": "trainers.streaming.stream",
    "fit": "trainers.fitting",
}

check_siblings(__file__, "catalogs", "attent_select")


def __getattr__(name: str) -> Any:
    """Import torch only where it is used: settings and stored checkpoints do without it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with missing_extras_named():
        return getattr(import_module(_MODULES[name]), name)
