"""The lease of a run: one driver works on a run at a time, others are refused.

Each driver has a ticket, a file in `RUN/drivers`. Conditional writes are not needed: a driver
publishes its ticket and then lists all tickets, and a listing has everything published before it.
If two drivers start at the same moment, the one that sees the other's claim steps back.

A ticket counts until it expires, unless its process is known to be dead (same machine and process
namespace). The clocks of machines that share a run must agree within seconds.
"""

import contextlib
import json
import logging
import os
import platform
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import time

from attent_select.errors import AttentError, ExistsError, MissingError
from catalogs import storage
from catalogs.layout import Layout, join

_log = logging.getLogger("attent.pipeline.runs.lease")

TTL_SECONDS = 60.0
_RENEW_SECONDS = 15.0
_WAIT_SECONDS = 0.05
_WAITING, _HOLDING = "waiting", "holding"


@dataclass(frozen=True)
class Ticket:
    """One driver's claim. `expires` is in seconds since 1970."""

    name: str
    state: str
    host: str
    pid: int
    namespace: str
    expires: float

    def is_live(self) -> bool:
        """Whether its driver may still be running."""
        if self.expires < time():
            return False
        here = (self.host, self.namespace) == (platform.node(), _namespace())
        return not here or _is_running(self.pid)


@contextmanager
def hold_lease(run: str) -> Iterator[None]:
    """Hold the lease of `run` while the context lasts; only the first rank of a launcher needs it.

    A driver whose lease was taken over, because it was suspended or without storage for more than
    `TTL_SECONDS`, is interrupted.

    Raises:
        ExistsError: another driver works on the run.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lease = _Lease(run)
    lease.acquire()
    try:
        with lease.renewed():
            yield
    finally:
        with contextlib.suppress(AttentError):  # otherwise it expires
            lease.release()


class _Lease:
    def __init__(self, run: str) -> None:
        self._run, self._folder = run, Layout(run).drivers
        self._mine = Ticket(
            name=uuid.uuid4().hex,
            state=_WAITING,
            host=platform.node(),
            pid=os.getpid(),
            namespace=_namespace(),
            expires=0.0,
        )

    def acquire(self) -> None:
        """Publish a ticket; hold the lease once no other driver has one.

        A driver that publishes after this one has listed the tickets sees this ticket in its own
        listing, and waits or gives up.
        """
        self._publish(_WAITING)
        try:
            while others := self._others():
                for other in others:
                    if other.state == _HOLDING or other.name < self._mine.name:
                        raise self._refusal(other)
                threading.Event().wait(_WAIT_SECONDS)  # until the others have seen this ticket
                self._publish(_WAITING)
            self._publish(_HOLDING)
        except BaseException:
            self.release()
            raise

    @contextmanager
    def renewed(self) -> Iterator[None]:
        ended = threading.Event()
        # Not a pool: one loop that runs for as long as the lease is held.
        thread = threading.Thread(
            target=self._renew, args=(ended,), name="attent-lease", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self) -> None:
        storage.delete(self._url(self._mine.name))

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(_RENEW_SECONDS):
            try:
                holders = [other for other in self._others() if other.state == _HOLDING]
                if holders and (self._is_gone() or holders[0].name < self._mine.name):
                    _log.warning(
                        f"{self._refusal(holders[0])}; this one was away for too long, and ends"
                    )
                    _interrupt_main_thread()
                    return
                self._publish(_HOLDING)
            except AttentError as error:  # the next attempt may reach the storage again
                _log.warning(f"the lease of {self._run} could not be renewed: {error}")

    def _is_gone(self) -> bool:
        """Whether another driver removed this one's ticket as expired."""
        return storage.info(self._url(self._mine.name)) is None

    def _others(self) -> list[Ticket]:
        """Return the live tickets of other drivers; delete expired ones."""
        live = []
        for item in storage.list_objects(self._folder):
            ticket = _read(item.url)
            if ticket is None or ticket.name == self._mine.name:
                continue
            if ticket.is_live():
                live.append(ticket)
            else:
                storage.delete(item.url)
        return live

    def _publish(self, state: str) -> None:
        self._mine = replace(self._mine, state=state, expires=time() + TTL_SECONDS)
        storage.publish(self._url(self._mine.name), json.dumps(asdict(self._mine)).encode())

    def _url(self, name: str) -> str:
        return join(self._folder, f"{name}.json")

    def _refusal(self, other: Ticket) -> ExistsError:
        left = max(0.0, other.expires - time())
        return ExistsError(
            f"{self._run}: process {other.pid} on {other.host} works on this run. Wait until it "
            f"ends, or end it. If it is dead, its lease expires in {left:.0f} s: run the command "
            "again then"
        )


def _interrupt_main_thread() -> None:
    """Send SIGINT, or SIGTERM if it is ignored, as in background jobs of a script."""
    is_handled = callable(signal.getsignal(signal.SIGINT))
    signum = signal.SIGINT if is_handled else signal.SIGTERM
    # Sent to the thread, so that it wakes from waiting at once.
    signal.pthread_kill(threading.main_thread().ident or 0, signum)


def _read(url: str) -> Ticket | None:
    try:
        return Ticket(**json.loads(storage.read(url)))
    except MissingError:  # released meanwhile
        return None
    except (ValueError, TypeError) as error:
        raise ExistsError(
            f"{url} is not a ticket of this version of attent-select ({error}): delete it if no "
            "driver works on the run"
        ) from error


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _namespace() -> str:
    """Return the process namespace, which differs between containers with the same host name."""
    link = Path("/proc/self/ns/pid")
    return str(link.readlink()) if link.is_symlink() else ""
