"""Errors that users can meet, and the exit code of a command that ends with each.

An error message says what is wrong, which file or key, what was expected, and what to do next.
"""

from typing import Self


class AttentError(Exception):
    """Root of every error that attent-select raises on purpose."""

    exit_code = 1


class InputError(AttentError, ValueError):
    """The configuration, an argument or the data is wrong; the user can change it."""

    exit_code = 2


class TooFewError(InputError):
    """Fewer samples are eligible than were requested. `eligible` is their number."""

    def __init__(self, message: str, eligible: int = 0) -> None:
        super().__init__(message)
        self.eligible = eligible


class NoSpaceError(InputError, OSError):
    """A disk is full, or a file size limit is reached; nothing was published."""

    __str__ = Exception.__str__


class MissingError(InputError, FileNotFoundError):
    """A file, shard, round or checkpoint does not exist."""

    # FileNotFoundError.__str__ shows an errno; ours shows only the message.
    __str__ = Exception.__str__

    def __new__(cls, *args: object) -> Self:
        """Create the error as OSError does: unpickling on Dask would use ValueError's `__new__`."""
        return FileNotFoundError.__new__(cls, *args)


class ExistsError(InputError, FileExistsError):
    """The output exists already; nothing was overwritten."""

    __str__ = Exception.__str__

    def __new__(cls, *args: object) -> Self:
        """See `MissingError`."""
        return FileExistsError.__new__(cls, *args)


class ClashError(InputError, ImportError):
    """Another package of the same name hides one of attent-select's, or one of them is missing."""


class MissingExtraError(InputError, ModuleNotFoundError):
    """A library of an optional extra is not installed."""


class CorpusMismatchError(InputError):
    """Losses, an index or a checkpoint belong to another corpus, or a shard has changed."""


class StorageError(AttentError, OSError):
    """Storage failed after all retries: unreachable, access denied, or a truncated response."""

    __str__ = Exception.__str__


class AccessDeniedError(StorageError):
    """Access denied: the credentials are missing, invalid, or lack permission."""

    exit_code = 2


class ClusterError(AttentError, RuntimeError):
    """The Dask cluster was lost or cannot run the work. Run the command again to resume."""

    exit_code = 130


class SampleError(AttentError, ValueError):
    """One sample cannot be used. `status` is one of `schema.STATUSES`, never `ok`."""

    def __init__(self, message: str, *, status: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are pickled between Dask processes, which does not support keyword-only arguments.
        return _sample_error, (str(self), self.status)


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library in Rust (polars, obstore): not an `Exception`."""
    return type(error).__name__ == "PanicException"


def _sample_error(message: str, status: str) -> SampleError:
    return SampleError(message, status=status)
