"""The lease of a run: one driver works on a run at a time, others are refused.

A lease counts until it expires, unless its process is known to be dead (same machine and process
namespace). The clocks of machines that share a run must agree within seconds.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attent_select.errors import AttentError, ExistsError, StorageError
from catalogs import storage
from pipeline.runs.conditional_lease import ConditionalLease
from pipeline.runs.listed_lease import ListedLease
from pipeline.runs.ticket import Ticket

_log = logging.getLogger("attent.pipeline.runs.lease")

_RENEW_SECONDS = 15.0


@contextmanager
def hold_lease(run: str) -> Iterator[None]:
    """Hold the lease of `run` while the context lasts; only the first rank of a launcher needs it.

    A driver whose lease was taken over, because it was suspended or without storage for longer
    than a lease lasts, is interrupted.

    Raises:
        ExistsError: another driver works on the run. Also instead of an error that it may have
            caused, such as a file that it removed.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with _acquired(run) as lease, _blamed(lease), _renewed(lease, run=run):
        yield


@contextmanager
def _blamed(lease: ConditionalLease | ListedLease) -> Iterator[None]:
    try:
        yield
    except Exception:  # also of libraries that write into the run, and of our assertions
        with contextlib.suppress(StorageError):
            lease.renew()
        raise


@contextmanager
def _acquired(run: str) -> Iterator[ConditionalLease | ListedLease]:
    ticket, store = Ticket.of_this_process(), storage.conditional(run)
    with contextlib.ExitStack() as stack:
        if store is not None:
            conditional = ConditionalLease(run, ticket, store=store)
            stack.callback(_release, conditional)
            if conditional.acquire():
                yield conditional
                return
        listed = ListedLease(run, ticket)
        stack.callback(_release, listed)
        listed.acquire()
        yield listed


def _release(lease: ConditionalLease | ListedLease) -> None:
    with contextlib.suppress(AttentError):  # otherwise it expires
        lease.release()


@contextmanager
def _renewed(lease: ConditionalLease | ListedLease, *, run: str) -> Iterator[None]:
    ended = threading.Event()
    # Not a pool: one loop that runs for as long as the lease is held.
    thread = threading.Thread(
        target=_renew, args=(lease, run, ended), name="attent-lease", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _renew(lease: ConditionalLease | ListedLease, run: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEW_SECONDS):
        try:
            lease.renew()
        except ExistsError as error:
            _log.warning(f"{error}; this one was away for too long, and ends")
            _interrupt_main_thread()
            return
        except AttentError as error:  # the next attempt may reach the storage again
            _log.warning(f"the lease of {run} could not be renewed: {error}")


def _interrupt_main_thread() -> None:
    """Send SIGINT, or SIGTERM if it is ignored, as in background jobs of a script."""
    is_handled = callable(signal.getsignal(signal.SIGINT))
    signum = signal.SIGINT if is_handled else signal.SIGTERM
    # Sent to the thread, so that it wakes from waiting at once.
    signal.pthread_kill(threading.main_thread().ident or 0, signum)
