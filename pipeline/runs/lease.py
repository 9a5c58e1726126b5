"""One driver per run: who works on a run holds its lease, and others are refused.

Tickets under `RUN/drivers`, one file per driver. No storage needs to know conditional writes: a
driver publishes its ticket, then lists what is there (which every storage answers with all that
was published before). Of two that come at the same moment the one that sees the other's claim
steps back.

A ticket counts until its time is over, unless its process is known to be dead: on this machine,
in this process namespace. The clocks of machines that share a run must agree to some seconds.
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
_LOOK_SECONDS = 0.05
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
        """Whether its driver may still be at work."""
        if self.expires < time():
            return False
        here = (self.host, self.namespace) == (platform.node(), _namespace())
        return not here or _is_running(self.pid)


@contextmanager
def held(run: str) -> Iterator[None]:
    """Holds the lease of `run` while it lasts. Ranks of a training other than the first need none.

    A driver that finds that its lease was taken over (it was asleep, or without storage, for more
    than `TTL_SECONDS`) is interrupted.

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
        with contextlib.suppress(AttentError):  # else it ends by itself
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
        """Publish a ticket; hold the lease when nobody else has one, or those that have step back.

        Whoever publishes after we have looked sees our ticket when he looks, and waits or goes.
        """
        self._publish(_WAITING)
        try:
            while others := self._others():
                for other in others:
                    if other.state == _HOLDING or other.name < self._mine.name:
                        raise self._refused(other)
                threading.Event().wait(_LOOK_SECONDS)  # until the others have seen us
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
                        f"{self._refused(holders[0])}; this one was away for too long, and ends"
                    )
                    # To the thread itself: it wakes where it waits, at once.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                self._publish(_HOLDING)
            except AttentError as error:  # the next attempt may reach the storage again
                _log.warning(f"the lease of {self._run} could not be renewed: {error}")

    def _is_gone(self) -> bool:
        """Whether another driver took this one for dead."""
        return storage.info(self._url(self._mine.name)) is None

    def _others(self) -> list[Ticket]:
        """The live tickets of others; those that are over are removed on the way."""
        found = []
        for item in storage.list_objects(self._folder):
            ticket = _read(item.url)
            if ticket is None or ticket.name == self._mine.name:
                continue
            if ticket.is_live():
                found.append(ticket)
            else:
                storage.delete(item.url)
        return found

    def _publish(self, state: str) -> None:
        self._mine = replace(self._mine, state=state, expires=time() + TTL_SECONDS)
        storage.publish(self._url(self._mine.name), json.dumps(asdict(self._mine)).encode())

    def _url(self, name: str) -> str:
        return join(self._folder, f"{name}.json")

    def _refused(self, other: Ticket) -> ExistsError:
        left = max(0.0, other.expires - time())
        return ExistsError(
            f"{self._run}: process {other.pid} on {other.host} works on this run. Wait until it is "
            f"done, or end it; if it is dead already, its lease ends in {left:.0f} s: run the "
            "command again then"
        )


def _read(url: str) -> Ticket | None:
    try:
        return Ticket(**json.loads(storage.read(url)))
    except MissingError:  # released meanwhile
        return None
    except (ValueError, TypeError) as error:
        raise ExistsError(
            f"{url} is no ticket of this version of attent-select ({error}): delete it if nothing "
            "works on the run"
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
    """Tells containers apart that have the same host name; empty where there are none."""
    link = Path("/proc/self/ns/pid")
    return str(link.readlink()) if link.is_symlink() else ""
