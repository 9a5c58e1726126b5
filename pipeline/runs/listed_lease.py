"""A lease by listings and clocks, for stores without conditional writes.

Each driver has a ticket, a file in `RUN/drivers`. It publishes its ticket and then lists all
tickets, and a listing has everything published before it. If two drivers start at the same moment,
the one that sees the other's claim steps back.
"""

import threading

from attent_select.errors import MissingError
from catalogs import storage
from catalogs.layout import Layout, join
from pipeline.runs.ticket import HOLDING, WAITING, Ticket

_WAIT_SECONDS = 0.05


class ListedLease:
    """The claim of `ticket` to `run`."""

    def __init__(self, run: str, ticket: Ticket) -> None:
        self._run, self._folder, self._mine = run, Layout(run).drivers, ticket

    def acquire(self) -> None:
        """Publish a ticket; hold the lease once no other driver has one.

        A driver that publishes after this one has listed the tickets sees this ticket in its own
        listing, and waits or gives up.

        Raises:
            ExistsError: another driver works on the run.
        """
        self._publish(WAITING)
        while others := self._others():
            for other in others:
                if other.state == HOLDING or other.name < self._mine.name:
                    raise other.refusal(self._run)
            threading.Event().wait(_WAIT_SECONDS)  # until the others have seen this ticket
            self._publish(WAITING)
        self._publish(HOLDING)

    def renew(self) -> None:
        """Let it expire later.

        Raises:
            ExistsError: another driver has taken it over.
        """
        holders = [other for other in self._others() if other.state == HOLDING]
        if holders and (self._is_gone() or holders[0].name < self._mine.name):
            raise holders[0].refusal(self._run)
        self._publish(HOLDING)

    def release(self) -> None:
        """Delete the ticket."""
        storage.delete(self._url(self._mine.name))

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
        self._mine = self._mine.renew(state)
        storage.publish(self._url(self._mine.name), self._mine.dump())

    def _url(self, name: str) -> str:
        return join(self._folder, f"{name}.json")


def _read(url: str) -> Ticket | None:
    try:
        return Ticket.parse(storage.read(url), url=url)
    except MissingError:  # released meanwhile
        return None
