"""Everything with a tensor: tasks, the stream, scoring rows, one `fit` per round."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.fitting import fit
    from trainers.streaming.stream import TeachingStream

__all__ = ["TeachingStream", "fit"]


def __getattr__(name: str) -> Any:
    """Imports torch only for those who use it: settings and checkpoints at rest do without."""
    if name == "fit":
        from trainers.fitting import fit

        return fit
    if name == "TeachingStream":
        from trainers.streaming.stream import TeachingStream

        return TeachingStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
