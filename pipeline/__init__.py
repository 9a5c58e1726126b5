"""The flow: configuration, scoring on Dask, rounds, report, command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.stages import run, score

__all__ = ["run", "score"]


def __getattr__(name: str) -> Any:
    """Imports Dask only for those who use it: `attent --help` must be quick."""
    if name in __all__:
        from pipeline import stages

        return getattr(stages, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
