"""The configuration: its sections, reading it, and what is wrong with it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.run_config import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import what reads configurations only where it is used: `attent --help` must be quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.config import run_config

    return getattr(run_config, name)
