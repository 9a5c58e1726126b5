"""A lost cluster as an error that says how to resume."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import CancelledError

from attent_select.errors import ClusterError

RESUME = "finished work is kept; run the same command again to resume"


@contextlib.contextmanager
def lost_scheduler_named() -> Iterator[None]:
    """Turn the different failures of Dask's calls, when the scheduler ends, into one error.

    Raises:
        ClusterError: the connection to the scheduler was lost.
    """
    try:
        yield
    except (OSError, CancelledError) as error:
        raise ClusterError(f"the connection to the Dask scheduler was lost: {RESUME}") from error
