"""The errors a user can meet, and the exit code each one ends a command with.

The hierarchy. An error's text says what is wrong, which file or key, what was expected, and
what to do next.
"""

from typing import Self


class AttentError(Exception):
    """Root of every error that attent-select raises on purpose."""

    exit_code = 1


class InputError(AttentError, ValueError):
    """The configuration, an argument or the data is wrong; the user can change it."""

    exit_code = 2


class TooFewError(InputError):
    """Fewer samples are eligible than asked for: `eligible` of them."""

    def __init__(self, message: str, eligible: int = 0) -> None:
        super().__init__(message)
        self.eligible = eligible


class NoSpaceError(InputError, OSError):
    """A disk is full, or a limit on the size of files is reached; nothing was published."""

    __str__ = Exception.__str__


class MissingError(InputError, FileNotFoundError):
    """A file, shard, round or checkpoint that was named is not there."""

    # FileNotFoundError's own __str__ shows an errno; ours shows the message alone.
    __str__ = Exception.__str__

    def __new__(cls, *args: object) -> Self:
        """Dask makes a worker's error anew; the `__new__` that it would find is ValueError's."""
        return FileNotFoundError.__new__(cls, *args)


class ExistsError(InputError, FileExistsError):
    """The output is there already; nothing was overwritten."""

    __str__ = Exception.__str__

    def __new__(cls, *args: object) -> Self:
        """As for `MissingError`."""
        return FileExistsError.__new__(cls, *args)


class ClashError(InputError, ImportError):
    """Another package of the same name hides one of attent-select's, or one of them is missing."""


class MissingExtraError(InputError, ModuleNotFoundError):
    """A library of an optional extra is not installed."""


class CorpusMismatchError(InputError):
    """Losses, an index or a checkpoint were made from another corpus, or a shard has changed."""


class StorageError(AttentError, OSError):
    """Storage failed after its retries: unreachable, refused, or a short answer."""

    __str__ = Exception.__str__


class AccessDeniedError(StorageError):
    """Storage does not let us: credentials are missing, wrong, or may too little."""

    exit_code = 2


class ClusterError(AttentError, RuntimeError):
    """The Dask cluster was lost or cannot run the work. Running the command again goes on."""

    exit_code = 130


class SampleError(AttentError, ValueError):
    """One sample cannot be used. `status` is one of `schema.STATUSES`, never `ok`."""

    def __init__(self, message: str, *, status: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        # Crosses process borders on Dask: keyword-only arguments need telling.
        return _sample_error, (str(self), self.status)


def _sample_error(message: str, status: str) -> SampleError:
    return SampleError(message, status=status)
