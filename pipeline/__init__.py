"""The flow: configuration, scoring on Dask, rounds, report, command line."""

from typing import TYPE_CHECKING, Any

from attent_select.extras import missing_extras_named
from attent_select.siblings import check_siblings

if TYPE_CHECKING:
    from pipeline.stages import run, score

__all__ = ["run", "score"]

check_siblings(__file__, "trainers", "catalogs", "attent_select")


def __getattr__(name: str) -> Any:
    """Import Dask only where it is used: `attent --help` must be quick."""
    if name in __all__:
        with missing_extras_named():
            from pipeline import stages

        return getattr(stages, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
