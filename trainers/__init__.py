"""Everything with a tensor: tasks, the stream, scoring rows, one `fit` per round."""

from typing import TYPE_CHECKING, Any

from attent_select.extras import missing_extras_named
from attent_select.siblings import check_siblings

if TYPE_CHECKING:
    from trainers.fitting import fit
    from trainers.streaming.stream import TeachingStream

__all__ = ["TeachingStream", "fit"]

check_siblings(__file__, "catalogs", "attent_select")


def __getattr__(name: str) -> Any:
    """Import torch only where it is used: settings and stored checkpoints do without it."""
    with missing_extras_named():
        if name == "fit":
            from trainers.fitting import fit

            return fit
        if name == "TeachingStream":
            from trainers.streaming.stream import TeachingStream

            return TeachingStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
