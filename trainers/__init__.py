"""Everything with a tensor: tasks, the stream, scoring rows, one `fit` per round."""

# Not lazily: `trainers.fit` is a module too, and whoever imported it first would get that instead.
from trainers.fit import fit
from trainers.stream import TeachingStream

__all__ = ["TeachingStream", "fit"]
