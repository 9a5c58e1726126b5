"""A lease by conditional writes: one object, which a driver writes only as it last saw it.

Two drivers cannot both succeed, and nothing is listed. A store may ignore conditions or reject
them; `acquire` says so.
"""

from dataclasses import replace

from attent_select.errors import MissingError, StorageError
from catalogs import storage
from catalogs.layout import Layout
from catalogs.storage import ConditionalStorage, Version
from pipeline.runs.ticket import HOLDING, Ticket

# A version that no object has.
_NEVER: Version = {"e_tag": '"0"', "version": "0"}


class ConditionalLease:
    """The claim of `ticket` to `run`."""

    def __init__(self, run: str, ticket: Ticket, *, store: ConditionalStorage) -> None:
        self._run, self._mine, self._store = run, ticket, store
        self._url = Layout(run).lease
        # What this driver saw last; None: no object.
        self._version: Version | None = None

    def acquire(self) -> bool:
        """Take the lease; return False if the store does not honour conditions.

        Raises:
            ExistsError: another driver works on the run.
        """
        if not self._is_honoured():
            if self._version is not None:
                storage.delete(self._url)
                self._version = None
            return False
        if self._version is None:
            self.renew()
        return True

    def _is_honoured(self) -> bool:
        """Try to write a new object, and whether the store then refuses what it must refuse.

        An object that is there was written on a store that did.
        """
        try:
            return not self._write() or not any(
                self._store.write_if(self._url, self._mine.dump(), version=version)
                for version in (None, _NEVER)
            )
        except StorageError as error:
            if storage.is_transient(error):
                raise
            return False

    def renew(self) -> None:
        """Let it expire later; take over one that has expired.

        Raises:
            ExistsError: another driver works on the run.
        """
        while not self._write():
            self._look()

    def release(self) -> None:
        """Mark it as expired. Deleting could remove the claim of the next driver."""
        if self._version is not None:
            self._store.write_if(
                self._url, replace(self._mine, expires=0.0).dump(), version=self._version
            )

    def _write(self) -> bool:
        mine = self._mine.renew(HOLDING)
        version = self._store.write_if(self._url, mine.dump(), version=self._version)
        if version is None:
            return False
        self._mine, self._version = mine, version
        return True

    def _look(self) -> None:
        try:
            data, version = self._store.read_version(self._url)
        except MissingError:
            self._version = None
            return
        ticket = Ticket.parse(data, url=self._url)
        # Its own: the answer to an earlier write was lost.
        if ticket.name != self._mine.name and ticket.is_live():
            raise ticket.refusal(self._run)
        self._version = version
